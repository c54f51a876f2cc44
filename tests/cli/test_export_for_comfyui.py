"""`pv runs export --comfyui`: a workflow with the values of the run and its adapter."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pvtool_core.store.runs import ADAPTER_FILE, RunFolder
from tests.support.commands import Pv, everything

METADATA = {
    "first_step": "18",
    "num_inference_steps": "25",
    "guidance_scale": "7.5",
    "negative_prompt": "ugly",
    "sampler": '{"class": "DDIMScheduler"}',
    "style_loras": "[]",
    "comfyui_scheduler": "normal",
    "comfyui_start_percent": "0.729",
}


@pytest.fixture
def trained(run: RunFolder) -> RunFolder:
    """Return a run whose adapter has metadata."""
    adapter = save({"weight": np.zeros(1, np.float32)}, METADATA)
    run.write_checkpoint(900, {ADAPTER_FILE: adapter})
    return run


def test_export_writes_a_workflow_with_the_values_of_the_run(
    pv: Pv, trained: RunFolder, tmp_path: Path
) -> None:
    names = [str(tmp_path / name) for name in ("mara.safetensors", "mara.json")]
    answer = pv("runs", "export", trained.name, names[0], "--comfyui", names[1], "--json")
    assert (answer.json["path"], answer.json["comfyui"]) == tuple(names)
    nodes = json.loads(Path(names[1]).read_text())["nodes"]
    values = {node["type"]: node["widgets_values"] for node in nodes}
    assert values["CreateHookLoraModelOnly"] == ["mara.safetensors", 1.0]
    assert values["CreateHookKeyframe"] == [1.0, 0.729]
    assert values["KSampler"] == [0, "fixed", 25, 7.5, "euler", "normal", 1.0]
    texts = [node["widgets_values"][0] for node in nodes if node["type"] == "CLIPTextEncode"]
    assert texts == ["<V> woman runs", "ugly"]


def test_export_writes_nothing_if_the_workflow_cannot_be_written(
    pv: Pv, trained: RunFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.json").write_text("mine")
    words = ("runs", "export", trained.name, str(folder / "mara.safetensors"), "--comfyui")
    assert pv(*words, str(folder / "mine.json")).status == 3
    assert pv(*words, str(folder / "nowhere/mara.json")).status == 4
    same = pv(*words, str(folder / "../out/mara.safetensors"))
    assert (same.status, "have the same path" in same.err) == (2, True)
    trained.write_checkpoint(950, {ADAPTER_FILE: b"weights"})
    refused = pv(*words, str(folder / "mara.json"))
    assert (refused.status, "has invalid metadata" in refused.err) == (3, True)
    assert everything(folder) == {"mine.json": b"mine"}
