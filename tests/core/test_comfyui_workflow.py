"""Workflows for ComfyUI: consistent graphs with the values of the adapter file."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pvtool_core.adapter import AdapterMetadata
from pvtool_core.comfyui.workflow import AdapterUse, workflow_of
from pvtool_core.errors import InputRefused, UsageError
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.jobs import IdentityRef, TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.references import load_named
from tests.support.comfyui import EXPORTED, Exported
from tests.support.small_models import with_settings

Workflow = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "docs/comfyui"
BY_NAME = {family.name: family for family in EXPORTED}


@pytest.fixture(scope="module", params=EXPORTED, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Exported:
    return request.param


@pytest.fixture(scope="module")
def file(family: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("adapters") / "ada-1.safetensors"
    family.save(file, steps=50)
    return file


@pytest.fixture
def workflow(family: Exported, file: Path) -> Workflow:
    return workflow_of(file, family.job(), file.name)


def metadata_of(file: Path) -> Mapping[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def nodes(workflow: Workflow, kind: str) -> list[Workflow]:
    return [node for node in workflow["nodes"] if node["type"] == kind]


def source(workflow: Workflow, node: Workflow, name: str) -> Workflow:
    """Return the node that feeds a socket."""
    (link,) = (socket["link"] for socket in node["inputs"] if socket["name"] == name)
    (origin,) = (each[1] for each in workflow["links"] if each[0] == link)
    return next(each for each in workflow["nodes"] if each["id"] == origin)


def test_every_link_joins_two_sockets_of_its_type(workflow: Workflow) -> None:
    by_id = {node["id"]: node for node in workflow["nodes"]}
    assert len(by_id) == workflow["last_node_id"]
    assert len({link[0] for link in workflow["links"]}) == workflow["last_link_id"]
    for link, start, output, end, socket, kind in workflow["links"]:
        assert link in by_id[start]["outputs"][output]["links"]
        assert by_id[start]["outputs"][output]["type"] == kind
        assert by_id[end]["inputs"][socket] == {
            "name": by_id[end]["inputs"][socket]["name"],
            "type": kind,
            "link": link,
        }
        assert by_id[start]["order"] < by_id[end]["order"]


def test_no_node_covers_another(workflow: Workflow) -> None:
    title = 30
    boxes = [(*node["pos"], *node["size"]) for node in workflow["nodes"]]
    for number, (left, top, width, height) in enumerate(boxes):
        for other_left, other_top, _, other_height in boxes[:number]:
            apart = top >= other_top + other_height + title or other_top >= top + height + title
            assert apart or abs(left - other_left) >= width


def test_the_adapter_is_off_until_the_start_percent_of_its_file(
    workflow: Workflow, file: Path
) -> None:
    (scheduled,) = nodes(workflow, "SetHookKeyframes")
    hook, on = (source(workflow, scheduled, name) for name in ("hooks", "hook_kf"))
    off = source(workflow, on, "prev_hook_kf")
    percent = float(metadata_of(file)["comfyui_start_percent"])
    assert hook["widgets_values"] == [file.name, 1.0]
    assert off["widgets_values"] == [0.0, 0.0]
    assert on["widgets_values"] == [1.0, percent]


def test_the_hook_is_on_both_conditionings_of_the_sampler(workflow: Workflow) -> None:
    (sampler,) = nodes(workflow, "KSampler")
    negative = source(workflow, sampler, "negative")
    positive = source(workflow, sampler, "positive")
    if positive["type"] == "FluxGuidance":
        positive = source(workflow, positive, "conditioning")
    assert positive is negative
    assert source(workflow, negative, "hooks")["type"] == "SetHookKeyframes"


def test_sampler_and_size_are_those_of_the_run(
    workflow: Workflow, family: Exported, file: Path
) -> None:
    metadata = metadata_of(file)
    embedded = family.name == "hunyuan-video"
    cfg, scheduler = 1.0 if embedded else family.guidance, metadata["comfyui_scheduler"]
    (sampler,) = nodes(workflow, "KSampler")
    assert sampler["widgets_values"] == [0, "fixed", 50, cfg, "euler", scheduler, 1.0]
    assert [node["widgets_values"] for node in nodes(workflow, "FluxGuidance")] == (
        [[6.0]] if embedded else []
    )
    shifts = [node["widgets_values"] for node in nodes(workflow, "ModelSamplingSD3")]
    assert shifts == ([[family.sampler["shift"]]] if "shift" in family.sampler else [])
    sizes = nodes(workflow, "EmptyLatentImage") + nodes(workflow, "EmptyHunyuanLatentVideo")
    assert [node["widgets_values"][:3] for node in sizes] == [[64, 64, family.frames]]
    assert [node["widgets_values"] for node in nodes(workflow, "LoraLoader")] == [
        ["ink.safetensors", 0.7, 0.7]
    ]


def test_prompts_are_taken_literally(family: Exported, file: Path) -> None:
    job = with_prompt(family.job(), "a <V> woman (in a {red} coat)")
    texts = nodes(workflow_of(file, job, "ada.safetensors"), "CLIPTextEncode")
    assert [node["widgets_values"] for node in texts] == [
        [r"a <V> woman \(in a \{red\} coat\)"],
        ["ugly"],
    ]


def with_prompt(job: TrainJob, prompt: str) -> TrainJob:
    return TrainJob(run=job.run, identity=job.identity, prompts=(prompt,), **job.sections())


def test_an_adapter_for_all_steps_has_no_keyframes(family: Exported, tmp_path: Path) -> None:
    family.save(tmp_path / "ada.safetensors", start=0.0)
    workflow = workflow_of(tmp_path / "ada.safetensors", family.job(), "ada.safetensors")
    assert not nodes(workflow, "CreateHookKeyframe")
    (both,) = nodes(workflow, "PairConditioningSetProperties")
    assert source(workflow, both, "hooks")["type"] == "CreateHookLoraModelOnly"


def test_a_base_model_in_one_file_is_named(tmp_path: Path) -> None:
    family = BY_NAME["animatediff"]
    family.save(tmp_path / "ada.safetensors")
    job = with_settings(family.job(), "model", base_model="/models/mine.safetensors")
    workflow = workflow_of(tmp_path / "ada.safetensors", job, "ada.safetensors")
    (loader,) = nodes(workflow, "CheckpointLoaderSimple")
    assert loader["widgets_values"] == ["mine.safetensors"]


def test_invalid_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ada.safetensors"
    file.write_bytes(b"weights")
    job = BY_NAME["wan"].job()
    with pytest.raises(InputRefused, match="has invalid metadata"):
        workflow_of(file, job, file.name)
    with pytest.raises(InputRefused, match="The run has no prompts"):
        workflow_of(file, dataclasses.replace(job, prompts=()), file.name)
    monkeypatch.setitem(vars(FAMILIES["wan"]), "comfyui", "")
    with pytest.raises(UsageError, match="No ComfyUI workflow for the model family wan"):
        workflow_of(file, BY_NAME["wan"].job(), file.name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("guidance_scale", "nan"),
        ("comfyui_start_percent", "inf"),
        ("sampler", '{"shift": -1e400}'),
        ("style_loras", f'[{{"file": "ink", "weight": 1{"0" * 400}}}]'),
    ],
)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, key: str, value: str) -> None:
    file = tmp_path / "ada.safetensors"
    BY_NAME["wan"].save(file)
    save_file({"weight": np.zeros(1)}, file, {**metadata_of(file), key: value})
    with pytest.raises(InputRefused, match="has invalid metadata"):
        workflow_of(file, BY_NAME["wan"].job(), file.name)


@pytest.mark.parametrize("name", BY_NAME)
def test_examples_of_the_documentation_are_those_of_the_shipped_presets(name: str) -> None:
    settings = Presets().get(name).settings()
    job = TrainJob(
        run="ada-1",
        identity=IdentityRef(name="ada", noun="woman", folder="ada"),
        prompts=("a <V> woman dancing in the rain",),
        **settings.sections(),
    )
    sampler = job.sampler
    facts = {**BY_NAME[name].sampler, **({"shift": sampler.shift} if sampler.shift else {})}
    metadata = AdapterMetadata(
        job.adapter.start,
        sampler.num_inference_steps,
        sampler.guidance_scale,
        facts,
        "base",
        sampler.negative_prompt,
    ).metadata()
    use = AdapterUse.of(metadata, job, "ada-1.safetensors")
    text = json.dumps(load_named(FAMILIES[name].comfyui)(use), indent=1) + "\n"
    example = EXAMPLES / f"{name}.json"
    if os.environ.get("PV_WRITE_GOLDEN"):
        example.parent.mkdir(exist_ok=True)
        example.write_text(text)
    assert example.read_text() == text, "PV_WRITE_GOLDEN=1 writes the new one"
