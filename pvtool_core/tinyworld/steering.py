"""Stage "steering": measure how closely rendered faces follow the control images."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from pvtool_core.backbones import load_backbone
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.models.locate import resolve_settings
from pvtool_core.sampling import denoise
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import ControlConfig, ModelConfig, SamplerConfig
from pvtool_core.store.prompts import Banks
from pvtool_core.tinyworld.controlnet import save_control_frames
from pvtool_core.tinyworld.measure import detected, new_analyzer
from pvtool_core.tinyworld.world import NOUNS, Scenes, draw_scenes, pose

SEED = 9_900_000

log = logging.getLogger(__name__)


def measure_steering(preset: Path, work: Path) -> dict[str, Any]:
    """Render unseen prompts by the base model with and without the ControlNet, and compare.

    Each of 16 clips gets the poses of another scene, with an action that does not depend on its
    prompt. Writes `work/steering.json`: for both kinds, the fraction of frames with exactly one
    detected face, and the mean distance in pixels of the middle of its landmarks from the pose's.
    """
    settings = resolve_settings(Presets().get("tiny").settings())
    prompts = [prompt for noun in NOUNS for prompt in Banks().get("tiny-unseen").fill(noun)]
    scenes = draw_scenes(len(prompts), Generator().manual_seed(SEED))
    found: dict[str, list[float | None]] = {"without": [], "with": []}
    for index, prompt in enumerate(prompts):
        scene, folder = scenes[slice(index, index + 1)], work / f"steering/{index:02}"
        save_control_frames(folder, scene, settings.model.num_frames)
        control = ControlConfig(model=str(work / "controlnet"), frames=str(folder))
        for kind, config in {"without": ControlConfig(), "with": control}.items():
            model = with_fingerprints(replace(settings.model, control=config))
            frames = rendered(model, settings.sampler, prompt, SEED + index)
            found[kind] += distances(preset / "faces", frames, scene)
    scores = {kind: _summary(values) for kind, values in found.items()}
    (work / "steering.json").write_text(json.dumps(scores, indent=2) + "\n")
    log.info("steering %s", json.dumps(scores))
    return scores


def rendered(model: ModelConfig, sampler: SamplerConfig, prompt: str, seed: int) -> Tensor:
    """Return the frames `(frames, 3, height, width)` of a clip, in [0, 1]."""
    backbone = load_backbone(model, sampler, [prompt])
    embeds, steps = backbone.prompt_embeds(prompt), range(backbone.num_steps)
    with torch.no_grad():
        latents = denoise(backbone, backbone.initial_latents(seed), embeds, steps)
        return backbone.decode(latents, range(model.num_frames))


def distances(faces: Path, frames: Tensor, scene: Scenes) -> list[float | None]:
    """Return the distance of the face from the pose in each frame; None without a single face."""
    analyzer, result = new_analyzer(faces), list[float | None]()
    for index, frame in enumerate(frames):
        points, (wanted,) = detected(analyzer, frame), pose(scene, index, len(frames))[1].numpy()
        result.append(None if points is None else float(np.linalg.norm((points - wanted).mean(0))))
    return result


def _summary(values: list[float | None]) -> dict[str, float]:
    known = [value for value in values if value is not None]
    return {"one_found": len(known) / len(values), "distance": round(fmean(known), 2)}
