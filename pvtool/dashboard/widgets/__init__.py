"""One file a region of a screen. Widgets know neither supervisor nor engine: they get values and send messages."""
