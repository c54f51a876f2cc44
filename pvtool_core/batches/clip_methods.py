"""Names of methods for clips of one folder: what distinguishes them, such as `strength 0.5`.

Only settings that vary in the folder are named. Clips with an adapter are called `adapter` and
those of the base model `base` if nothing varies; an identity with several adapters has RUN@STEP in
the names of their methods.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pvtool_core.settings.jobs import ADAPTER_METHOD, BASE_METHOD

Record = Mapping[str, Any]
Parts = dict[str, str]


def methods_of(records: Mapping[Path, Record]) -> dict[Path, str]:
    """Return the method of each clip, by its sidecar and the sidecar's contents.

    Clips of the base model on which the adapters were trained, without further LoRAs, are `base`.
    """
    adapted = {path: record for path, record in records.items() if record["adapter"]}
    base = {path: record for path, record in records.items() if not record["adapter"]}
    trained_on = {record.get("adapter_base_fingerprint") for record in adapted.values()}
    return _adapted(adapted) | _base(base, trained_on)


def _adapted(records: Mapping[Path, Record]) -> dict[Path, str]:
    steps: defaultdict[str, set[str]] = defaultdict(set)
    for record in records.values():
        steps[record["identity"]].add(_adapter_of(record))
    parts: dict[Path, Parts] = {}
    for path, record in records.items():
        several = len(steps[record["identity"]]) > 1
        named = {"run": _adapter_of(record)} if several else {"run": ""}
        parts[path] = named | _starts_and_strength(record) | _model_parts(record)
    return {
        path: ", ".join(words) or ADAPTER_METHOD for path, words in _varying(parts, "run").items()
    }


def _base(records: Mapping[Path, Record], trained_on: set[Any]) -> dict[Path, str]:
    parts = {path: _model_parts(record) for path, record in records.items()}
    return {
        path: BASE_METHOD
        if _is_plain(records[path], trained_on)
        else ", ".join([BASE_METHOD, *words])
        for path, words in _varying(parts).items()
    }


def _is_plain(record: Record, trained_on: set[Any]) -> bool:
    model = _table(record.get("model"))
    return model.get("fingerprint") in trained_on and not model.get("loras")


def _varying(parts: Mapping[Path, Parts], always: str = "") -> dict[Path, list[str]]:
    """Return the parts that differ between clips, and `always`, without empty ones."""
    values: defaultdict[str, set[str]] = defaultdict(set)
    for each in parts.values():
        for key, value in each.items():
            values[key].add(value)
    named = {key for key, found in values.items() if len(found) > 1 or key == always}
    return {
        path: [value for key, value in each.items() if key in named and value]
        for path, each in parts.items()
    }


def _adapter_of(record: Record) -> str:
    return f"{record.get('run')}@{record.get('step')}"


def _starts_and_strength(record: Record) -> Parts:
    sigma = record.get("adapter_start_sigma")
    start = f"start sigma {sigma}" if sigma else f"start {record.get('adapter_start')}"
    return {"start": start, "strength": f"strength {record.get('strength', 1.0):g}"}


def _model_parts(record: Record) -> Parts:
    model, places = _table(record.get("model")), _table(record.get("places"))
    files = _names(places.get("loras"))
    weights = [each[1] for each in model.get("loras") or ()]
    loras = " + ".join(f"{name}:{weight:g}" for name, weight in zip(files, weights, strict=False))
    control = _table(places.get("control")).get("model") or ""
    return {
        "base model": f"on {PurePath(str(record.get('base_model'))).stem}",
        "LoRAs": loras,
        "ControlNet": f"ControlNet {PurePath(str(control)).name}" if control else "",
    }


def _names(files: Any) -> Sequence[str]:
    return [PurePath(str(file)).stem for file in files or ()]


def _table(value: Any) -> Record:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]
