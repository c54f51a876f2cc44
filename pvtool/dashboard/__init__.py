"""The Textual dashboard: reads run folders, steers engines by their requests, and never imports torch."""
