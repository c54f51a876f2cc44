"""Copy text to the clipboard, with tmux inside tmux and with OSC 52 otherwise."""

import asyncio
import os
import shutil
from contextlib import suppress

from textual.widget import Widget

_TIMEOUT = 3.0


async def copy(widget: Widget, text: str) -> None:
    """Copy `text` and show it in a notification, which also allows selecting it by hand."""
    if "TMUX" in os.environ and await _load_into_tmux(text):
        widget.notify(
            text,
            title="Copied to the tmux buffer and, if it accepts it, the clipboard",
            markup=False,
        )
    elif _ignores_osc_52():
        widget.notify(
            text, title="This terminal has no clipboard access. Select the text", markup=False
        )
    else:
        widget.app.copy_to_clipboard(text)
        widget.notify(text, title="Sent to the terminal's clipboard (OSC 52)", markup=False)


async def _load_into_tmux(text: str) -> bool:
    """Load text into the tmux buffer and return whether tmux accepted it.

    `-w` also sends it to the terminal's clipboard.
    """
    tmux = shutil.which("tmux")
    if tmux is None:
        return False
    for options in (["-w"], []):  # tmux before 3.2 has no -w
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            tmux, "load-buffer", *options, "-", stdin=pipe, stdout=null, stderr=null
        )
        try:
            await asyncio.wait_for(process.communicate(text.encode()), _TIMEOUT)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return False
        if process.returncode == 0:
            return True
    return False


def _ignores_osc_52() -> bool:
    """Return whether the terminal is known to ignore OSC 52."""
    environ = os.environ
    return environ.get("TERM") == "linux" or environ.get("TERM_PROGRAM") == "Apple_Terminal"
