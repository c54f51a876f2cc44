"""Training objectives: one file each, and their interface to the trainer."""

from pvtool_core.imports import quick_imports
from pvtool_core.objectives.objective import AdaptedModel, Losses, MakeObjective, Objective
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.references import load_named
from pvtool_core.store.events import Report

__all__ = ["AdaptedModel", "Losses", "MakeObjective", "Objective", "load_objective"]


def load_objective(job: TrainJob, model: AdaptedModel, report: Report) -> Objective:
    """Return the objective of `job.training.objective`. Raises what its class raises."""
    with quick_imports():
        make: MakeObjective = load_named(OBJECTIVES[job.training.objective].driver)
    return make(job, model, report)
