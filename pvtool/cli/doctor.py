"""`pv doctor`: check this machine. Heavy libraries are imported in a separate process."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from pvtool.cli.options import Json
from pvtool.output import Output
from pvtool.tables import Table
from pvtool.terminal import probe
from pvtool_core.api.machine import versions
from pvtool_core.errors import NotReady, PvError
from pvtool_core.media.ffmpeg import ENCODERS
from pvtool_core.models.locate import HERE, weights_here
from pvtool_core.paths import cache_dir, config_dir, data_dir
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.jobs import EncodingConfig
from pvtool_core.settings.presets import Presets

app = typer.Typer(rich_markup_mode=None, add_completion=False)

_ASK_TORCH = """
import json, torch
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
gpus = [{"name": d.name, "memory_gib": round(d.total_memory / 2**30, 1)} for d in devices]
mps, threads = torch.backends.mps.is_available(), torch.get_num_threads()
print(json.dumps({"gpus": gpus, "mps": mps, "threads": threads}))
"""
_ASK_OPENCV = """
import json, cv2
print(json.dumps({"opencv": cv2.__version__}))
"""
_ASK_CODECS = """
import json, subprocess, sys, imageio_ffmpeg
path = imageio_ffmpeg.get_ffmpeg_exe()
asked = subprocess.run([path, "-hide_banner", "-encoders"], capture_output=True, check=True)
listed = asked.stdout.decode(errors="replace").split()
found = {name: encoder in listed for name, encoder in json.loads(sys.argv[1]).items()}
print(json.dumps({"ffmpeg": path, **found}))
"""


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check GPU, memory, disk, weights, codecs and terminal.

    The exit status is 4 if a requirement of the default preset is missing.
    """
    report = examine()
    rows = [
        [topic, key, _plain(value)]
        for topic, facts in report.items()
        for key, value in facts.items()
    ]
    Output(as_json).result(report, Table(["topic", "what", "found"], rows))
    if lacking := problems(report):
        raise NotReady(lacking, *cures(report))


def examine() -> dict[str, dict[str, Any]]:
    """Return all facts by topic."""
    return {
        "software": {
            "python": platform.python_version(),
            "system": platform.platform(),
            **versions(),
        },
        "compute": {**_ask(_ASK_TORCH), **_memory()},
        "disk": {name: _free(path()) for name, path in _FOLDERS.items()},
        "weights": weights(),
        "codecs": _ask(_ASK_CODECS, json.dumps(_encoders())),
        "pictures": _ask(_ASK_OPENCV),
        "terminal": terminal(),
    }


_FOLDERS = {"data": data_dir, "cache": cache_dir, "config": config_dir}


def problems(report: dict[str, dict[str, Any]]) -> list[str]:
    """Return the problems that prevent the default preset from running."""
    lacking = [topic for topic in ("compute", "codecs", "pictures") if "error" in report[topic]]
    return lacking + (
        ["weights of the tiny preset"] if report["weights"].get("tiny") != HERE else []
    )


def cures(report: dict[str, dict[str, Any]]) -> list[str]:
    """Return hints other than reinstalling pv."""
    if "libGL" in report["pictures"].get("error", ""):
        return ["Install the system package libgl1, which opencv needs (apt-get install libgl1)."]
    return []


def _encoders() -> dict[str, str]:
    """Return the encoder of ffmpeg that each output format needs with default settings."""
    names = [form.encoder.format(codec=EncodingConfig().codec) for form in FORMATS.values()]
    return {name: ENCODERS.get(name, name) for name in names if name}


def _ask(question: str, *arguments: str) -> dict[str, Any]:
    words = [sys.executable, "-P", "-c", question, *arguments]
    answer = subprocess.run(
        words, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if answer.returncode:
        return {"error": (answer.stderr.strip().splitlines() or ["no answer"])[-1]}
    return json.loads(answer.stdout)


def _memory() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    gib = {"memory_gib": memory.total / 2**30, "memory_free_gib": memory.available / 2**30}
    return {"cpus": os.cpu_count(), **{key: round(value, 1) for key, value in gib.items()}}


def _free(path: Path) -> str:
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    writable = "" if os.access(there, os.W_OK) else ", not writable"
    return f"{path} ({shutil.disk_usage(there).free / 2**30:.1f} GiB free{writable})"


def weights() -> dict[str, str]:
    """Return `here` for each preset, or the missing models and the download command."""
    presets = Presets()
    return {name: _weights_of(presets, name) for name in presets.names()}


def _weights_of(presets: Presets, name: str) -> str:
    try:
        return weights_here(presets.get(name).settings())
    except PvError as error:  # an invalid preset of the user must not hide the rest of the report
        return f"cannot be used: {error.message}"


def terminal() -> dict[str, Any]:
    """Return the terminal's capabilities for the dashboard.

    Late replies would reach the shell, so the timeout is long.
    """
    found = probe(timeout=4.0)
    width, height = found.cell
    return {
        "terminal": sys.stderr.isatty(),
        "TERM": os.environ.get("TERM", ""),
        "pictures": found.pictures.value,
        "colours": found.colours,
        "cell": f"{width} × {height} pixels",
        "tmux": found.tmux,
    }


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(" ".join(map(str, item.values())) for item in value) or "none"
    return str(value)
