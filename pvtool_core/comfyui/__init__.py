"""ComfyUI: schedules and workflows with which an adapter is active in its own steps."""
