"""Real engines in processes of their own, on the small models, in a home of their own."""

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
    """A run of 15 short iterations with a checkpoint after each third and a sample after each fifth."""
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
    """That run, left alone from its start to its end."""
    folder = engines.folder("uninterrupted", training)
    assert engines.run(folder) == 0, folder.log.read_text()
    return folder
