"""Rows, plans, clip names, sidecars and batch folders: which clips to render. Imports no torch."""
