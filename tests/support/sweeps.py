"""Sweeps of few iterations on the tiny preset, and identities for them."""

from pathlib import Path

SMALL = {
    "training.iterations": 2,
    "training.cached_pairs": 1,
    "training.checkpoint_every": 1,
    "training.sample_every": 0,
    "sampler.num_inference_steps": 4,
    "model.num_frames": 4,
}
"""Settings with which a cell takes seconds."""

HEAD = """
[sweep]
identities = ["ann"]
reference = "{reference}"

[evaluation]
most_prompts = 1
seeds = [0, 1]
metrics = ["likeness", "motion", "clip_t"]

[paper]
source = "A paper"
columns = {{ Face = "likeness", "CLIP-T" = "clip_t" }}
rows = {{ with = {{ Face = 61.05, "CLIP-T" = 28.59 }}, theirs = {{ Face = 40.0 }} }}

[set]
{settings}
"""
VARIANT = """
[[variant]]
name = "{name}"
set = {{ "semantic_reward.weight" = {weight} }}
"""


def write_sweep(path: Path, variants: dict[str, float], **changes: object) -> Path:
    """Write a sweep with a weight of the semantic reward for each variant."""
    settings = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    lines = "\n".join(f'"{key}" = {value}' for key, value in settings.items())
    parts = [HEAD.format(settings=lines, reference=next(iter(variants)))]
    parts += [VARIANT.format(name=name, weight=weight) for name, weight in variants.items()]
    path.write_text("".join(parts))
    return path
