"""The blind human study: its folder and page, the answers of raters, and their statistics."""
