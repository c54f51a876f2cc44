"""Jobs run as an engine runs them, and adapters for the small model."""

from pathlib import Path

import pytest
import torch

from pvtool_core.adapter import IdentityAdapter, Terms
from pvtool_core.backbones import load_backbone
from pvtool_core.config import TrainJob
from tests.core.jobs import Engine


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Engine:
    monkeypatch.setenv("PV_HOME", str(models / "home"))  # one trajectory cache for all tests, as for all jobs of a user
    return Engine(tmp_path / "jobs")


@pytest.fixture(scope="session")
def adapters(models: Path, job: TrainJob) -> dict[str, Path]:
    """Adapter files for the small model: `zero` changes nothing, `strong` does."""
    torch.manual_seed(0)
    backbone = load_backbone(job.model, job.sampler, [])
    facts = backbone.facts()
    terms = Terms(0.75, 8, 3.0, facts["sampler"], facts["base"])
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, 2)
    files = {name: models / f"{name}.safetensors" for name in ("zero", "strong")}
    adapter.save(files["zero"], backbone.lora_layout, terms)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=2.0)
    adapter.save(files["strong"], backbone.lora_layout, terms)
    return files
