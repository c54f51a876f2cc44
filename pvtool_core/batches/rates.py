"""Measured rendering times on this machine, for estimates of the next batch.

<cache>/rates/KEY.json      one for each setup and device

"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from pvtool_core.batches.clips import Names
from pvtool_core.files import replace_file
from pvtool_core.paths import cache_dir
from pvtool_core.settings.jobs import Setup


@dataclass(frozen=True)
class Rate:
    """Seconds of denoising per clip; None if not measured.

    `switch` is for the prefix shared by prompt and seed, `tail` for the active steps.
    """

    switch: float | None
    tail: float | None


def estimate(setup: Setup) -> Rate | None:
    """Return the last measured rate of this setup, or an empty one."""
    try:
        known = orjson.loads(_path(setup).read_bytes())
        return Rate(known["switch"], known["tail"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


def note(setup: Setup, rate: Rate) -> None:
    """Store a measured rate; unmeasured parts keep their value."""
    before = estimate(setup) or rate
    switch = before.switch if rate.switch is None else rate.switch
    tail = before.tail if rate.tail is None else rate.tail
    path = _path(setup)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(asdict(Rate(switch, tail))).encode())


def _path(setup: Setup) -> Path:
    key = f"{Names(setup).setup_key} {setup.model.device} {setup.model.threads}"
    return cache_dir() / "rates" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
