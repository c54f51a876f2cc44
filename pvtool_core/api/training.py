"""Train: create a run, start its engine process, and return a handle."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pvtool_core.api.machine import check_devices, versions
from pvtool_core.errors import UsageError
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.models.installed import licences
from pvtool_core.models.locate import resolve_settings
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.paths import runs_dir
from pvtool_core.settings.jobs import EncodingConfig, TrainJob, check_trainable, write_job
from pvtool_core.settings.presets import Preset, preset_of
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table
from pvtool_core.store.events import Event
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.liveness import State
from pvtool_core.store.prompts import Banks, check_prompts, check_syntax, fill
from pvtool_core.store.runs import RunFolder, new_run
from pvtool_core.store.summary import adapter_of
from pvtool_core.supervisor import Engines


class TrainingRun:
    """A training run and its engine process, which continues if this process ends.

    Attributes:
        folder: The run folder. Its files are the only connection to the engine.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._engines = Engines([folder]).start()

    @property
    def name(self) -> str:
        """Name of the run, by which `render`, `evaluate` and the commands find it."""
        return self.folder.name

    @property
    def adapter(self) -> Path:
        """Adapter of the newest complete checkpoint. Raises Missing before the first one."""
        return adapter_of(self.folder)

    def events(self) -> Iterator[Event]:
        """Yield the events of the engine as they come, until it has ended."""
        return self._engines.events()

    def wait(self) -> State:
        """Wait until the engine has ended; return FINISHED, or STOPPED after a request to stop.

        Raises:
            PvError: The error with which the engine ended.
        """
        for error in self._engines.errors():
            if error:
                raise error
        return self.folder.state()

    def stop(self) -> None:
        """Ask the engine to write a checkpoint and exit; `wait` returns once it has."""
        self._engines.stop()


def train(
    identity: Identity | str,
    preset: Preset | str = "tiny",
    *,
    prompts: str | Sequence[str] | None = None,
    overrides: Table | None = None,
) -> TrainingRun:
    """Create a run and start training an adapter for an identity.

    Args:
        identity: An identity of the library, or its name.
        preset: A preset or its name.
        prompts: Name of a prompt bank, or prompts with the keyword `<V>`. [default: the bank of
            the preset]
        overrides: Settings that differ from the preset, as tables by section, for example
            `{"training": {"iterations": 60}}`.

    Raises:
        Missing: The identity, the preset or the prompt bank does not exist.
        SettingsError: Settings are unknown or invalid.
        WeightsMissing: Model weights are not installed.
        BadPrompt: A prompt is invalid or too long.
    """
    person = Library().get(identity) if isinstance(identity, str) else identity
    chosen = preset_of(preset)
    settings = chosen.settings(overrides or {})
    check_syntax("negative prompt", settings.sampler.negative_prompt)
    if prompts is None or isinstance(prompts, str):
        bank = Banks().get(prompts or chosen.prompts).fill(person.noun)
    else:
        bank = tuple(fill(prompt, person.noun) for prompt in check_prompts(prompts, "prompts"))
    return TrainingRun(create_run(person, settings, bank, preset=chosen.name))


@dataclass(frozen=True)
class SweepCell:
    """The cell of a sweep that a run is of: its hash, the sweep, and the name of the run."""

    key: str
    sweep: str
    run: str


def create_run(
    identity: Identity,
    settings: Settings,
    prompts: Sequence[str],
    preset: str,
    cell: SweepCell | None = None,
) -> RunFolder:
    """Create the folder of a new run; `preset` is recorded. Raises before anything is created.

    The run of the cell of a sweep has a name of its own, which must be unused.
    """
    photos, held_out = len(identity.references), settings.identity_reward.held_out_photos
    if held_out and held_out >= photos:
        raise UsageError(
            f"identity_reward.held_out_photos is {held_out}, but {identity.name} has {photos} "
            "photos: none is left for training.",
            "Add photos, or hold out fewer.",
        )
    check_trainable(settings)
    settings = resolve_settings(settings)
    require_formats(EncodingConfig())  # samples are mp4 files
    negative, vectors = settings.sampler.negative_prompt, settings.keyword_vectors
    check_prompts_fit(settings.model, prompts, negative, identity.noun, vectors)
    check_devices([settings.model.device])
    root = runs_dir()
    folder = RunFolder(root / cell.run).create() if cell else new_run(root, identity.name)
    try:
        job = TrainJob(
            **settings.sections(),
            run=folder.name,
            preset=preset,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            identity=identity.ref,
            prompts=tuple(prompts),
            versions=versions(),
            licences=licences(settings),
            sweeps=(cell.sweep,) if cell else (),
            cell=cell.key if cell else "",
        )
        write_job(folder.config, job)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    return folder
