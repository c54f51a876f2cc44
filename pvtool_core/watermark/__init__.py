"""Invisible watermarks: the key of a clip in its pixels. Imports no torch."""
