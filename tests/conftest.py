"""Fixtures: small random models of the real classes and file formats, created once per session.

torch is imported by the fixtures that need it, not here: the process that distributes the tests to
others imports this file, and so do tests of the front end alone.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pvtool_core import supervisor
from pvtool_core.models import downloads
from pvtool_core.settings.jobs import TrainJob
from tests.support.hub import Hub, serve
from tests.support.in_process import start_engine

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of this size are slower with several

# tests must not fail on a busy machine
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Exclude the imported libraries from all later searches for garbage."""
    gc.freeze()


@pytest.fixture
def engines_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the engines that pv starts in the process of the test."""
    monkeypatch.setattr(supervisor, "start", start_engine)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a local hub that pv uses instead of the real one, and a home without models."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the models and an identity.

    It has `animatediff` (its parts as `still` and `motion`), `faces` (detector and recogniser),
    `clip`, and a person in `identity`.
    """
    from tests.support.small_models import save_models

    root = tmp_path_factory.mktemp("models")
    save_models(root)
    return root


@pytest.fixture(scope="session")
def job(models: Path) -> TrainJob:
    from tests.support.small_models import random_job

    return random_job(models)


@pytest.fixture(scope="session")
def adapters(models: Path, job: TrainJob) -> dict[str, Path]:
    """Return adapter files for the small model: `zero` changes nothing, `strong` does."""
    import torch

    from pvtool_core.adapter import AdapterMetadata, IdentityAdapter
    from pvtool_core.backbones import load_backbone

    torch.manual_seed(0)
    backbone = load_backbone(job.model, job.sampler, [])
    facts = backbone.facts()
    terms = AdapterMetadata(0.75, 8, 3.0, facts["sampler"], facts["base"])
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, 2)
    files = {name: models / f"{name}.safetensors" for name in ("zero", "strong")}
    adapter.save(files["zero"], backbone.lora_layout, terms)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=2.0)
    adapter.save(files["strong"], backbone.lora_layout, terms)
    return files
