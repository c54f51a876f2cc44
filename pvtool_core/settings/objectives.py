"""Table of training objectives: the class of each, and how the front end shows its losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LossInfo:
    """Display of one number of an objective: its title, short label and plot range."""

    title: str
    label: str = ""
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveInfo:
    """One objective.

    `driver` is its class, as MODULE:CLASS; the module is imported when the objective is used.
    `losses` are shown in progress lines, tables of runs and the dashboard, the most important
    first; `measures` are further numbers, shown as curves only. Their names are the keys of `step`
    events.
    """

    driver: str
    losses: Mapping[str, LossInfo]
    measures: Mapping[str, LossInfo] = field(default_factory=dict[str, LossInfo])


DEFAULT_OBJECTIVE = "personalvideo"
OBJECTIVES: dict[str, ObjectiveInfo] = {
    DEFAULT_OBJECTIVE: ObjectiveInfo(
        driver="pvtool_core.objectives.personalvideo:PersonalVideo",
        losses={
            "icr": LossInfo("ICR identity loss", "ICR", (0.0, 1.0)),
            "scr": LossInfo("SCR semantic loss", "SCR"),
            "loss": LossInfo("Loss, both weighted", "loss"),
        },
        measures={
            "score_gap": LossInfo("Prompt score minus the original's"),
            "base_kl": LossInfo("KL from the base model"),
        },
    ),
}


def loss_label(name: str) -> str:
    """Return the short label of a loss of any objective."""
    listed = (info.losses[name] for info in OBJECTIVES.values() if name in info.losses)
    found = next(listed, None)
    return found.label if found and found.label else name
