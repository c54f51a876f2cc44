"""Training objectives: one file each, and their interface to the trainer."""

import importlib
from typing import cast

from pvtool_core.imports import quick_imports
from pvtool_core.objectives.objective import AdaptedModel, Losses, MakeObjective, Objective
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.store.events import Report

__all__ = ["AdaptedModel", "Losses", "MakeObjective", "Objective", "load_objective"]


def load_objective(job: TrainJob, model: AdaptedModel, report: Report) -> Objective:
    """Return the objective of `job.training.objective`. Raises what its class raises."""
    module, _, name = OBJECTIVES[job.training.objective].driver.partition(":")
    with quick_imports():
        make = cast(MakeObjective, getattr(importlib.import_module(module), name))
    return make(job, model, report)
