"""Escapes control characters in text that people are shown. It imports nothing of pv, so that --help stays quick."""

import re

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: ESC and CSI among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the order in which a line is shown
    "\xad\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # invisible, or line ends
    "\ud800-\udfff\U000e0000-\U000e007f]"  # bytes of a name that is not UTF-8; invisible tags
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"  # joiners belong into emoji and some scripts
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def plain(text: str) -> str:
    """Return one line of text with every character escaped that a terminal would execute or that reorders the line."""
    return _CONTROLS.sub(_escape, text)


def plain_lines(text: str) -> str:
    """Return text of several lines, each of them as `plain` returns it; tabs become spaces."""
    return "\n".join(plain(line.expandtabs()) for line in text.split("\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded
        code -= 0xDC00
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _SHORT.get(found[0]) or (f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}")
