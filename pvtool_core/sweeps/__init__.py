"""Sweeps: grids of settings, identities and seeds, their cells and their tables. No torch."""
