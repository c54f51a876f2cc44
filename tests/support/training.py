"""Trainers of the paper's objective, ready to take a step."""

from pathlib import Path

from pvtool_core.objectives.personalvideo import PersonalVideo
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.store.events import Report, ignore
from pvtool_core.trainer import Trainer


def objective_of(trainer: Trainer) -> PersonalVideo:
    """Return the trainer's objective, which is the paper's."""
    assert isinstance(trainer.objective, PersonalVideo)
    return trainer.objective


def prepared_trainer(
    job: TrainJob, cache: Path | None, report: Report = ignore
) -> tuple[Trainer, PersonalVideo]:
    """Return a trainer and its objective, whose pairs are prepared."""
    trainer = Trainer(job, cache, report)
    objective = objective_of(trainer)
    for _ in objective.prepare():
        pass
    return trainer, objective
