"""How to render: leases, denoising, decoding, encoding and results."""
