"""Images in the terminal: decoding, half blocks, graphics protocols and playback."""
