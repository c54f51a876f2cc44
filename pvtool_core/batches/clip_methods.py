"""Names of methods for clips of one folder: what distinguishes them, such as `strength 0.5`.

Only settings that vary in the folder are named. Clips with an adapter are called `adapter` and
those of the base model `base` if nothing varies; an identity with several adapters has RUN@STEP in
the names of their methods. Clips of an encoder method have its name.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pvtool_core.errors import InputRefused
from pvtool_core.settings.jobs import ADAPTER_METHOD, BASE_METHOD

Record = Mapping[str, Any]


class Part(NamedTuple):
    """One setting of a clip: the value that may vary, and its text in the name of a method."""

    value: Hashable
    text: str


Parts = dict[str, Part]
_LONGEST_NAME = 40


def methods_of(records: Mapping[Path, Record]) -> dict[Path, str]:
    """Return the method of each clip, by its sidecar and the sidecar's contents.

    Clips of the base model on which the adapters were trained, without LoRAs and ControlNet, are
    `base`. Raises InputRefused for a sidecar with values of a wrong type.
    """
    adapted, encoded, base = dict[Path, Parts](), dict[Path, Parts](), dict[Path, Parts]()
    trained_on: set[Hashable] = set()
    for path, record in records.items():
        try:
            if record["adapter"]:
                adapted[path] = _adapter_parts(record) | _model_parts(record)
                own = adapted[path]["base model"].value  # of sidecars of older versions
                trained_on.add(_text(record, "adapter_base_fingerprint") or own)
            elif record.get("reference"):
                encoded[path] = _encoder_parts(record) | _model_parts(record)
            else:
                base[path] = _model_parts(record)
        except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
            raise InputRefused(
                f"{path} is not a sidecar of pv.", "Remove it, or render the clip again."
            ) from error
    if not adapted:
        trained_on = {each["base model"].value for each in encoded.values()}
    return _adapted(adapted, records) | _encoded(encoded) | _base(base, trained_on)


def _adapted(parts: dict[Path, Parts], records: Mapping[Path, Record]) -> dict[Path, str]:
    steps: defaultdict[str, set[Hashable]] = defaultdict(set)
    for path, each in parts.items():
        steps[records[path]["identity"]].add(each["run"].value)
    for path, each in parts.items():
        if len(steps[records[path]["identity"]]) == 1:
            each["run"] = Part("", "")
    return {path: ", ".join(words) or ADAPTER_METHOD for path, words in _varying(parts).items()}


def _encoded(parts: Mapping[Path, Parts]) -> dict[Path, str]:
    """Return the methods of clips of encoder methods; settings are compared within each."""
    named: defaultdict[Hashable, dict[Path, Parts]] = defaultdict(dict)
    for path, each in parts.items():
        named[each["method"].value][path] = each
    return {
        path: ", ".join([str(method), *words])
        for method, clips in named.items()
        for path, words in _varying(clips).items()
    }


def _base(parts: Mapping[Path, Parts], trained_on: set[Hashable]) -> dict[Path, str]:
    def is_plain(each: Parts) -> bool:
        added = each["LoRAs"].text or each["ControlNet"].text
        return each["base model"].value in trained_on and not added

    return {
        path: BASE_METHOD if is_plain(parts[path]) else ", ".join([BASE_METHOD, *words])
        for path, words in _varying(parts).items()
    }


def _varying(parts: Mapping[Path, Parts]) -> dict[Path, list[str]]:
    """Return the texts of settings that differ between clips, without empty ones.

    Different values with equal texts are told apart by the first digits of a hash.
    """
    values: defaultdict[str, dict[Hashable, str]] = defaultdict(dict)
    for each in parts.values():
        for key, part in each.items():
            values[key].setdefault(part.value, part.text)
    return {
        path: [
            text
            for key, part in each.items()
            if len(values[key]) > 1 and (text := _unique(part.value, values[key]))
        ]
        for path, each in parts.items()
    }


def _unique(value: Hashable, texts: Mapping[Hashable, str]) -> str:
    text = texts[value]
    if list(texts.values()).count(text) == 1 or not text:
        return text
    return f"{text} ({hashlib.sha256(repr(value).encode()).hexdigest()[:4]})"


def _adapter_parts(record: Record) -> Parts:
    run, sigma = f"{record.get('run')}@{record.get('step')}", record.get("adapter_start_sigma")
    start = f"start sigma {sigma:g}" if sigma else f"start {record.get('adapter_start') or 0:g}"
    strength = f"strength {record.get('strength', 1.0):g}"
    return {
        "run": Part(run, run),
        "start": Part(start, start),
        "strength": Part(strength, strength),
    }


def _encoder_parts(record: Record) -> Parts:
    method = record["method"]
    name, scale = _text(method, "name"), f"scale {method.get('scale', 1.0):g}"
    weights = _text(method, "fingerprint")
    return {
        "method": Part(name, ""),
        "weights": Part(weights, f"weights {weights[:4]}"),
        "scale": Part(scale, scale),
    }


def _model_parts(record: Record) -> Parts:
    model, places = record.get("model") or {}, record.get("places") or {}
    names = [_name(file) for file in places.get("loras") or ()]
    loras = [(str(fingerprint), float(weight)) for fingerprint, weight in model.get("loras") or ()]
    named = zip(names or ["LoRA"] * len(loras), loras, strict=False)
    weighted = [f"{name}:{weight:g}" for name, (_, weight) in named]
    control, weight = model.get("control") or ("", 1.0)
    net = f"ControlNet {_name((places.get('control') or {}).get('model') or '')}" if control else ""
    return {
        "base model": Part(
            _text(model, "fingerprint"), f"on {_name(_text(record, 'base_model') or '?')}"
        ),
        "LoRAs": Part(tuple(loras), " + ".join(weighted)),
        # Control images may differ between prompts: only the model counts.
        "ControlNet": Part((str(control).partition(" ")[0], float(weight)), net.strip()),
    }


def _name(file: str) -> str:
    """Return the name of a file or folder, without the suffix of weights."""
    return PurePath(file).name.removesuffix(".safetensors")[:_LONGEST_NAME]


def _text(record: Record, key: str) -> str:
    value = record.get(key, "")
    if not isinstance(value, str):
        raise TypeError(key)
    return value
