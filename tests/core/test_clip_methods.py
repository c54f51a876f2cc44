"""Methods of the clips in one folder: only what varies is named."""

from pathlib import Path
from typing import Any

from pvtool_core.batches.clip_methods import methods_of


def record(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "identity": "ann",
        "run": "ann-1",
        "step": 400,
        "adapter": "adapter.safetensors",
        "adapter_base_fingerprint": "base",
        "adapter_start": 0.75,
        "base_model": "/models/tiny",
        "model": {"fingerprint": "base", "loras": []},
        "places": {"loras": [], "control": {"model": ""}},
    }
    return plain | changes


def base(**changes: Any) -> dict[str, Any]:
    return record(adapter="", run="", **changes)


def methods(*records: dict[str, Any]) -> list[str]:
    return list(methods_of({Path(f"{i}.json"): each for i, each in enumerate(records)}).values())


def test_clips_of_one_adapter_and_the_base_model() -> None:
    assert methods(record(strength=0.5), record(strength=0.5), base()) == [
        "adapter",
        "adapter",
        "base",
    ]


def test_strengths_and_starts_that_vary_are_named_for_all_identities() -> None:
    bob = {"identity": "bob", "run": "bob-1"}
    found = methods(record(), record(strength=0.5), record(adapter_start_sigma=0.6, **bob))
    assert found == [
        "start 0.75, strength 1",
        "start 0.75, strength 0.5",
        "start sigma 0.6, strength 1",
    ]


def test_several_adapters_of_one_identity_are_named_by_run_and_step() -> None:
    found = methods(record(), record(step=200), record(identity="bob", run="bob-1"))
    assert found == ["ann-1@400", "ann-1@200", "adapter"]


def test_the_base_model_of_training_without_style_is_the_reference() -> None:
    styled = {"base_model": "/models/poster", "model": {"fingerprint": "other", "loras": []}}
    lora = {
        "model": {"fingerprint": "base", "loras": [["f", 0.5]]},
        "places": {"loras": ["/loras/ink.safetensors"]},
    }
    found = methods(
        record(), record(**styled), record(**lora), base(), base(**styled), base(**lora)
    )
    assert found == [
        "on tiny",
        "on poster",
        "on tiny, ink:0.5",
        "base",
        "base, on poster",
        "base, on tiny, ink:0.5",
    ]


def test_sidecars_of_older_versions_lack_most_fields() -> None:
    old = {key: record()[key] for key in ("identity", "run", "step", "adapter")}
    assert methods(old, {**old, "adapter": ""}) == ["adapter", "base"]
