"""Create jobs from options; used by commands and dashboard."""

import dataclasses
import shutil
from datetime import UTC, datetime
from pathlib import Path

from pvtool.jobs.devices import check_devices
from pvtool.jobs.settings import DEFAULT_PRESET, chosen_settings, option_table, versions
from pvtool_core.errors import BadPicture, UsageError, WeightsMissing, is_utf8
from pvtool_core.media.ffmpeg import require_formats
from pvtool_core.models.installed import licences
from pvtool_core.models.locate import family_of, locate_faces, resolve, resolve_settings
from pvtool_core.models.prompt_limits import check_prompts_fit
from pvtool_core.paths import exists, path_text, runs_dir
from pvtool_core.settings.jobs import EncodingConfig, EnrollJob, IdentityRef, TrainJob, write_job
from pvtool_core.settings.presets import Preset
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table, merge
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.prompts import Banks, check_syntax
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import RunFolder, new_run
from pvtool_core.store.summary import job_of, run_origin
from pvtool_core.supervisor import OnEvent, run_short_job

Choice = tuple[Identity, Preset, tuple[str, ...], Settings]
"""Identity, preset, prompts and settings of a new run."""

CONSENT_EXAMPLE = "ann agreed on 3 May 2026 to videos of her for the spring campaign"


def prepare(choice: Choice) -> RunFolder:
    """Create the folder of a new run with complete settings. Raises before anything is created."""
    identity, preset, prompts, settings = choice
    settings = resolve_settings(settings)
    require_formats(EncodingConfig())  # samples are mp4 files
    check_prompts_fit(settings.model, prompts, settings.sampler.negative_prompt, identity.noun)
    check_devices([settings.model.device])
    folder = new_run(runs_dir(), identity.name)
    try:
        job = TrainJob(
            **settings.sections(),
            run=folder.name,
            preset=preset.name,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            identity=identity.ref,
            prompts=prompts,
            versions=versions(),
            licences=licences(settings),
        )
        write_job(folder.config, job)
    except BaseException:
        shutil.rmtree(folder.path)
        raise
    return folder


def choose(
    name: str,
    preset_name: str | None = None,
    base_model: str | None = None,
    bank: str | None = None,
    sets: list[str] | None = None,
    seed: int | None = None,
    style: Table | None = None,
    *,
    only_planned: bool = False,
) -> Choice:
    """Resolve the options of a new run. Raises for any invalid one.

    Weights may be missing, except a base model given here, which determines the family, unless only
    an estimate is needed.
    """
    identity = Library().get(name)
    try:
        family = family_of(resolve(base_model)) if base_model else None
    except WeightsMissing:
        if not only_planned:
            raise
        family = None
    options = option_table(model__base_model=base_model, model__family=family, training__seed=seed)
    preset, settings = chosen_settings(
        preset_name, sets, merge(options, style or {}), family or DEFAULT_PRESET
    )
    check_syntax("negative prompt", settings.sampler.negative_prompt)
    return identity, preset, Banks().get(bank or preset.prompts).fill(identity.noun), settings


def add_identity(
    name: str,
    images: list[Path],
    noun: str,
    face: int,
    consent: str,
    preset: str | None,
    on_event: OnEvent,
) -> Identity:
    """Run an enrolment job on `images` and add the result to the library.

    Raises the errors of both, and UsageError if the consent statement is empty.
    """
    library = Library()
    name = library.check_free(name)
    if not is_utf8(consent):
        raise UsageError("The consent statement is not valid UTF-8.", "Encode it as UTF-8.")
    pictures = tuple(path_text(_existing(image)) for image in images)
    check_consent(consent)
    settings = locate_faces(chosen_settings(preset)[1])
    with library.staging() as staging:
        ref = IdentityRef(name=name, noun=noun, folder=str(staging))
        job = EnrollJob(**settings.sections(), identity=ref, pictures=pictures, face=face)
        run_short_job("identify", job, on_event)
        return library.adopt(staging, name, noun, consent)


def check_consent(statement: str) -> None:
    """Raise UsageError without a consent statement: who agreed, when, and to what."""
    if not statement.strip():
        raise UsageError(
            "A consent statement is required: who agreed, when, and to what.",
            f'Pass it with --consent, for example --consent "{CONSENT_EXAMPLE}".',
        )


def rename_identity(old: str, new: str) -> Identity:
    """Rename an identity, also in its runs. Raises Missing, BadName or NameTaken."""
    library = Library()
    person, free = library.get(old), library.check_free(new)
    moved = dataclasses.replace(person.ref, name=free, folder=str(library.root / free))
    for run in runs_of(person):  # runs first, so that an interrupted call can be repeated
        created = datetime.fromtimestamp(run_origin(run).created, UTC).isoformat(
            timespec="microseconds"
        )
        write_job(run.config, dataclasses.replace(job_of(run), identity=moved, created=created))
    return library.rename(old, free)


def _existing(image: Path) -> Path:
    if not exists(image):
        raise BadPicture(image, "not found")
    if not image.is_file():
        kind = "a folder" if image.is_dir() else "not a regular file"
        raise BadPicture(image, f"is {kind}", "Use image files, for example photos/*.jpg.")
    return image.absolute()
