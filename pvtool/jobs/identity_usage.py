"""Runs, batches and clips of an identity, which remain after it is removed."""

from dataclasses import dataclass
from pathlib import Path

from pvtool_core.batches.folder import BatchFolder, list_batches, read_items
from pvtool_core.errors import PvError
from pvtool_core.paths import batches_dir, data_dir
from pvtool_core.store.identities import Identity
from pvtool_core.store.run_index import runs_of


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
