"""Table of training objectives: the class of each, and how the front end shows its losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

INSTANCE_PROMPT = "a photo of <V> {noun}"
"""Prompt of the photos in a reconstruction."""
CLASS_PROMPT = "a photo of a {noun}"
"""Prompt of the images of prior preservation."""
INVERSION_PROMPT = "photo of a <V> {noun}"
"""Prompt of the photos in textual inversion, that of Magic-Me."""


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

    `settings` are tables by section that come with the objective: they replace those of a preset
    for another objective, and options of the user replace them. `prompts` are the templates of
    further prompts that it uses besides the bank. An objective that `reconstructs` trains the image
    model on photos, and needs no models of the rewards. One that `learns_vectors` trains keyword
    vectors and not a LoRA. `families` are the model families that it supports; all, if empty.
    """

    driver: str
    losses: Mapping[str, LossInfo]
    measures: Mapping[str, LossInfo] = field(default_factory=dict[str, LossInfo])
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    prompts: tuple[str, ...] = ()
    reconstructs: bool = False
    learns_vectors: bool = False
    families: tuple[str, ...] = ()


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
        settings={"adapter": {"start": 0.75}},
    ),
    "dreambooth": ObjectiveInfo(
        driver="pvtool_core.objectives.dreambooth:DreamBooth",
        losses={"loss": LossInfo("Reconstruction loss", "loss")},
        measures={
            "instance": LossInfo("Reconstruction loss of the photos"),
            "prior": LossInfo("Reconstruction loss of images of the class"),
        },
        settings={"adapter": {"start": 0.0}},
        prompts=(INSTANCE_PROMPT, CLASS_PROMPT),
        reconstructs=True,
    ),
    "textual-inversion": ObjectiveInfo(
        driver="pvtool_core.objectives.textual_inversion:TextualInversion",
        losses={"loss": LossInfo("Reconstruction loss", "loss")},
        settings={
            "adapter": {"start": 0.0},
            "training": {
                "iterations": 400,
                "learning_rate": 1e-3,
                "warmup": 0,
                "decay_from": 1.0,
            },
        },
        prompts=(INVERSION_PROMPT,),
        reconstructs=True,
        learns_vectors=True,
        families=("animatediff",),
    ),
}


def loss_label(name: str) -> str:
    """Return the short label of a loss of any objective."""
    listed = (info.losses[name] for info in OBJECTIVES.values() if name in info.losses)
    found = next(listed, None)
    return found.label if found and found.label else name
