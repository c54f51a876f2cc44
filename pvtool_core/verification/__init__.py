"""Verification of files: content credentials, metadata, watermark, and clips known here."""
