"""Workflows and adapter files in ComfyUI's own code.

Set PV_COMFYUI to a checkout of ComfyUI whose requirements are importable. AnimateDiff's node is
checked if custom_nodes/ComfyUI-AnimateDiff-Evolved is in it.
"""

import asyncio
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pvtool_core.comfyui.schedule import start_percent
from pvtool_core.comfyui.workflow import workflow_of
from tests.support.comfyui import EXPORTED, Exported

CHECKOUT = os.environ.get("PV_COMFYUI", "")
pytestmark = pytest.mark.skipif(
    not CHECKOUT, reason="PV_COMFYUI names no checkout of ComfyUI (docs/comfyui.md)"
)
FILES = {
    *("ckpt_name", "unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name"),
    *("lora_name", "model_name"),
}
SIZES: Mapping[str, dict[str, Any]] = {
    "animatediff": {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_spatial_transformer": True,
        "context_dim": 16,
        "legacy": False,
    },
    "hunyuan-video": {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "vec_in_dim": 16,
        "context_in_dim": 16,
        "hidden_size": 32,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6],
        "theta": 256,
        "qkv_bias": True,
        "guidance_embed": True,
    },
    "wan": {
        "model_type": "t2v",
        "dim": 24,
        "ffn_dim": 32,
        "freq_dim": 16,
        "text_dim": 16,
        "num_heads": 2,
        "num_layers": 2,
    },
}
CLASSES = {"animatediff": "SD15", "hunyuan-video": "HunyuanVideo", "wan": "WAN21_T2V"}
EVOLVED = "ADE_AnimateDiffLoaderGen1"


@dataclasses.dataclass(frozen=True)
class ComfyUI:
    """Modules of ComfyUI, and its types of nodes."""

    kinds: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"comfy.{name}")

    def model(self, family: str) -> Any:
        """Return a small random model of a family, as a loader gives it to other nodes."""
        sizes = {**SIZES[family]}
        if family == "hunyuan-video":  # later models of the family have more parts
            params = importlib.import_module("comfy.ldm.hunyuan_video.model").HunyuanVideoParams
            sizes = {each.name: None for each in dataclasses.fields(params)} | sizes
        config = getattr(self.supported_models, CLASSES[family])(sizes)
        cpu = torch.device("cpu")
        model = config.get_model({}, device=cpu)
        torch.manual_seed(0)
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.05)
        return self.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@pytest.fixture(scope="module")
def comfyui() -> Iterator[ComfyUI]:
    """Import ComfyUI on the CPU with its extra nodes, and AnimateDiff-Evolved if it is there."""
    sys.path.insert(0, CHECKOUT)
    try:
        importlib.import_module("utils.install_util")  # other packages have a `utils` too
        importlib.import_module("comfy.cli_args").args.cpu = True
        nodes: Any = importlib.import_module("nodes")
        asyncio.run(nodes.init_builtin_extra_nodes())
        evolved = Path(CHECKOUT, "custom_nodes/ComfyUI-AnimateDiff-Evolved")
        if evolved.is_dir():
            asyncio.run(nodes.load_custom_node(str(evolved)))
        yield ComfyUI(nodes.NODE_CLASS_MAPPINGS)
    finally:
        sys.path.remove(CHECKOUT)


@pytest.fixture(params=EXPORTED, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Exported:
    return request.param


@pytest.fixture
def file(family: Exported, tmp_path: Path) -> Path:
    family.save(tmp_path / "ada-1.safetensors", steps=25)
    return tmp_path / "ada-1.safetensors"


@pytest.fixture
def workflow(family: Exported, file: Path) -> dict[str, Any]:
    return workflow_of(file, family.job(), file.name)


def definitions(kind: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return type and options of each input of a node, in ComfyUI's order."""
    inputs = kind.INPUT_TYPES()
    both = {**inputs.get("required", {}), **inputs.get("optional", {})}
    return {name: (each[0], each[1] if len(each) > 1 else {}) for name, each in both.items()}


def is_widget(type_: Any, options: Mapping[str, Any]) -> bool:
    in_editor = isinstance(type_, list) or type_ in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
    return (in_editor or type_ == "COMFY_DYNAMICCOMBO_V3") and not options.get("forceInput")


def widgets(kind: Any, values: list[Any]) -> dict[str, Any]:
    """Return the values of a node's widgets by their names, as ComfyUI's editor reads them.

    Widgets that a newer version has added at the end keep their defaults.
    """
    left = list(values)
    named: dict[str, Any] = {}
    for name, (type_, options) in definitions(kind).items():
        if left and is_widget(type_, options):
            named[name] = left.pop(0)
            if options.get("control_after_generate"):
                assert left.pop(0) in {"fixed", "increment", "decrement", "randomize"}
    assert not left
    return named


def known(comfyui: ComfyUI, workflow: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes that ComfyUI runs: a note exists in its editor only."""
    nodes = [node for node in workflow["nodes"] if node["type"] != "Note"]
    if EVOLVED not in comfyui.kinds:
        return [node for node in nodes if node["type"] != EVOLVED]
    return nodes


def test_nodes_have_the_sockets_and_outputs_of_comfyui(
    comfyui: ComfyUI, workflow: dict[str, Any]
) -> None:
    for node in known(comfyui, workflow):
        kind = comfyui.kinds[node["type"]]
        sockets = [
            (name, type_)
            for name, (type_, options) in definitions(kind).items()
            if not is_widget(type_, options)
        ]
        ours = [(each["name"], each["type"]) for each in node["inputs"]]
        assert [each for each in sockets if each in ours] == ours, node["type"]
        outputs = [each["type"] for each in node["outputs"]]
        assert list(kind.RETURN_TYPES)[: len(outputs)] == outputs, node["type"]
        linked = {each["name"] for each in node["inputs"] if each["link"]}
        required = set(kind.INPUT_TYPES().get("required", {}))
        assert required <= linked | set(widgets(kind, node["widgets_values"]))


def test_widgets_have_values_that_comfyui_accepts(
    comfyui: ComfyUI, workflow: dict[str, Any]
) -> None:
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    for node in known(comfyui, workflow):
        kind = comfyui.kinds[node["type"]]
        for name, value in widgets(kind, node["widgets_values"]).items():
            type_, options = definitions(kind)[name]
            choices = type_ if isinstance(type_, list) else options.get("options")
            if name in FILES:
                assert isinstance(value, str)
            elif choices is not None:
                texts = [each["key"] if isinstance(each, dict) else each for each in choices]
                assert value in texts, (node["type"], name)
            else:
                assert isinstance(value, types[str(type_)]), (node["type"], name)
                low, high = options.get("min", value), options.get("max", value)
                assert low <= value <= high, (node["type"], name)


@pytest.mark.parametrize("steps", [2, 8, 16, 25, 30, 50, 99])
def test_start_percent_is_between_the_levels_of_two_steps(
    comfyui: ComfyUI, family: Exported, steps: int
) -> None:
    sampling, scheduler = comfyui.model_sampling, "normal"
    model: Any = sampling.ModelSamplingDiscrete()
    if "shift" in family.sampler:
        model, scheduler = sampling.ModelSamplingDiscreteFlow(), "simple"
        model.set_parameters(shift=family.sampler["shift"])
    levels = comfyui.samplers.calculate_sigmas(model, scheduler, steps).tolist()
    assert len(levels) == steps + 1
    for first in range(1, steps):
        level = model.percent_to_sigma(start_percent(first, steps, family.sampler))
        assert levels[first - 1] > level > levels[first]


def test_every_key_of_the_file_is_loaded(
    comfyui: ComfyUI, family: Exported, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patcher, tensors = comfyui.model(family.name), load_file(file)
    names = comfyui.lora.model_lora_keys_unet(patcher.model, {})
    loaded = comfyui.lora.load_lora(tensors, names)
    assert not [line for line in caplog.messages if "not loaded" in line]
    adapted = {"animatediff": 48, "hunyuan-video": 4, "wan": 6}[family.name]
    assert len(loaded) == adapted
    assert len(patcher.add_patches(loaded, 1.0)) == adapted
    comfyui.lora.load_lora({"lora_unet_nothing.lora_up.weight": torch.zeros(1)}, names)
    assert caplog.messages[-1] == "lora key not loaded: lora_unet_nothing.lora_up.weight"


def results(
    comfyui: ComfyUI, workflow: Mapping[str, Any], given: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Run the nodes of a workflow up to its sampler; `given` replaces types of nodes."""
    outputs: dict[tuple[int, int], Any] = {}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    by_kind: dict[str, Any] = {}
    for node in workflow["nodes"]:
        sockets = {each["name"]: each["link"] for each in node["inputs"] if each["link"]}
        values = {name: outputs[links[link]] for name, link in sockets.items()}
        if node["type"] in given:
            found: Any = given[node["type"]]
        else:
            kind = comfyui.kinds[node["type"]]
            values |= widgets(kind, node["widgets_values"])
            found = getattr(kind(), kind.FUNCTION)(**values)
            found = getattr(found, "result", found)
        outputs |= {(node["id"], slot): each for slot, each in enumerate(found)}
        by_kind[node["type"]] = found
        if node["type"] == "KSampler":
            return by_kind
    raise AssertionError("the workflow has no sampler")


def test_the_adapter_acts_in_its_steps_only_when_comfyui_runs_the_workflow(
    comfyui: ComfyUI, family: Exported, file: Path, workflow: dict[str, Any]
) -> None:
    folders: Any = importlib.import_module("folder_paths")
    folders.add_model_folder_path("loras", str(file.parent), is_default=True)
    patcher = comfyui.model(family.name)
    text = [[torch.randn(1, 4, 16), {"pooled_output": torch.randn(1, 16)}]]
    loaders = ("CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader")
    given: dict[str, tuple[Any, ...]] = dict.fromkeys(loaders, (patcher, None, None))
    given |= {"LoraLoader": (patcher, None), "CLIPTextEncode": (text,), EVOLVED: (patcher,)}

    network = patcher.model.diffusion_model
    keys = comfyui.lora.model_lora_keys_unet(patcher.model, {})
    adapted = sorted(comfyui.lora.load_lora(load_file(file), keys))
    weights = patcher.model.state_dict(keep_vars=True)
    before = {key: weights[key].detach().clone() for key in adapted}
    acting: list[bool] = []

    def watch(*_: Any) -> None:
        changed = {not torch.equal(weights[key], before[key]) for key in adapted}
        assert len(changed) == 1, "all layers together"
        acting.extend(changed)

    network.register_forward_pre_hook(watch)
    latent = results(comfyui, workflow, given)["KSampler"][0]["samples"]
    assert latent.isfinite().all()
    assert acting == [False] * 18 + [True] * 7  # one pass for both conditionings in each step
