"""What to render: rows, plans, clip names, sidecars and batch folders. Imports no torch."""
