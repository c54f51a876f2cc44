"""Measured times of rendering and scoring on this machine, for estimates of the next batch.

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
from pvtool_core.settings.schema import Settings


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


def scoring_seconds(settings: Settings) -> float | None:
    """Return the last measured seconds per clip of an evaluation with these models, or None."""
    try:
        return float(orjson.loads(_scoring_path(settings).read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_scoring(settings: Settings, seconds: float) -> None:
    """Store the measured seconds per clip of an evaluation."""
    path = _scoring_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"seconds": seconds}).encode())


def _scoring_path(settings: Settings) -> Path:
    model, judges = settings.model, asdict(settings.evaluation)
    facts = [judges, model.width, model.height, model.num_frames, model.device, model.threads]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache_dir() / "rates" / f"scoring-{key}.json"
