"""Order and filter of the clips of a batch."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import inf
from operator import attrgetter

from pvtool.dashboard.follow.batch_history import FAILED, BatchHistory
from pvtool_core.batches.clips import BASE
from pvtool_core.batches.listing import Listing
from pvtool_core.store.events import ClipEvent


class Order(StrEnum):
    """Order of the clips of a batch; each value completes a heading."""

    NEWEST = "newest first"
    LIKENESS = "lowest likeness first"
    LISTED = "in the order of the batch"


def arrange(
    history: BatchHistory,
    listing: Listing,
    order: Order = Order.NEWEST,
    words: Sequence[str] = (),
    failed_only: bool = False,
) -> list[ClipEvent]:
    """Return the clips that contain all words, those without an outcome last.

    In the order of the batch, each clip has its place whatever became of it.
    """
    clips = _ordered(history, listing, order)
    if failed_only:
        clips = [clip for clip in clips if clip.status == FAILED]
    if words:
        parts = [word.casefold() for word in words]
        clips = [clip for clip in clips if _contains(clip, parts)]
    return clips


def _ordered(history: BatchHistory, listing: Listing, order: Order) -> list[ClipEvent]:
    known, refused = history.clips, history.refused_rows
    if order is Order.LISTED:
        unlisted = [clip for path, clip in known.items() if path not in listing.clips]
        return [
            *(known.get(path, clip) for path, clip in listing.clips.items()),
            *unlisted,
            *refused,
        ]
    waiting = [clip for path, clip in listing.clips.items() if path not in known]
    if order is Order.LIKENESS:
        return [*sorted(known.values(), key=_likeness), *refused, *waiting]
    newest = sorted(known.values(), key=attrgetter("time"), reverse=True)
    return [*newest, *refused, *waiting]


def _likeness(clip: ClipEvent) -> tuple[bool, float]:
    """Return the key of a clip; those of the base model, which shows other people, are last."""
    return clip.identity == BASE, clip.likeness.mean if clip.likeness else inf


def _contains(clip: ClipEvent, words: Iterable[str]) -> bool:
    run = f"{clip.run}@{clip.step}" if clip.run else ""
    text = f"{clip.status} {clip.identity} {clip.seed} {run} {clip.prompt} {clip.reason}"
    return all(word in text.casefold() for word in words)
