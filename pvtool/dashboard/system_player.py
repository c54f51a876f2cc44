"""Open a clip in the system's player, where there is a display to show it on."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

from textual.widget import Widget

from pvtool.text import plain, shown
from pvtool_core.settings.formats import FORMATS

_SUFFIXES = {
    suffix for form in FORMATS.values() for suffix in (form.suffix, form.image_suffix) if suffix
}


async def open_in_player(widget: Widget, path: Path) -> None:
    """Open a clip, and say why if it cannot be opened.

    Only files of clips are opened: other files may be programs, and their paths come from the
    folder of a batch or a run.
    """
    try:
        problem = await asyncio.to_thread(_open, path)
    except (OSError, ValueError) as error:  # of a path that no file can have, too
        problem = f"Cannot open the clip: {error}."
    if problem:
        widget.notify(plain(str(path)), title=plain(problem), severity="warning", markup=False)
    else:
        widget.notify(shown(path), title="Opened in the system's player", markup=False)


def _open(path: Path) -> str:
    """Open a clip; return the problem, or ""."""
    images = sorted(path.glob("*.png"))[:1] if path.is_dir() else []
    file = images[0] if images else path
    if file.suffix.lower() not in _SUFFIXES or not file.is_file():
        return "This clip has no file to open."
    program = "open" if sys.platform == "darwin" else "xdg-open"
    if sys.platform != "darwin" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "No display here. Copy the path, and open the clip on another machine."
    if not (found := shutil.which(program)):
        return f"{program} is not installed."
    null = subprocess.DEVNULL
    command = [found, str(file.absolute())]
    subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    return ""
