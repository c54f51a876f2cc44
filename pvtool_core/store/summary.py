"""Summaries of runs at one moment, for programs, tables and the dashboard."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pvtool_core.errors import BrokenRun, Missing, PvError, SettingsError, UsageError
from pvtool_core.paths import identities_dir
from pvtool_core.settings.jobs import TrainJob, read_job, require
from pvtool_core.settings.objectives import DEFAULT_OBJECTIVE, OBJECTIVES
from pvtool_core.settings.sample_metrics import LIKENESS
from pvtool_core.store.event_log import first_event_time, newest_record, newest_records
from pvtool_core.store.events import Record, ScoresEvent, TelemetryEvent, parse_event
from pvtool_core.store.identities import with_folder_here
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder, checkpoint_step
from pvtool_core.store.trend import RECENT_STEPS, Trend, trend_of
from pvtool_core.untrusted import is_file


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run at one moment.

    Values from corrupt files are empty, and `problem` names the file. `losses` are those of the
    objective, each as the mean of the last 20 steps with its trend, since one step is the loss of
    one random prompt; None without values. `seconds_per_step` is the mean time of those steps.
    `likeness` is the held-out likeness of the best checkpoint, at `best_step`, and
    `newest_likeness` that of the newest samples. `duration` is the time in seconds from the
    creation to the newest heartbeat, with pauses. `device` is the name of the accelerator.
    `note` and `tags` are the user's. `sweeps` are the sweeps that use the run.
    """

    run: str
    identity: str = ""
    preset: str = ""
    state: State
    step: int = 0
    iterations: int = 0
    started: str = ""
    eta: float | None = None
    seconds_per_step: float | None = None
    likeness: float | None = None
    best_step: int | None = None
    newest_likeness: float | None = None
    duration: float | None = None
    device: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    losses: Mapping[str, Trend | None] = field(
        default_factory=lambda: dict.fromkeys(OBJECTIVES[DEFAULT_OBJECTIVE].losses)
    )
    problem: str = ""

    def table(self) -> dict[str, Any]:
        """Return it as a table for JSON.

        Each loss has its name as the key, and its trend the key NAME_trend (↑, ↓, →, or empty).
        Runs without a sweep have no key `sweeps`.
        """
        values = asdict(self)
        if not self.sweeps:
            values.pop("sweeps")
        losses, problem = values.pop("losses"), values.pop("problem")
        means = {name: trend and trend["mean"] for name, trend in losses.items()}
        trends = {
            f"{name}_trend": trend["arrow"] if trend else "" for name, trend in losses.items()
        }
        return {**values, **means, **trends, "problem": problem}


@dataclass(frozen=True, kw_only=True)
class RunOrigin:
    """The identity of a run and its time of creation (seconds since 1970).

    Both are recorded in config.toml. `recorded` is false if no file records the time; it is then
    the time of config.toml.
    """

    identity: str
    fingerprint: str
    preset: str
    iterations: int
    objective: str
    device: str
    created: float
    recorded: bool
    sweeps: tuple[str, ...] = ()


def summary_table(folder: RunFolder) -> dict[str, Any]:
    """Return the summary of a run for programs."""
    return summarize_run(folder).table()


def run_origin(folder: RunFolder) -> RunOrigin:
    """Read the recorded origin of a run. Raises what `read_job` does."""
    job = job_of(folder)
    created = _recorded_creation(folder)
    return RunOrigin(
        identity=job.identity.name,
        fingerprint=job.identity.fingerprint,
        preset=job.preset,
        iterations=job.training.iterations,
        objective=job.training.objective,
        device=job.model.device,
        created=created or folder.config.stat().st_mtime,
        recorded=created is not None,
        sweeps=job.sweeps,
    )


def _recorded_creation(folder: RunFolder) -> float | None:
    """Return the creation time in the settings.

    For runs of older versions it is that of the first event.
    """
    if recorded := job_of(folder).created:
        return datetime.fromisoformat(recorded).timestamp()
    return first_event_time(folder.events)


def summarize_run(
    folder: RunFolder, origin: Callable[[RunFolder], RunOrigin] = run_origin
) -> RunSummary:
    """Summarise a run; never raises, whatever its files contain."""
    known: dict[str, Any] = {"losses": dict.fromkeys(OBJECTIVES[DEFAULT_OBJECTIVE].losses)}
    problems: list[str] = []

    def newest_steps(folder: RunFolder) -> dict[str, Any]:
        return _of_newest_steps(folder, known["losses"])

    for look in (
        partial(_of_origin, origin),
        _of_status,
        _of_exit,
        _of_best,
        _of_notes,
        newest_steps,
        _of_newest_scores,
        partial(_of_engine, origin),
    ):
        try:
            known |= look(folder)
        except PvError as error:
            problems.append(error.message)
        except OSError as error:  # removed, or made unreadable, meanwhile
            problems.append(f"{error.strerror}: {error.filename}")
        except (ValueError, OverflowError) as error:  # such as a time outside the calendar
            problems.append(f"{folder.name} cannot be read: {error}.")
    state = folder.state()
    if state not in {State.RUNNING, State.PAUSED}:
        known.pop("eta", None)
    return RunSummary(
        run=folder.name, state=state, **known, problem=" ".join(dict.fromkeys(problems))
    )


def _of_origin(origin: Callable[[RunFolder], RunOrigin], folder: RunFolder) -> dict[str, Any]:
    found = origin(folder)
    started = datetime.fromtimestamp(found.created).astimezone().isoformat(timespec="seconds")
    about = {"identity": found.identity, "preset": found.preset, "iterations": found.iterations}
    losses = dict.fromkeys(OBJECTIVES[found.objective].losses)
    return {**about, "started": started, "losses": losses, "sweeps": found.sweeps}


def _of_engine(origin: Callable[[RunFolder], RunOrigin], folder: RunFolder) -> dict[str, Any]:
    """Return how long the run has taken, and the name of its device."""
    found, status = origin(folder), folder.read_status()
    device = _device_name(folder, found.device)
    return {"device": device, "duration": max(0.0, status.time - found.created) if status else None}


def _device_name(folder: RunFolder, setting: str) -> str:
    """Return the name of the accelerator of `model.device` in the newest telemetry."""
    if setting in {"cpu", "mps"}:
        return setting
    record = newest_record(folder.events, TelemetryEvent.type)
    event = parse_event(record) if record else None
    if not isinstance(event, TelemetryEvent):
        return "" if setting == "auto" else setting
    index = int(setting.partition(":")[2] or 0)
    names = {device.index: device.name for device in event.devices}
    return names.get(index, setting.replace("auto", "cpu"))


def _of_status(folder: RunFolder) -> dict[str, Any]:
    """Return the step of the engine, or of the newest checkpoint if no engine ever ran."""
    if status := folder.read_status():
        return {"step": status.step}
    steps = [checkpoint_step(path) for path in folder.checkpoint_folders()]
    return {"step": max(steps, default=0)}


def _of_best(folder: RunFolder) -> dict[str, Any]:
    best = folder.read_best()
    return {"likeness": best.likeness, "best_step": best.step} if best else {}


def _of_notes(folder: RunFolder) -> dict[str, Any]:
    notes = folder.read_notes()
    return {"note": notes.note, "tags": notes.tags}


def _of_newest_scores(folder: RunFolder) -> dict[str, Any]:
    record = newest_record(folder.events, ScoresEvent.type)
    event = parse_event(record) if record else None
    if isinstance(event, ScoresEvent) and LIKENESS in event.scores:
        return {"newest_likeness": event.scores[LIKENESS]}
    return {}


def _of_exit(folder: RunFolder) -> dict[str, Any]:
    folder.read_exit()  # only to report a corrupt record; the state has its content
    return {}


def _of_newest_steps(folder: RunFolder, names: Iterable[str]) -> dict[str, Any]:
    """Return the newest estimate of the remaining time, the time of a step, and the losses."""
    steps = newest_records(folder.events, "step", RECENT_STEPS)[::-1]
    found: dict[str, Any] = {"losses": {name: trend_of(_numbers(steps, name)) for name in names}}
    if seconds := trend_of(_numbers(steps, "seconds")):
        found["seconds_per_step"] = seconds.mean
    if steps and isinstance(eta := steps[-1].get("eta"), float | int):
        found["eta"] = eta
    return found


def _numbers(steps: Iterable[Record], name: str) -> list[float | None]:
    values = [step.get(name) for step in steps]
    return [value if isinstance(value, float | int) else None for value in values]


def job_of(folder: RunFolder) -> TrainJob:
    """Return the settings of a run. Raises what `read_job` does."""
    try:
        known = _job_of(folder.config, folder.config.lstat().st_ctime_ns)
    except FileNotFoundError:
        return require(read_job(folder.config), TrainJob)
    if isinstance(known, PvError):
        raise known.with_traceback(None)
    return known


@lru_cache(maxsize=256)
def _job_of(config: Path, _changed: int) -> TrainJob | PvError:
    """Read the settings, valid or not, once per change: the dashboard asks every second."""
    try:
        return with_identity_here(require(read_job(config), TrainJob), config.parent)
    except (UsageError, BrokenRun) as error:
        return error


def with_identity_here(job: TrainJob, run: Path) -> TrainJob:
    """Return the settings with the identity's folder beside the run, or in the user's library.

    It is the recorded one unless the data folder was copied or moved.
    """
    beside = run.parent.parent / identities_dir().name
    return replace(job, identity=with_folder_here(job.identity, beside, identities_dir()))


def check_training(folder: RunFolder) -> None:
    """Check that a run to resume is a training job: other jobs write to any path.

    Invalid settings are left to the engine. Raises UsageError, BrokenRun.
    """
    with suppress(SettingsError):
        job_of(folder)


def adapter_of(folder: RunFolder) -> Path:
    """Return the adapter of the newest complete checkpoint of a run. Raises Missing without one."""
    checkpoint = folder.latest_checkpoint()
    if checkpoint is None:
        raise Missing(
            "checkpoint of the run", folder.name, f"Train it with `pv runs resume {folder.name}`."
        )
    return adapter_in(checkpoint)


def adapter_in(checkpoint: Path) -> Path:
    """Return the adapter of a checkpoint. Raises BrokenRun without one."""
    if not is_file(checkpoint / ADAPTER_FILE):
        raise BrokenRun(checkpoint / ADAPTER_FILE, "the file is missing")
    return checkpoint / ADAPTER_FILE
