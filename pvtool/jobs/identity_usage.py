"""Runs, adapters, batches and clips of an identity, which remain after it is removed or revoked."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pvtool_core.batches.clips import sidecar_path
from pvtool_core.batches.folder import BatchFolder, list_batches, read_items
from pvtool_core.errors import PvError
from pvtool_core.paths import batches_dir, data_dir, path_text
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.exports import exports_of
from pvtool_core.store.identities import Identity
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import ADAPTER_FILE, checkpoint_step


@dataclass(frozen=True)
class IdentityUsage:
    """Names of runs; folders of demo clips, batches (names and prompts) and rendered clips."""

    runs: tuple[str, ...]
    demos: tuple[str, ...]
    batches: tuple[str, ...]
    renders: tuple[str, ...]


def usage_of(person: Identity) -> IdentityUsage:
    """Return what exists of an identity elsewhere.

    Exported files and copies are not recorded.
    """
    runs = tuple(run.name for run in runs_of(person))
    demos = [data_dir() / "demo" / run for run in runs]
    found = [
        (batch, renders)
        for batch in list_batches(batches_dir())
        if (renders := _renders(batch, person, runs))
    ]
    renders = sorted(
        {str(folder) for _, folders in found for folder in folders if folder.is_dir()}
        - set(map(str, demos))
    )
    return IdentityUsage(
        runs=runs,
        demos=tuple(str(folder) for folder in demos if folder.is_dir()),
        batches=tuple(str(batch.path) for batch, _ in found),
        renders=tuple(renders),
    )


@dataclass(frozen=True)
class Remains:
    """What exists of an identity: `adapters` are checkpoints as RUN@STEP, `exports` known files.

    `clips` are the folders of its rendered clips, with the number of clips in each.
    """

    usage: IdentityUsage
    adapters: tuple[str, ...]
    exports: tuple[str, ...]
    clips: Mapping[str, int]

    def record(self) -> dict[str, Any]:
        """Return it as a JSON object, with the commands that delete it."""
        return {
            **asdict(self.usage),
            "adapters": list(self.adapters),
            "exports": list(self.exports),
            "clips": dict(self.clips),
            "delete": self.commands(),
        }

    def commands(self) -> list[str]:
        """Return commands that delete runs with their adapters, clips and exports."""
        folders = [*self.clips, *self.usage.demos, *self.usage.batches]
        removals = (("pv runs remove", self.usage.runs), ("rm -r", folders), ("rm", self.exports))
        return [f"{verb} {shlex.join(words)}" for verb, words in removals if words]


def remains_of(person: Identity) -> Remains:
    """Return all that is known of an identity. Copies are not recorded."""
    usage = usage_of(person)
    adapters = [
        f"{run.name}@{checkpoint_step(folder)}"
        for run in runs_of(person)
        for folder in run.checkpoint_folders()
        if (folder / ADAPTER_FILE).is_file()
    ]
    clips = Counter(
        str(Path(item.clip).parents[1])
        for batch in list_batches(batches_dir())
        for item in _items(batch, person, usage.runs)
        if item.adapter and sidecar_path(item.clip).is_file()
    )
    exports = tuple(path_text(export.path) for export in exports_of(person.ref.fingerprint))
    return Remains(usage, tuple(adapters), exports, dict(sorted(clips.items())))


def _items(batch: BatchFolder, person: Identity, runs: tuple[str, ...]) -> Iterator[RenderItem]:
    """Yield the clips of this identity in a batch; none of a corrupt one."""
    try:
        items = read_items(batch.items)
    except (OSError, ValueError, TypeError):
        return
    yield from (item for item in items if item.identity == person.name or item.run in runs)


def _renders(batch: BatchFolder, person: Identity, runs: tuple[str, ...]) -> set[Path]:
    """Return the output folders of a batch with clips of this identity."""
    try:
        items = [
            item
            for item in read_items(batch.items)
            if item.identity == person.name or item.run in runs
        ]
        if not items:
            return set()
        job = batch.job()
        return {Path(batch.relocation(job).find(job.out))}
    except (
        PvError,
        OSError,
        ValueError,
        TypeError,
    ):  # a corrupt batch is listed: it may contain the identity
        return {batch.path}
