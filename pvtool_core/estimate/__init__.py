"""Estimate the memory, work and time of a training run without its weights."""
