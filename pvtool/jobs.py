"""From what a person chose to jobs that engines do; the commands and the dashboard alike begin them here."""

import dataclasses
import os
import shutil
from pathlib import Path

from pvtool.choices import DEFAULT_PRESET, chosen_settings, option_table, versions
from pvtool.devices import check_devices
from pvtool.facts import job_of, runs_of
from pvtool.supervisor import OnEvent, run_short_job
from pvtool_core.config import IdentifyJob, IdentityRef, Settings, Table, TrainJob, merge, write_job
from pvtool_core.errors import BadPicture, WeightsMissing
from pvtool_core.library import Identity, Library
from pvtool_core.models.store import licences
from pvtool_core.paths import runs_dir
from pvtool_core.prompts import Banks
from pvtool_core.runs import RunFolder, new_run
from pvtool_core.weights import Preset, family_of, locate_faces, resolve, resolve_settings

Choice = tuple[Identity, Preset, tuple[str, ...], Settings]
"""Whom, on what, with which prompts and settings."""

CONSENT = "I am this person, or I have their consent to make videos of them."


def prepare(choice: Choice) -> RunFolder:
    """Make the folder of a new run, its settings complete. Raises before anything is made if something is wrong."""
    identity, preset, prompts, settings = choice
    settings = resolve_settings(settings)
    check_devices([settings.model.device])
    folder = new_run(runs_dir(), identity.name)
    try:
        job = TrainJob(
            **settings.sections(),
            run=folder.name,
            preset=preset.name,
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
    """What the user wants trained. Raises whatever is wrong with the choice.

    The weights may be missing, but for a base model named here: it says which family it is, unless all is only planned.
    """
    identity = Library().get(name)
    try:
        family = family_of(resolve(base_model)) if base_model else None
    except WeightsMissing:
        if not only_planned:
            raise
        family = None
    options = option_table(model__base_model=base_model, model__family=family, training__seed=seed)
    preset, settings = chosen_settings(preset_name, sets, merge(options, style or {}), family or DEFAULT_PRESET)
    return identity, preset, Banks().get(bank or preset.prompts).fill(identity.noun), settings


def add_identity(
    name: str, images: list[Path], noun: str, face: int, consent: str, preset: str | None, on_event: OnEvent
) -> Identity:
    """Run an identify job on `images` and take its result into the library. Raises what either refuses."""
    library = Library()
    name = library.check_free(name)
    pictures = tuple(str(_existing(image)) for image in images)
    settings = locate_faces(chosen_settings(preset)[1])
    with library.staging() as staging:
        ref = IdentityRef(name=name, noun=noun, folder=str(staging))
        job = IdentifyJob(**settings.sections(), identity=ref, pictures=pictures, face=face, consent=consent)
        run_short_job("identify", job, on_event)
        return library.adopt(staging, name, noun, consent)


def rename_identity(old: str, new: str) -> Identity:
    """Give a person another name; their runs go on under it. Raises Missing, BadName or NameTaken."""
    library = Library()
    person, free = library.get(old), library.check_free(new)
    moved = dataclasses.replace(person.ref, name=free, folder=str(library.root / free))
    for run in runs_of(person):  # the runs first: killed on the way, the same call goes on
        began = run.config.stat().st_mtime_ns
        write_job(run.config, dataclasses.replace(job_of(run), identity=moved))
        os.utime(run.config, ns=(began, began))
    return library.rename(old, free)


def _existing(image: Path) -> Path:
    if not image.is_file():
        raise BadPicture(image, "is not there" if not image.exists() else "is no file")
    return image.absolute()
