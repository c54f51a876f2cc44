"""The clips and adapters of this library: batches, their output folders, and runs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

from pvtool_core.batches.clips import read_sidecar
from pvtool_core.batches.folder import BatchFolder, group_items, list_batches, read_items
from pvtool_core.errors import PvError
from pvtool_core.hashes import sha256_of
from pvtool_core.paths import batches_dir, runs_dir
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder, checkpoint_step, list_runs

MOST_SIDECARS = 100_000
"""Most sidecars that are read in the output folders of known batches."""
_OF_A_REQUEST = ("identity", "prompt", "seed", "run", "step")


@dataclass(frozen=True)
class KnownClip:
    """A clip of this library: its request, key, and path without suffix."""

    key: str
    identity: str
    prompt: str
    seed: int
    run: str
    step: int
    path: str

    @property
    def request(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in _OF_A_REQUEST)

    def record(self) -> dict[str, Any]:
        """Return the clip as a JSON object."""
        return asdict(self)

    @classmethod
    def of_item(cls, item: RenderItem, key: str) -> Self:
        values = {name: getattr(item, name) for name in _OF_A_REQUEST}
        return cls(key=key, path=item.clip, **values)

    @classmethod
    def of_sidecar(cls, clip: Path) -> Self | None:
        """Return the clip of a sidecar; None without a valid one."""
        record = read_sidecar(clip)
        if record is None:
            return None
        kinds = {"identity": str, "prompt": str, "seed": int, "run": str, "step": int}
        values = {name: record.get(name) for name in kinds}
        key = record.get("fingerprint")
        if not is_key(key) or any(type(values[name]) is not kind for name, kind in kinds.items()):
            return None
        return cls(key=key, path=str(clip), **values)  # pyright: ignore[reportArgumentType]  # checked


def is_key(value: Any) -> bool:
    """Return whether a value of a sidecar is a clip's key: hex digits, as many as one has."""
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


@dataclass
class KnownClips:
    """The clips of this library, by key and by request."""

    by_key: dict[str, KnownClip] = field(default_factory=dict[str, KnownClip])
    by_request: dict[tuple[Any, ...], KnownClip] = field(
        default_factory=dict[tuple[Any, ...], KnownClip]
    )

    def add(self, clip: KnownClip) -> None:
        """Add a clip; the first of a key is kept."""
        self.by_key.setdefault(clip.key, clip)
        self.by_request.setdefault(clip.request, clip)

    def of_id(self, known_id: str, bits: int) -> KnownClip | None:
        """Return the clip whose key begins with these bits; None for none or several."""
        value = int(known_id, 16)
        found = [clip for key, clip in self.by_key.items() if int(key, 16) >> 128 - bits == value]
        return found[0] if len(found) == 1 else None

    def of_facts(self, facts: Mapping[str, Any]) -> KnownClip | None:
        """Return the clip with the request in the metadata of a file."""
        try:
            return self.by_request.get(tuple(facts.get(name) for name in _OF_A_REQUEST))
        except TypeError:  # lists and tables in the metadata of a stranger
            return None


def read_known_clips() -> KnownClips:
    """Return the clips of all batches and of the sidecars in their output folders.

    Unreadable batches and sidecars are skipped.
    """
    known = KnownClips()
    folders: dict[str, None] = {}
    for batch in list_batches(batches_dir()):
        try:
            folders[batch.job().out] = None
            for clip in _clips_of(batch):
                known.add(clip)
        except (PvError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
    sidecars = (clip for folder in folders for clip in _sidecars_in(Path(folder)))
    for path in islice(sidecars, MOST_SIDECARS):
        if clip := KnownClip.of_sidecar(path):
            known.add(clip)
    return known


def _clips_of(batch: BatchFolder) -> Iterator[KnownClip]:
    for group in group_items(batch.job(), read_items(batch.items)):
        for item in group.items:
            yield KnownClip.of_item(item, group.fingerprints[item.clip])


def _sidecars_in(out: Path) -> Iterator[Path]:
    """Yield the clips, without suffix, that have a sidecar: OUT/IDENTITY/PROMPT/seed-N.json."""
    if out.is_dir():
        yield from (path.with_suffix("") for path in out.glob("[!.]*/[!.]*/seed-*.json"))


def adapters_by_sha256() -> dict[str, str]:
    """Return RUN@STEP of every checkpoint of this library, by the hash of its adapter."""
    found: dict[str, str] = {}
    for run in list_runs(runs_dir()):
        for checkpoint in _checkpoints(run):
            try:
                digest = sha256_of(checkpoint / ADAPTER_FILE, follow=False)
                found.setdefault(digest, f"{run.name}@{checkpoint_step(checkpoint)}")
            except (OSError, ValueError, PvError):
                continue
    return found


def _checkpoints(run: RunFolder) -> list[Path]:
    try:
        return run.checkpoint_folders()
    except (OSError, PvError):
        return []
