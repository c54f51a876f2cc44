"""Panels of a batch of clips: progress and workers."""

from dataclasses import dataclass, field
from pathlib import Path

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.batch import BatchSnapshot, Worker
from pvtool.dashboard.follow.batch_history import BatchHistory, ClipState, WorkerProgress
from pvtool.dashboard.marks import prompt_content, state_content
from pvtool.dashboard.widgets.progress import ProgressLine
from pvtool.text import duration, plain, shown
from pvtool_core.batches.listing import Listing, first_of
from pvtool_core.store.liveness import State

_LABELS = {
    ClipState.DONE: "rendered",
    ClipState.SKIPPED: "skipped",
    ClipState.ELSEWHERE: "rendered elsewhere",
    ClipState.FAILED: "failed",
}


@dataclass
class BatchView:
    """A batch as shown on its screen.

    `now` is the time for the rate: the time of the last event once the batch has ended.
    """

    path: Path
    snapshot: BatchSnapshot
    history: BatchHistory = field(default_factory=BatchHistory)
    listing: Listing = field(default_factory=Listing)
    now: float = 0.0
    read_error: str = ""
    loaded: bool = False


class BatchProgress(Vertical):
    """Progress of a batch in three lines, with a fourth for problems."""

    DEFAULT_CSS = """
    BatchProgress {
        height: auto;
        padding: 0 1;
        .line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        #bar { color: $primary; }
        #alarm { height: auto; max-height: 3; padding: 0 1; display: none; }
        #alarm { background: $error-muted; color: $text-error; }
        #alarm.-shown { display: block; }
        #alarm.-mild { background: $warning-muted; color: $text-warning; }
    }
    """

    def compose(self) -> ComposeResult:
        yield Static(classes="line", id="summary")
        yield ProgressLine(classes="line", id="bar")
        yield Static(classes="line", id="counts")
        yield Static(id="alarm", markup=False)

    def show(self, batch: BatchView) -> None:
        """Show the current state."""
        self.query_one("#summary", Static).update(_summary(batch), layout=False)
        self.query_one(ProgressLine).show(*_bar(batch.history))
        self.query_one("#counts", Static).update(_counts(batch), layout=False)
        is_error, message = alarm(batch)
        field = self.query_one("#alarm", Static)
        field.set_class(bool(message), "-shown").set_class(not is_error, "-mild")
        field.update(plain(message))


def _summary(batch: BatchView) -> Content:
    snapshot, history, listing = batch.snapshot, batch.history, batch.listing
    name = plain(first_of(listing.identities)) if listing.identities else snapshot.name
    parts = [state_content(snapshot.state), Content.styled(name, "bold")]
    parts.append(Content(f"{group_digits(history.existing)}/{group_digits(history.total)} clips"))
    if rate := history.rate(batch.now):
        parts.append(Content(f"{format_rate(rate)} per hour"))
    if snapshot.live and (eta := history.eta(batch.now)) is not None:
        parts.append(Content(f"{duration(eta)} left"))
    if listing.runs:
        parts.append(Content(plain(first_of(listing.runs))))
    if listing.prompts:
        parts.append(prompt_content(first_of(listing.prompts)))
    return Content("  ").join(parts)


def _bar(history: BatchHistory) -> tuple[float, str]:
    fraction = history.existing / history.total if history.total else 0.0
    return fraction, f" {int(100 * fraction)}%"  # 100 only if all clips exist


def _counts(batch: BatchView) -> Content:
    history = batch.history
    parts = [
        Content.styled(
            f"{group_digits(count)} {label}", "$text-error" if outcome is ClipState.FAILED else ""
        )
        for outcome, label in _LABELS.items()
        if (count := history.failed if outcome is ClipState.FAILED else history.counts[outcome])
        or outcome is ClipState.DONE
    ]
    if history.remaining:
        parts.append(Content(f"{group_digits(history.remaining)} remaining"))
    if (mean := history.mean_likeness) is not None:
        parts.append(Content(f"mean likeness {mean:.2f}"))
    parts += (
        [Content.styled(f"in {plain(shown(Path(batch.snapshot.out)))}", "$text-muted")]
        if batch.snapshot.out
        else []
    )
    parts.append(Content.styled(plain(batch.snapshot.name), "$text-muted"))
    return Content("  ").join(parts)


def alarm(batch: BatchView) -> tuple[bool, str]:
    """Return whether the most urgent problem is an error, and its message (empty without one)."""
    snapshot, history = batch.snapshot, batch.history
    if batch.read_error or snapshot.problem:
        return True, f"{batch.read_error} {snapshot.problem}".strip()
    if lost := [worker.name for worker in snapshot.workers if worker.state is State.LOST]:
        consequence = (
            "Other workers render the missing clips."
            if snapshot.live
            else "Run the same `pv render` command to render the missing clips."
        )
        return True, f"Engine process of {', '.join(lost)} lost. {consequence}"
    if failed := [
        worker for worker in snapshot.workers if worker.state is State.FAILED and worker.problem
    ]:
        worker = f"{failed[0].name}: " if len(snapshot.workers) > 1 else ""
        return True, worker + failed[0].problem
    if warnings := [warning for worker in history.workers.values() for warning in worker.warnings]:
        return False, warnings[-1] + (f" ({len(warnings)} warnings)" if len(warnings) > 1 else "")
    if batch.listing.unreadable:
        return False, f"Unreadable lines in items.jsonl skipped: {batch.listing.unreadable}."
    if history.unreadable:
        return False, f"Unreadable lines in events.jsonl skipped: {history.unreadable}."
    return False, ""


def group_digits(number: int) -> str:
    """Format a number with thousands separated by spaces: `12345` as `12 345`."""
    return f"{number:,}".replace(",", " ")


def format_rate(rate: float) -> str:
    """Format clips per hour, with a decimal below 10."""
    return f"{rate:.1f}" if rate < 10 else group_digits(round(rate))


class Workers(VerticalScroll):
    """List of workers with state, device and current clip."""

    DEFAULT_CSS = """
    Workers { height: auto; max-height: 4; padding: 0 1; }
    Workers > Static { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(can_focus=False)

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, batch: BatchView) -> None:
        """List the workers."""
        progress, workers = batch.history.workers, batch.snapshot.workers
        lines = [
            _worker_line(worker, progress.get(worker.name, WorkerProgress())) for worker in workers
        ]
        self.query_one(Static).update(
            Content("\n").join(lines) if lines else "No worker has started yet."
        )


def _worker_line(worker: Worker, progress: WorkerProgress) -> Content:
    parts = [
        state_content(worker.state),
        Content(worker.name),
        Content.styled(_device(worker, progress), "$text-muted"),
    ]
    if worker.state in {State.STARTING, State.RUNNING} and progress.stage[0] == "loading":
        parts.append(Content("loading the model"))
    elif progress.newest:
        parts.append(
            Content(f"{progress.newest.identity}, seed {progress.newest.seed}: ")
            + prompt_content(progress.newest.prompt)
        )
    return Content("  ").join(parts)


def _device(worker: Worker, progress: WorkerProgress) -> str:
    """Return the device of a worker, with memory and utilisation of an accelerator."""
    index = int(number) if (number := worker.device.partition(":")[2]).isdecimal() else 0
    for device in progress.devices if worker.device != "cpu" else ():
        used, total, load = device.memory_used, device.memory_total, device.utilisation
        if device.index == index and used is not None and total:
            busy = f" {load:.0f} %" if load is not None else ""
            memory = f"{used / 2**30:.1f}/{total / 2**30:.0f} GiB"
            return f"{worker.device} {device.name} {memory}{busy}"
    return worker.device
