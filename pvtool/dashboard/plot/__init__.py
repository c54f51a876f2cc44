"""Text plots: axes, series, rasterizing, painting and export."""
