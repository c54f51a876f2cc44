"""What is known of runs without following them, and of a preset's weights: for programs, tables and the dashboard."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pvtool_core.config import Settings, TrainJob, read_job, require
from pvtool_core.errors import BrokenRun, Missing, PvError, SettingsError, UsageError, WeightsMissing
from pvtool_core.library import Identity
from pvtool_core.models.store import missing_models
from pvtool_core.paths import runs_dir
from pvtool_core.runs import ADAPTER_FILE, Event, RunFolder, State, list_runs, newest_event
from pvtool_core.untrusted import is_file
from pvtool_core.weights import locate_weights

HERE = "here"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run at one moment. What a broken file keeps from us is empty, and `problem` says which file it is."""

    run: str
    identity: str = ""
    preset: str = ""
    state: State
    step: int = 0
    iterations: int = 0
    started: str = ""
    eta: float | None = None
    icr: float | None = None
    scr: float | None = None
    loss: float | None = None
    problem: str = ""


def facts(folder: RunFolder) -> dict[str, Any]:
    """What programs are told about a run."""
    return asdict(run_facts(folder))


def run_facts(folder: RunFolder) -> RunFacts:
    """Look at a run once. Whatever its files hold, this raises nothing."""
    known: dict[str, Any] = {}
    problems: list[str] = []
    for look in (_of_config, _of_status, _of_exit, _of_newest_step):
        try:
            known |= look(folder)
        except PvError as error:
            problems.append(error.message)
        except OSError as error:  # removed, or made unreadable, while we look
            problems.append(f"{error.strerror}: {error.filename}")
        except (ValueError, OverflowError) as error:  # such as a time that no calendar has
            problems.append(f"{folder.name} cannot be read: {error}.")
    state = folder.state()
    if state not in {State.RUNNING, State.PAUSED}:
        known.pop("eta", None)
    return RunFacts(run=folder.name, state=state, **known, problem=" ".join(problems))


def _of_config(folder: RunFolder) -> dict[str, Any]:
    job = job_of(folder)
    started = datetime.fromtimestamp(folder.config.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    about = {"identity": job.identity.name, "preset": job.preset, "iterations": job.training.iterations}
    return {**about, "started": started}


def _of_status(folder: RunFolder) -> dict[str, Any]:
    status = folder.read_status()
    return {"step": status.step} if status else {}


def _of_exit(folder: RunFolder) -> dict[str, Any]:
    folder.read_exit()  # the state tells what it says; a broken one is a problem
    return {}


def _of_newest_step(folder: RunFolder) -> dict[str, Any]:
    newest: Event = newest_event(folder.events, "step") or {}
    told = {key: newest.get(key) for key in ("eta", "icr", "scr", "loss")}
    return {key: value for key, value in told.items() if isinstance(value, float | int)}


def job_of(folder: RunFolder) -> TrainJob:
    """A run's settings. Raises what `read_job` does."""
    try:
        known = _job_of(folder.config, folder.config.lstat().st_ctime_ns)
    except FileNotFoundError:
        return require(read_job(folder.config), TrainJob)
    if isinstance(known, PvError):
        raise known.with_traceback(None)
    return known


@lru_cache(maxsize=256)
def _job_of(config: Path, _changed: int) -> TrainJob | PvError:
    """Who watches runs asks for their settings each second, and they hardly ever change, wrong or not."""
    try:
        return require(read_job(config), TrainJob)
    except (UsageError, BrokenRun) as error:
        return error


def check_training(folder: RunFolder) -> None:
    """See that what is to be gone on with is a training: other jobs name files anywhere, and write them.

    Settings that are wrong are for the engine to refuse. Raises UsageError, BrokenRun.
    """
    with suppress(SettingsError):
        job_of(folder)


def runs_of(person: Identity) -> list[RunFolder]:
    """The runs that were trained on this very person, oldest first: not those on another of the same name."""
    return runs_by_person().get(person.ref.fingerprint, [])


def runs_by_person() -> dict[str, list[RunFolder]]:
    """Every run, oldest first, by the fingerprint of whom it was trained on."""
    found: dict[str, list[RunFolder]] = {}
    for run in list_runs(runs_dir()):
        if fingerprint := _trained_on(run):
            found.setdefault(fingerprint, []).append(run)
    return found


def _trained_on(run: RunFolder) -> str | None:
    try:
        return job_of(run).identity.fingerprint
    except (PvError, OSError):  # a run whose settings are broken is nobody's; `pv runs list` says so
        return None


def adapter_of(folder: RunFolder) -> Path:
    """The adapter of a run's newest whole checkpoint. Raises Missing if there is none yet."""
    checkpoint = folder.latest_checkpoint()
    if checkpoint is None:
        raise Missing("checkpoint of the run", folder.name, f"`pv runs resume {folder.name}` trains it.")
    return adapter_in(checkpoint)


def adapter_in(checkpoint: Path) -> Path:
    """The adapter of a checkpoint. Raises BrokenRun if it holds none."""
    if not is_file(checkpoint / ADAPTER_FILE):
        raise BrokenRun(checkpoint / ADAPTER_FILE, "there is no such file")
    return checkpoint / ADAPTER_FILE


def weights_here(settings: Settings) -> str:
    """`here`, or what is missing and the command that brings it, or why the weights cannot be used."""
    try:
        if missing := missing_models(settings):
            return f"missing: {', '.join(missing)}; `pv models fetch {' '.join(missing)}` brings them"
        locate_weights(settings)
    except WeightsMissing as error:
        return f"{error.message} {error.hint}"
    except PvError as error:
        return f"cannot be used: {error.message}"
    return HERE
