"""Follow runs and batches through their files."""
