"""Images in the terminal: decoding, half blocks, the Kitty protocol and playback."""
