"""Further seeds for clips with a low likeness: try n of a clip has `seed + (n - 1) × step`.

The step is the smallest power of ten, at least a million, above all seeds of the batch. So no try
has the seed of a planned clip or of a try of another one, and shards, repeated commands and several
engines try the same seeds.
"""

from dataclasses import replace
from pathlib import Path

from pvtool_core.batches.clips import seed_name
from pvtool_core.errors import UsageError
from pvtool_core.settings.jobs import RenderItem, TriesConfig
from pvtool_core.store.clip_likeness import ClipLikeness

_SMALLEST_STEP = 10**6
_LARGEST_SEED = 2**63


def seed_step(largest: int, most: int) -> int:
    """Return the step for a batch by its largest seed.

    Raises UsageError if a try would exceed 64 bits.
    """
    step = _SMALLEST_STEP
    while step <= largest:
        step *= 10
    if largest + (most - 1) * step >= _LARGEST_SEED:
        raise UsageError(
            f"Seed {largest} is too large for {most} tries.", "Use smaller seeds or fewer tries."
        )
    return step


def further_try(item: RenderItem, number: int, step: int) -> RenderItem:
    """Return a try of a planned clip, beside it; `number` is 1 for the first after its own."""
    seed = item.seed + number * step
    return replace(item, seed=seed, clip=str(Path(item.clip).with_name(seed_name(seed))))


def applies_to(item: RenderItem, tries: TriesConfig) -> bool:
    """Return whether a clip needs a likeness; clips of the base model do not show the identity."""
    return tries.min_likeness > 0 and item.shows_identity and item.strength > 0


def is_settled(likeness: ClipLikeness | None, tries: TriesConfig) -> bool:
    """Return whether no further seed is tried for a clip, by the likeness in its sidecar."""
    if likeness is None:
        return False
    means = [likeness.mean, *(one.mean for one in likeness.tries)]
    return max(means) >= tries.min_likeness or max(1, len(likeness.tries)) >= tries.max_tries
