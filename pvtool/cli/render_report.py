"""Print clips of `pv render`: planned, rendered and failed ones."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from pvtool.output import Output
from pvtool.text import duration, plain, shown
from pvtool_core.batches.plan import BatchPlan, Shard, as_row, estimates, states
from pvtool_core.batches.rows import row_table
from pvtool_core.errors import PvError
from pvtool_core.files import replace_file
from pvtool_core.rendering.results import clip_event
from pvtool_core.settings.jobs import RenderJob, TriesConfig
from pvtool_core.store.events import ClipEvent

SHOWN_FAILURES = 20
SHOWN_ADAPTERS = 20
SHOWN_MISSED = 20


def list_clips(planned: BatchPlan, job: RenderJob, output: Output) -> None:
    """Print a line for each planned clip: its state, the estimated time if known, its path."""
    here = f"{Path.cwd()}/"
    found = [
        "again" if job.overwrite and state in {"there", "unlike"} else state
        for state in states(planned, job.encoding, job.tries)
    ]
    times = estimates(planned, found)
    for item, state, seconds in zip(planned.items, found, times, strict=True):
        event = clip_event(item, planned.setups, job.encoding, status=state, seconds=seconds)
        value = _clip_table(event, planned.lost(item)) if output.as_json else {}
        time = "?" if seconds is None else duration(seconds)
        output.result(value, plain(f"{state:8} {time:>6}  {item.clip.removeprefix(here)}"))
    counts = ", ".join(f"{count} {state}" for state, count in Counter(found).most_common())
    output.say(f"{len(found)} clips: {counts or 'none'}. {_in_all(times)}")
    if job.tries.min_likeness:
        output.say(
            f"Clips below likeness {job.tries.min_likeness:.2f} need more time: up to "
            f"{job.tries.max_tries} seeds each."
        )


def _in_all(times: Sequence[float | None]) -> str:
    """Return the sum of the known times, and the number of unknown ones."""
    unknown = sum(seconds is None for seconds in times)
    known = sum(seconds for seconds in times if seconds is not None)
    if unknown and not known:
        return "Unknown rendering time: no similar clips were rendered yet."
    more = f", without {unknown} of unknown time" if unknown else ""
    return f"Estimated time: {duration(known)}{more}." if known else "Nothing to do."


def _files_of(event: ClipEvent) -> list[str]:
    """Return the paths of a clip's files, existing or not."""
    folder = event.path.rpartition("/")[0]
    return [f"{folder}/{name}" for name in event.files]


def _clip_table(event: ClipEvent, cut: str) -> dict[str, Any]:
    """Return a clip as JSON: `path` is the first of `files`, `prompt_cut` the truncated part."""
    files = _files_of(event)
    table = {**event.record(), "path": files[0], "files": files}
    del table["time"], table["type"]
    return {**table, "prompt_cut": cut} if cut else table


def print_clip(output: Output, event: ClipEvent, cut: str = "") -> None:
    """Print a line for each file of a clip, or one JSON object for the clip."""
    if event.status == "failed":
        lines = [plain(f"failed   {shown(Path(event.path))}: {event.reason}")]
    else:
        lines = [f"{event.status:8} {shown(Path(file))}" for file in _files_of(event)]
    output.stream(_clip_table(event, cut), "\n".join(lines))


def missed(event: ClipEvent, tries: TriesConfig) -> str:
    """Return how a clip missed the required likeness; empty if it did not."""
    found = event.likeness
    if not (tries.min_likeness and found and (event.run or event.method)):
        return ""
    seed, mean = (found.best.seed, found.best.mean) if found.best else (event.seed, found.mean)
    if mean >= tries.min_likeness:
        return ""
    count = max(1, len(found.tries))
    kept = f"kept the best (seed {seed})" if count > 1 else "kept"
    after = f"after {count} {'tries' if count > 1 else 'try'}"
    return f"likeness {mean:.2f} < {tries.min_likeness:.2f} {after}: {kept}"


def warn_of_missed(output: Output, found: Sequence[tuple[str, str]]) -> None:
    """Warn about clips, by path, that missed the required likeness."""
    for path, message in found[:SHOWN_MISSED]:
        output.say(f"Warning: {shown(Path(path))}: {message}.")
    if more := len(found[SHOWN_MISSED:]):
        output.say(f"Warning: the likeness of {more} more clips is too low.")


def print_adapters(output: Output, planned: BatchPlan) -> None:
    """Print the run and step used for each identity, and warn if another run was trained longer."""
    for name, trained in list(planned.adapters.items())[:SHOWN_ADAPTERS]:
        identity = name.partition(" ")[0]
        output.say(f"{identity}: using {trained.run}, step {trained.step}.")
        for checkpoint in trained.damaged:
            output.say(f"Warning: the checkpoint {checkpoint} is corrupt and not used.")
        if trained.longer:
            run = trained.longer.partition("@")[0]
            output.say(
                f"Warning: {run} was trained longer ({trained.longer.partition('@')[2]} steps). "
                f"Use it with `--run {run}`."
            )
    more = len(planned.adapters) - SHOWN_ADAPTERS
    if more > 0:
        output.say(f"… and {more} more; `--json` prints the run and step of each clip.")
    for note in list(planned.notes)[:SHOWN_ADAPTERS]:
        output.say(note)
    more = len(planned.notes) - SHOWN_ADAPTERS
    if more > 0:
        output.say(f"… and {more} more differences between training and rendering.")


def print_mistake(output: Output, source: str, error: PvError) -> None:
    """Print the reason why a row is skipped."""
    output.say(f"{source and f'{source}: '}{error.message}")


class FailureReport:
    """The file of a batch's failed clips, which --prompts accepts.

    `again` is the clip of --from, whose settings the rows lack.
    """

    def __init__(
        self, planned: BatchPlan, out: Path, shard: Shard | None, again: Path | None
    ) -> None:
        self.file = out / f"failed{shard or ''}.jsonl"
        self._planned = planned
        self._retry = f"--from {shown(again)} " if again else ""

    def write(self, failed: Sequence[ClipEvent]) -> None:
        """Write the failures."""
        reasons = {event.path: event.reason for event in failed}
        lines = [
            {
                **row_table(as_row(item, context)),
                "path": item.clip,
                "status": "failed",
                "reason": reasons[item.clip],
            }
            for item, context in zip(self._planned.items, self._planned.contexts, strict=True)
            if item.clip in reasons
        ]
        replace_file(
            self.file,
            b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines),
        )

    def clear(self) -> None:
        """Remove the file of an earlier batch, if no clip failed."""
        self.file.unlink(missing_ok=True)

    def show(self, failed: Sequence[ClipEvent], output: Output) -> None:
        """Print the failures, or the first ones of many."""
        output.say(f"Failed clips (retry with {self._retry}--prompts {shown(self.file)}):")
        for event in failed[:SHOWN_FAILURES]:
            output.say(f"  {shown(Path(event.path))}: {event.reason}")
        if more := len(failed[SHOWN_FAILURES:]):
            output.say(f"  … and {more} more.")
