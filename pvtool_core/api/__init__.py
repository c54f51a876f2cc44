"""The public functions: they prepare jobs, start engine processes, and return handles. No torch."""
