"""Rendering: leases, denoising, decoding, encoding and results."""
