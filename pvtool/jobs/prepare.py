"""Create jobs from options; used by commands and dashboard."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from pvtool.jobs.settings import DEFAULT_PRESET, chosen_settings, option_table
from pvtool_core.api.enrollment import enroll_with
from pvtool_core.api.training import create_run
from pvtool_core.errors import UsageError, WeightsMissing
from pvtool_core.models.locate import family_of, resolve
from pvtool_core.settings.jobs import write_job
from pvtool_core.settings.presets import Preset
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table, merge
from pvtool_core.store.consent_checks import state_consent
from pvtool_core.store.consent_record import Statement, new_consent, sha256_of_photos
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.prompts import Banks, check_syntax
from pvtool_core.store.run_index import runs_of
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of, run_origin
from pvtool_core.supervisor import OnEvent

Choice = tuple[Identity, Preset, tuple[str, ...], Settings]
"""Identity, preset, prompts and settings of a new run."""


def prepare(choice: Choice) -> RunFolder:
    """Create the folder of a new run with complete settings. Raises before anything is created."""
    identity, preset, prompts, settings = choice
    return create_run(identity, settings, prompts, preset.name)


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
    consent: Statement,
    preset: str | None,
    on_event: OnEvent,
    allow_generated: bool = False,
) -> Identity:
    """Enroll with the face models of a preset and of config.toml. Raises what `enroll` raises."""
    settings = chosen_settings(preset)[1]
    return enroll_with(settings, name, images, consent, noun, face, on_event, allow_generated)


def change_consent(
    name: str, text: str | None, adult: bool, scope: str | None, expires: str | None
) -> Identity:
    """Change the given parts of a consent record, which then covers the photos as they are now.

    Raises Missing, and UsageError for an invalid part, or without the statement that a revoked
    consent or other photos need.
    """
    person = Library().get(name)
    before = person.consent
    if text is None and (before.terms.revoked or person.photos_changed()):
        reason = "was revoked" if before.terms.revoked else "covers other photos"
        raise UsageError(
            f"The consent of {name} {reason}: a new statement is needed.",
            "Ask the person, and add --consent TEXT.",
        )
    until = before.terms.expires if expires is None else "" if expires == "never" else expires
    stated = Statement(
        text=before.statement if text is None else text,
        adult=adult or before.terms.adult,
        scope=scope or before.terms.scope or "private",
        expires=until,
    ).check()
    consent = new_consent(
        stated.text,
        scope=stated.scope,
        adult=stated.adult,
        expires=stated.expires,
        photos=sha256_of_photos(person.references),
        earlier=(*before.terms.earlier, before.sha256),
    )
    return state_consent(name, consent)


def rename_identity(old: str, new: str) -> Identity:
    """Rename an identity, also in its runs. Raises Missing, BadName or NameTaken."""
    library = Library()
    person, free = library.get(old), library.check_free(new)
    moved = {"name": free, "folder": str(library.root / free)}
    for run in runs_of(person):  # runs first, so that an interrupted call can be repeated
        created = datetime.fromtimestamp(run_origin(run).created, UTC).isoformat(
            timespec="microseconds"
        )
        job = job_of(run)
        identity = dataclasses.replace(job.identity, **moved)
        write_job(run.config, dataclasses.replace(job, identity=identity, created=created))
    return library.rename(old, free)
