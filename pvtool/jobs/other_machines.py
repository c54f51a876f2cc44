"""Runs of other machines: their mounted data folders, and lists by ssh."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pvtool_core.errors import Missing, NotReady, Unreachable, UsageError, printable
from pvtool_core.paths import check_utf8
from pvtool_core.store.liveness import State
from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.summary import RunSummary
from pvtool_core.store.trend import Trend

_SSH_SECONDS = 60.0
_CONNECT_SECONDS = 10
_PLAIN_NAMES = frozenset({"data", "runs", "pv", "share", ".local", "home"})
_NO_NAME = re.compile(r"[^\w.@-]")
_SHOWN = 200
_NO_LIST = (
    "Expected the output of `pv runs list --json`. Is the same version of pv installed there?"
)


def runs_folders(words: Iterable[str]) -> dict[str, Path]:
    """Return the folders of runs in data folders, each written as DIR or NAME=DIR, by their names.

    The name is by default that of the folder, without `data` and `runs` at its end. Raises Missing.
    """
    found: dict[str, Path] = {}
    for word in words:
        label, equals, text = word.partition("=")
        is_named = bool(equals) and "/" not in label
        path = check_utf8(Path(text if is_named else word).expanduser().absolute())
        folder = path / "runs" if (path / "runs").is_dir() else path
        if path.name != "runs" and folder == path:
            raise Missing(
                "data folder", printable(path), "Use the folder that contains runs/ of a machine."
            )
        name = _NO_NAME.sub("-", (label if is_named else "") or _name_of(path))
        number = 2
        unique = name
        while unique in found:
            unique, number = f"{name}-{number}", number + 1
        found[unique] = folder
    return found


def _name_of(path: Path) -> str:
    names = [part for part in path.parts[1:] if part not in _PLAIN_NAMES]
    return names[-1] if names else path.name


def runs_in(folder: Path) -> list[RunSummary]:
    """Return the runs of a folder, oldest first."""
    return RunIndex(folder).facts()


def runs_on(host: str) -> list[RunSummary]:
    """Return the runs of another machine by ssh, oldest first.

    `host` is HOST or HOST:PV with the path of pv there. Raises UsageError, Unreachable.
    """
    name, _, program = host.partition(":")
    if not name or name.startswith("-") or not name.isprintable():
        raise UsageError(f"Invalid host {host!r}.", "Use USER@HOST, or USER@HOST:/path/to/pv.")
    command = f"{shlex.quote(program or 'pv')} runs list --json"
    options = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_SECONDS}", "-T")
    try:
        done = subprocess.run(
            ["ssh", *options, "--", name, command],  # noqa: S607 - the user's own ssh
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SSH_SECONDS,
        )
    except FileNotFoundError as error:
        raise NotReady(["ssh"], "Install an ssh client.") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(
            f"{name} did not answer within {_SSH_SECONDS:.0f} seconds.", "Try `ssh` by hand."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:_SHOWN].rstrip(".") if lines else f"status {done.returncode}"
        raise Unreachable(
            f"Cannot list the runs of {name}: {reason}.",
            "`ssh HOST pv --version` must work without a password; add the path of pv as "
            "HOST:/path/to/pv.",
        )
    return _parse(name, done.stdout)


def _parse(host: str, content: bytes) -> list[RunSummary]:
    """Return the runs in the output of `pv runs list --json`. Raises Unreachable."""
    try:
        rows = json.loads(content)["runs"]
        return [_summary(cast("Mapping[str, Any]", row)) for row in rows]
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise Unreachable(f"Unexpected answer of pv on {host}.", _NO_LIST) from error


def _summary(row: Mapping[str, Any]) -> RunSummary:
    """Return the run of a JSON object; keys of other versions are left out.

    Raises ValueError, TypeError, LookupError or ArithmeticError.
    """
    names = [name for name in row if f"{name}_trend" in row]
    losses = {
        name: None if row[name] is None else Trend(float(row[name]), str(row[f"{name}_trend"]))
        for name in names
    }
    texts: dict[str, Any] = {
        name: str(row.get(name, ""))
        for name in ("run", "identity", "preset", "started", "device", "note", "problem")
    }
    numbers: dict[str, Any] = {
        name: None if row.get(name) is None else float(row[name])
        for name in ("eta", "seconds_per_step", "likeness", "newest_likeness", "duration")
    }
    if texts["started"]:
        datetime.fromisoformat(texts["started"])
    return RunSummary(
        **texts,
        **numbers,
        state=State(row["state"]),
        step=int(row["step"]),
        iterations=int(row["iterations"]),
        best_step=None if row.get("best_step") is None else int(row["best_step"]),
        tags=tuple(map(str, row.get("tags", ()))),
        losses=losses,
    )
