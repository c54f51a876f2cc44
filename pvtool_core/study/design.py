"""Choose the sets of a study, its attention checks and its repeats, reproducibly from a seed.

Checks and repeats are each about 8 % of the sets, and at least two, so that checks are 5 to 10 % of
what a rater sees in a study of 17 sets or more. They show clips of methods with an adapter, since a
base model knows no person.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from pvtool_core.batches.clips import clip_sha256
from pvtool_core.errors import InputRefused, UsageError
from pvtool_core.study.method_clips import MethodClip, MethodClips, SetKey
from pvtool_core.study.study_key import Item, Kind

_SHARE = 0.08
_SUFFIX = ".mp4"


@dataclass(frozen=True)
class Design:
    """Items of a study, and the original of each clip by its new name."""

    items: tuple[Item, ...]
    originals: Mapping[str, MethodClip]

    @property
    def study(self) -> str:
        """Name of the study: a hash of its items and clips."""
        return _hash(*(item.name for item in self.items), *self.originals)


def design(methods: Sequence[MethodClips], count: int, seed: int) -> Design:
    """Choose `count` sets, and add checks and repeats.

    Raises UsageError for fewer than two methods, InputRefused if the methods have fewer sets in
    common.
    """
    if len(methods) < 2:
        raise UsageError("A study compares two or more methods.", "Use --methods A=DIR,B=DIR.")
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    builder = _Builder(seed)
    keys = _choose(_common(methods), count, draw)
    sets = [
        builder.add(Kind.SET, key, [(each.name, _clip(each, key)) for each in methods])
        for key in keys
    ]
    personal = [method for method in methods if not method.shared] or methods
    for number in range(max(2, round(_SHARE * count))):
        key, method = keys[draw.randrange(count)], personal[number // 2 % len(personal)]
        stranger = _stranger(method, key, draw) if number % 2 else None
        right = _clip(method, key)
        kind = Kind.WRONG_PERSON if stranger else Kind.IDENTICAL
        builder.add(kind, key, [(method.name, right), (method.name, stranger or right)])
    for item in draw.sample(sets, max(1, round(_SHARE * count))):
        builder.repeat(item)
    return Design(tuple(sorted(builder.items, key=lambda item: item.name)), builder.originals)


class _Builder:
    """Names items and clips by hashes: of the seed, their place, and the content of the clip."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.items: list[Item] = []
        self.originals: dict[str, MethodClip] = {}

    def add(self, kind: Kind, key: SetKey, clips: Sequence[tuple[str, MethodClip]]) -> Item:
        number = len(self.items)
        names: dict[str, str] = {}
        for place, (method, clip) in enumerate(clips):
            name = _hash(self._seed, number, place, clip_sha256(clip.file)) + _SUFFIX
            names[name] = method
            self.originals[name] = clip
        return self._append(
            Item(
                name=_hash(self._seed, number, *names),
                kind=kind,
                **key._asdict(),
                clips=dict(sorted(names.items())),
                right=next(iter(names)) if kind is Kind.WRONG_PERSON else "",
            )
        )

    def repeat(self, item: Item) -> None:
        key = SetKey(item.identity, item.prompt, item.seed)
        name = _hash(self._seed, len(self.items), item.name)
        self._append(
            Item(name=name, kind=Kind.REPEAT, **key._asdict(), clips=item.clips, again=item.name)
        )

    def _append(self, item: Item) -> Item:
        self.items.append(item)
        return item


def _common(methods: Sequence[MethodClips]) -> list[SetKey]:
    """Return the sets of which every method has a clip, in a fixed order."""
    known = set(chain.from_iterable(method.own for method in methods))
    return sorted(key for key in known if all(method.find(key) for method in methods))


def _choose(keys: Iterable[SetKey], count: int, draw: random.Random) -> list[SetKey]:
    """Choose sets at random, with about equally many of each identity."""
    by_identity: dict[str, list[SetKey]] = {}
    for key in keys:
        by_identity.setdefault(key.identity, []).append(key)
    groups = list(by_identity.values())
    for group in groups:
        draw.shuffle(group)
    draw.shuffle(groups)
    dealt = [key for round_ in zip_longest(*groups) for key in round_ if key]
    if len(dealt) < count:
        raise InputRefused(
            f"The methods have {len(dealt)} sets in common, fewer than {count}: "
            "a set is one clip of each method with the same identity, prompt and seed.",
            "Render the missing clips, or use a smaller --sets.",
        )
    return dealt[:count]


def _clip(method: MethodClips, key: SetKey) -> MethodClip:
    clip = method.find(key)
    assert clip is not None
    return clip


def _stranger(method: MethodClips, key: SetKey, draw: random.Random) -> MethodClip | None:
    """Return a clip of another identity by the same method, of the same prompt if possible.

    None if the method has one identity only.
    """
    others = sorted(other for other in method.own if other.identity != key.identity)
    alike = [other for other in others if other.prompt == key.prompt]
    clips = [method.own[other] for other in alike or others]
    return draw.choice(clips) if clips else None


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
