"""Schedules of ComfyUI with which an adapter starts in exactly its first active step.

A hook keyframe is active from the first step whose noise level is at or below
`percent_to_sigma(percent)` (comfy/hooks.py, comfy/model_sampling.py). A percent is therefore not a
fraction of the steps: it is valid for one scheduler and one number of steps.

Flow matching: percent_to_sigma(p) is the shifted level of time 1 - p. Scheduler `simple` has the
times 1 - k / steps, rounded up to thousandths. (first - 0.5) / steps is half-way between two of
them, for any shift.

Stable Diffusion: percent_to_sigma(p) is the level of time 999 (1 - p). Scheduler `normal` has the
times 999 (1 - k / (steps - 1)), both ends included. (first - 0.5) / (steps - 1) is half-way between
two of them.

Schedulers with other times (`karras`, `beta`, `sgm_uniform` and more) need other values.
"""

from collections.abc import Mapping
from typing import Any

_MOST_STEPS = 333  # with more steps, rounding to thousandths could reach another step


def samples_flow(sampler: Mapping[str, Any]) -> bool:
    """Return whether a sampler, as in an adapter's metadata, is a flow matching sampler."""
    return str(sampler.get("class", "")).startswith("FlowMatch")


def scheduler_name(sampler: Mapping[str, Any]) -> str:
    """Return the name of ComfyUI's scheduler for which `start_percent` is valid."""
    return "simple" if samples_flow(sampler) else "normal"


def start_percent(first: int, num_steps: int, sampler: Mapping[str, Any]) -> float:
    """Return the percent (0 … 1) of a keyframe that is active from step `first` on.

    `first` counts from 0; 0 returns 0: active in all steps.
    """
    if first == 0:
        return 0.0
    if not samples_flow(sampler):
        return round((first - 0.5) / (num_steps - 1), 3 if num_steps <= _MOST_STEPS else 6)
    if num_steps <= _MOST_STEPS:
        return round((first - 0.5) / num_steps, 3)
    before, at = (
        1000 * step // num_steps for step in (first - 1, first)
    )  # in thousandths, like the times of `simple`
    return (before + at) / 2000


def recipe(first: int, num_steps: int, sampler: Mapping[str, Any]) -> str:
    """Return instructions for ComfyUI: nodes and values with the same effect as in pv."""
    scheduler, percent = scheduler_name(sampler), start_percent(first, num_steps, sampler)
    common = f"sampler euler, scheduler {scheduler}, {num_steps} steps"
    if shift := sampler.get("shift"):
        common += f", ModelSamplingSD3 with shift {shift:g}"
    if first == 0:
        return f"ComfyUI: {common}, and the LoRA at strength 1 in all steps."
    over = "steps" if samples_flow(sampler) else "(steps - 1)"
    hooks = (
        f"Create Hook LoRA at strength 1 with Create Hook Keyframe 0.0 at strength 0 and {percent} "
        f"at strength 1, set on both conditionings, positive and negative. {percent} is "
        f"({first} - 0.5) / {over} and right for scheduler {scheduler} at {num_steps} steps only, "
        "not for karras, beta or others."
    )
    two_samplers = (
        f"KSamplerAdvanced 0-{first} on the plain model (add_noise enable, "
        f"return_with_leftover_noise enable) and {first}-{num_steps} with the LoRA "
        f"(add_noise disable, return_with_leftover_noise disable), both with {num_steps} steps, "
        "sampler euler and the same scheduler."
    )
    return f"ComfyUI: {common}. {hooks} Or, without hooks, {two_samplers}"
