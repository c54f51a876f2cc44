"""Plots in text: axes, series, rasterizing, painting and export."""
