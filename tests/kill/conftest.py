"""Real engine processes on the small models, in a temporary home."""

import dataclasses
from collections.abc import Generator

import pytest

from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.runs import RunFolder
from tests.support.engines import Engines


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Generator[Engines]:
    made = Engines(tmp_path_factory.mktemp("engines") / "home")
    yield made
    made.close()


@pytest.fixture(scope="session")
def training(job: TrainJob) -> TrainJob:
    """Return a job of 15 short iterations, a checkpoint every 3 and a sample every 5."""
    changes = {
        "iterations": 15,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
        "sample_every": 5,
        "sample_prompts": 1,
    }
    return dataclasses.replace(
        job, training=dataclasses.replace(job.training, **changes, seeds_per_prompt=1)
    )


@pytest.fixture(scope="session")
def uninterrupted(engines: Engines, training: TrainJob) -> RunFolder:
    """Return that run, finished without interruption."""
    folder = engines.folder("uninterrupted", training)
    assert engines.run(folder) == 0, folder.log.read_text()
    return folder
