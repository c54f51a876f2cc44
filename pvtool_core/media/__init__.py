"""Videos and images: encoding, decoding, metadata and contact sheets. Imports no torch."""
