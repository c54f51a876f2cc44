"""Engines load only what their kind of job uses; hidden libraries load once they are needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pvtool_core import __main__ as engine
from pvtool_core.settings.jobs import write_job
from pvtool_core.store.runs import RunFolder
from tests.support.families import HUNYUAN_VIDEO, WAN
from tests.support.small_models import with_settings
from tests.support.startup import starts

UNUSED = {
    "bitsandbytes",
    "ray",
    "scipy.stats",
    "torch._dynamo.convert_frame",
    "torch._inductor",
    "torch.distributed.tensor",
}
FACES = {"cv2", "insightface", "onnx", "skimage"}
UNUSED_BY = {
    "enrol": UNUSED | {"diffusers", "open_clip", "peft", "transformers"},
    "train": UNUSED,
    "render": UNUSED | FACES | {"open_clip"},
    "evaluate": UNUSED | {"diffusers", "peft"},
}


def test_no_engine_loads_a_large_library_that_its_job_does_not_use(tmp_path: Path) -> None:
    started = starts(tmp_path, {"sampler": {"num_inference_steps": 4}})
    assert started.keys() == UNUSED_BY.keys()
    loaded = {kind: started[kind].modules & unused for kind, unused in UNUSED_BY.items()}
    assert not any(loaded.values()), loaded
    assert "diffusers" in started["train"].modules
    assert "insightface" in started["evaluate"].modules


def in_an_engine(code: str) -> str:
    """Return the output of code in a process with hidden libraries, as in an engine."""
    hide = "from pvtool_core.imports import hide_unused_libraries; hide_unused_libraries()\n"
    words = [sys.executable, "-P", "-c", hide + code]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_engines_train_all_model_families_without_the_hidden_libraries(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tests train AnimateDiff so; one process trains the others, one after the other."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    for family in (HUNYUAN_VIDEO, WAN):
        job = with_settings(family.job(models), "training", iterations=1, cached_pairs=1)
        write_job(RunFolder(tmp_path / family.name).create().config, job)
    folders = [str(tmp_path / family.name) for family in (HUNYUAN_VIDEO, WAN)]
    code = f"from pvtool_core.__main__ import main; print(*(main([each]) for each in {folders}))"
    assert in_an_engine(code) == "0 0"


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_a_forked_engine_starts_again_if_imports_have_initialised_its_device(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o077)

    def execute(*words: object) -> None:
        raise SystemExit(*words, os.umask(before))

    monkeypatch.setattr(getattr(torch, device), "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(engine, "_users_umask", 0o027)
    monkeypatch.setattr(os, "execv", execute)
    server = [sys.executable, "-P", "-m", "pvtool_core"]
    monkeypatch.setattr(sys, "orig_argv", [*server, "--serve"])
    with pytest.raises(SystemExit) as started:
        engine.run_forked("/runs/ann-1")
    assert started.value.args == (sys.executable, [*server, "/runs/ann-1"], 0o027)


def test_an_engine_quantises_with_the_hidden_bitsandbytes() -> None:
    code = """
import torch
from diffusers.utils import is_bitsandbytes_available
from pvtool_core.backbones.memory import place
from pvtool_core.settings.schema import ModelConfig
for storage in ("nf4", "int8"):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64)).requires_grad_(False)
    place(model, [model], ModelConfig(base_model="", storage=storage), torch.device("cpu"))
    assert model(torch.ones(1, 64)).isfinite().all()
    print(type(model[0]).__name__, is_bitsandbytes_available())
"""
    assert in_an_engine(code).splitlines() == ["Linear4bit False", "Linear8bitLt False"]


def test_a_postponed_module_is_loaded_when_it_is_needed() -> None:
    code = """
import torch
from torch._dynamo import disable
assert disable(len) is len
print(torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)).item())
print(torch._dynamo.disable is disable)
import scipy.stats
print(scipy.stats.norm.cdf(0))
"""
    assert in_an_engine(code).splitlines() == ["2.0", "False", "0.5"]
