"""Textual dashboard: reads run folders, controls engines by request files, never imports torch."""
