"""Adapter files, read and written without torch: their layers, their effect, and their mean."""
