"""Methods of the clips in one folder: only what varies is named."""

from pathlib import Path
from typing import Any

import pytest

from pvtool_core.batches.clip_methods import methods_of
from pvtool_core.errors import InputRefused


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


def test_models_with_equal_names_are_told_apart_by_their_content() -> None:
    one = record(base_model="/a/base-5.1", model={"fingerprint": "one", "loras": []})
    two = record(base_model="/b/base-5.1", model={"fingerprint": "two", "loras": []})
    moved = record(base_model="/c/other", model={"fingerprint": "two", "loras": []})
    first, second, third = methods(one, two, moved)
    assert first.startswith("on base-5.1 (")
    assert second.startswith("on base-5.1 (")
    assert first != second
    assert third == second
    assert methods(two, moved) == ["adapter", "adapter"]


def test_clips_of_the_base_model_with_a_controlnet_are_not_the_reference() -> None:
    control = {
        "model": {"fingerprint": "base", "loras": [], "control": ["net", 1.0]},
        "places": {"loras": [], "control": {"model": "/nets/pose"}},
    }
    assert methods(record(), base(), base(**control))[1:] == ["base", "base, ControlNet pose"]


def encoded(name: str = "consisid", model: str = "base", **changes: Any) -> dict[str, Any]:
    method = {"name": name, "scale": 1.0, "fingerprint": "0123", **changes}
    return base(reference="a" * 64, method=method, model={"fingerprint": model, "loras": []})


def test_encoder_methods_have_their_own_names_beside_adapters() -> None:
    found = methods(record(), encoded(), encoded("id-animator", "other"), base())
    assert found == ["adapter", "consisid", "id-animator", "base"]


def test_settings_that_vary_within_an_encoder_method_are_named() -> None:
    found = methods(encoded(), encoded("id-animator"), encoded("id-animator", scale=0.5))
    assert found == ["consisid", "id-animator, scale 1", "id-animator, scale 0.5"]


def test_base_model_of_an_encoder_method_is_the_reference_without_adapters() -> None:
    other = base(model={"fingerprint": "v6", "loras": []}, base_model="/models/v6")
    assert methods(encoded("id-animator", "v6"), other) == ["id-animator", "base"]
    assert methods(record(), base(), encoded("id-animator", "v6"), other) == [
        "adapter",
        "id-animator",
        "base",
        "base, on v6",
    ]


def test_control_images_do_not_distinguish_methods() -> None:
    waving, nodding = (
        {"model": {"fingerprint": "base", "loras": [], "control": [f"net {frames}", 1.0]}}
        for frames in ("waving", "nodding")
    )
    assert methods(record(**waving), record(**nodding)) == ["adapter", "adapter"]


@pytest.mark.parametrize(
    "change",
    [
        {"strength": "0.5"},
        {"strength": [1]},
        {"adapter_base_fingerprint": ["a"]},
        {"model": {"fingerprint": [1]}},
        {"model": {"loras": 5}},
        {"places": {"loras": 5}},
        {"model": {"loras": [["f", "x"]]}},
        {"adapter": "", "reference": "a", "method": "consisid"},
        {"adapter": "", "reference": "a", "method": {"name": "consisid", "scale": "1"}},
    ],
)
def test_values_of_a_wrong_type_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputRefused, match=r"0\.json is not a sidecar of pv"):
        methods(record(**change))


def test_sidecars_of_older_versions_lack_most_fields() -> None:
    old = {key: record()[key] for key in ("identity", "run", "step", "adapter")}
    assert methods(old, {**old, "adapter": ""}) == ["adapter", "base"]
