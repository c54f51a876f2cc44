"""Enroll: check the faces in photos, and add an identity to the library."""

from collections.abc import Sequence
from pathlib import Path

from pvtool_core.errors import BadPicture, UsageError, is_utf8
from pvtool_core.models.locate import locate_faces
from pvtool_core.paths import exists, path_text
from pvtool_core.settings.jobs import EnrollJob, IdentityRef
from pvtool_core.settings.presets import Preset, preset_of
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import Table
from pvtool_core.store.events import ignore
from pvtool_core.store.identities import Identity, Library
from pvtool_core.supervisor import OnEvent, run_short_job

CONSENT_EXAMPLE = "ann agreed on 3 May 2026 to videos of her for the spring campaign"


def enroll(
    name: str,
    photos: str | Path | Sequence[str | Path],
    *,
    consent: str,
    noun: str = "person",
    face: int = 0,
    preset: Preset | str = "tiny",
    overrides: Table | None = None,
    on_event: OnEvent = ignore,
) -> Identity:
    """Find the face in each photo, and add the identity to the library, or nothing at all.

    Args:
        name: Name of the new identity.
        photos: An image file, or several.
        consent: Statement of who agreed, when, and to what. It is stored with the photos.
        noun: Class noun in prompts: man, woman or person.
        face: Which face of each photo, counted from the left, from 1; 0 expects exactly one.
        preset: Preset whose face models are used.
        overrides: Settings that differ from the preset, as tables by section.
        on_event: Called with each event of the engine process.

    Raises:
        NameTaken, BadName: The name is in use or invalid.
        BadPicture: A photo is missing, not an image, or has no usable face.
        WeightsMissing: The face models are not installed.
        UsageError: The consent statement is empty.
    """
    files = [photos] if isinstance(photos, str | Path) else photos
    settings = preset_of(preset).settings(overrides or {})
    return enroll_with(settings, name, files, consent, noun, face, on_event)


def enroll_with(
    settings: Settings,
    name: str,
    photos: Sequence[str | Path],
    consent: str,
    noun: str,
    face: int,
    on_event: OnEvent,
) -> Identity:
    """Enroll with complete settings. Raises what `enroll` raises."""
    library = Library()
    name = library.check_free(name)
    if not is_utf8(consent):
        raise UsageError("The consent statement is not valid UTF-8.", "Encode it as UTF-8.")
    pictures = tuple(path_text(_existing(Path(photo))) for photo in photos)
    check_consent(consent)
    settings = locate_faces(settings)
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


def _existing(photo: Path) -> Path:
    if not exists(photo):
        raise BadPicture(photo, "not found")
    if not photo.is_file():
        kind = "a folder" if photo.is_dir() else "not a regular file"
        raise BadPicture(photo, f"is {kind}", "Use image files, for example photos/*.jpg.")
    return photo.absolute()
