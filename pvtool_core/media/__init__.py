"""Video and image files: formats, encoding, decoding, metadata and contact sheets. Imports no torch."""
