"""The folder of a batch: clips to render, engines and failures.

    items.jsonl    every clip to render, one RenderItem per line
    refused.jsonl  rows skipped by --keep-going, each with the reason
    failed.jsonl   clips that failed, with the reason
    worker-0/      the run folder of an engine (see runs.py); one for each device


The clips are in the job's `out`. Engines of other batches, and on other machines, may render the
same clips.
"""

import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import orjson

from pvtool_core.batches.clips import Names
from pvtool_core.files import replace_file
from pvtool_core.permissions import make_private
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup, read_job, require
from pvtool_core.store.runs import RunFolder
from pvtool_core.untrusted import JOB_BYTES, exists, is_folder, read_regular

_PROMPTS_PER_MODEL = 500  # prompts for which a model is loaded; their embeddings take memory
_TIME_FORMAT = "%Y%m%d-%H%M%S"
_WORKER = re.compile(r"worker-[0-9]{1,9}")


@dataclass(frozen=True)
class Relocation:
    """Where recorded files are after the folder `old`, with all that is in it, became `new`."""

    old: Path
    new: Path

    @classmethod
    def of(cls, recorded: Path, now: Path) -> Self:
        """Return the relocation by which a file at `recorded` came to `now`.

        The longest common end of both paths is what was copied or moved together with it.
        """
        common = 0
        for one, other in zip(recorded.parts[:0:-1], now.parts[:0:-1], strict=False):
            if one != other:
                break
            common += 1
        ends = len(recorded.parts) - common, len(now.parts) - common
        return cls(Path(*recorded.parts[: ends[0]]), Path(*now.parts[: ends[1]]))

    def find(self, text: str) -> str:
        """Return where a recorded path is now; itself if a file is only there."""
        here = self.moved(text)
        return here if exists(Path(here)) or not exists(Path(text)) else text

    def moved(self, text: str) -> str:
        """Return a path in `new` for one in `old`; others are returned as they are."""
        path = Path(text)
        if self.old == self.new or ".." in path.parts or not path.is_relative_to(self.old):
            return text
        return str(self.new / path.relative_to(self.old))


class BatchFolder:
    """The folder of a batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.items = path / "items.jsonl"
        self.failed = path / "failed.jsonl"
        self.refused = path / "refused.jsonl"

    @property
    def created(self) -> datetime | None:
        """The local time of creation, which the name tells; None for another name."""
        try:
            return datetime.strptime(self.name[:15], _TIME_FORMAT)
        except ValueError:
            return None

    def worker(self, number: int) -> RunFolder:
        return RunFolder(self.path / f"worker-{number}")

    def workers(self) -> list[RunFolder]:
        """Return the folders of the engines by number."""
        named = [
            path
            for path in self.path.glob("worker-*")
            if _WORKER.fullmatch(path.name) and is_folder(path)
        ]
        found = [path for path in named if exists(path / "config.toml")]
        return [
            RunFolder(path)
            for path in sorted(found, key=lambda path: int(path.name.removeprefix("worker-")))
        ]

    def relocation(self, job: RenderJob) -> Relocation:
        """Return how the batch was copied or moved after its job was written."""
        return Relocation.of(Path(job.items), self.items)

    def job(self) -> RenderJob:
        """Return the job of the first engine; others differ by device only.

        Raises what `read_job` raises.
        """
        return require(read_job(self.worker(0).config), RenderJob)


def new_batch(root: Path) -> BatchFolder:
    """Create the folder of a new batch, named after the time."""
    make_private(root)
    while True:
        folder = root / f"{time.strftime(_TIME_FORMAT)}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):  # of another process in the same second
            folder.mkdir(mode=0o700)
            return BatchFolder(folder)


def list_batches(root: Path) -> list[BatchFolder]:
    """Return the batches under `root`, oldest first."""
    return [
        BatchFolder(path) for path in sorted(root.glob("[!.]*")) if exists(path / "items.jsonl")
    ]


def write_items(path: Path, items: Iterable[RenderItem]) -> None:
    """Write the list of clips to render, completely or not at all."""
    replace_file(
        path, b"".join(orjson.dumps(vars(item), option=orjson.OPT_APPEND_NEWLINE) for item in items)
    )


def read_items(path: Path) -> list[RenderItem]:
    """Read a file of `write_items`, also of older versions."""
    return [_read_item(line) for line in path.read_bytes().splitlines()]


def _read_item(line: bytes) -> RenderItem:
    values = orjson.loads(line)
    for removed in ("switch_width", "tail_width"):  # written before version 0.2
        values.pop(removed, None)
    return RenderItem(**values)


def write_refused(path: Path, refused: Mapping[str, str]) -> None:
    """Write skipped rows, by their position, with the reason."""
    rows = [{"row": row, "reason": reason} for row, reason in refused.items()]
    replace_file(
        path, b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    )


def read_refused(path: Path) -> dict[str, str]:
    """Read a file of `write_refused`; empty without a file. Raises OSError and ValueError."""
    try:
        lines = read_regular(path, JOB_BYTES).splitlines()
    except FileNotFoundError:
        return {}
    rows = [orjson.loads(line) for line in lines]
    if not all(isinstance(row, dict) and {"row", "reason"} <= row.keys() for row in rows):
        raise ValueError("a line lacks its row or its reason")
    return {str(row["row"]): str(row["reason"]) for row in rows}


@dataclass(frozen=True)
class Group:
    """Clips of one setup, prompt and seed, which share the prefix.

    `key` names their lease, `fingerprints` has the fingerprint of each by its path, and `prompts`
    are those for which the model is loaded together with theirs.
    """

    key: str
    setup: Setup
    prompts: tuple[str, ...]
    fingerprints: Mapping[str, str]
    items: Sequence[RenderItem]

    def only(self, items: Iterable[RenderItem]) -> "Group":
        """Return the group with only its clips in `items`."""
        wanted = {item.clip for item in items}
        return replace(self, items=[item for item in self.items if item.clip in wanted])


def group_items(job: RenderJob, items: Iterable[RenderItem]) -> list[Group]:
    """Group clips in their order, with all groups of one setup together."""
    names = [Names(setup, job.encoding.upscale, job.encoding.watermark) for setup in job.setups]
    members: dict[tuple[int, str], list[RenderItem]] = {}
    for item in items:
        key = names[item.setup].trajectory(item.prompt, item.seed)
        members.setdefault((item.setup, key), []).append(item)
    ordered = sorted(members.items(), key=lambda pair: pair[0][0])
    prompts = _prompts_per_model((setup, found[0].prompt) for (setup, _), found in ordered)
    groups: list[Group] = []
    for (setup, key), found in ordered:
        fingerprints = {item.clip: names[setup].fingerprint(item) for item in found}
        block = prompts[setup, found[0].prompt]
        groups.append(Group(key, job.setups[setup], block, fingerprints, found))
    return groups


def _prompts_per_model(
    wanted: Iterable[tuple[int, str]],
) -> dict[tuple[int, str], tuple[str, ...]]:
    """Return for each setup and prompt the prompts for which the model is loaded."""
    by_setup: dict[int, dict[str, None]] = {}
    for setup, prompt in wanted:
        by_setup.setdefault(setup, {})[prompt] = None
    found: dict[tuple[int, str], tuple[str, ...]] = {}
    for setup, prompts in by_setup.items():
        texts = list(prompts)
        for start in range(0, len(texts), _PROMPTS_PER_MODEL):
            block = tuple(texts[start : start + _PROMPTS_PER_MODEL])
            found |= {(setup, prompt): block for prompt in block}
    return found
