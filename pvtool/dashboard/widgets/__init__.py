"""One file a region of a screen. Widgets know neither the supervisor nor the engine: they get values and send messages."""
