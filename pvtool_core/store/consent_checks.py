"""Refuse to train and to render an identity whose consent was revoked or has expired.

Front end and engine both call these functions. They trust the library of this machine: what a run
folder, an adapter file or a copy of an identity claims about consent can only add refusals. A
revocation is also recorded outside of the identity's folder, in `<data>/revoked.json`, as its
adapters remain when the identity is removed. That file has hashes and no names.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from pvtool_core.errors import ConsentRefused, PvError, RunFailed
from pvtool_core.files import replace_file
from pvtool_core.hashes import cached_sha256
from pvtool_core.paths import data_dir, identities_dir, runs_dir
from pvtool_core.permissions import make_private
from pvtool_core.settings.jobs import IdentityRef, RenderItem, TrainJob, read_job
from pvtool_core.store.consent_record import Consent, revoked
from pvtool_core.store.identities import IDENTITY_FILE, Identity, Library, identity_in
from pvtool_core.store.runs import ADAPTER_FILE, MANIFEST_FILE, RunFolder, list_runs
from pvtool_core.untrusted import RECORD_BYTES, parse_json, read_regular

CONSENT_KEY, SCOPE_KEY = "consent_sha256", "consent_scope"
"""Keys of the metadata of adapter files, and of sidecars."""
_MOST_HEADER_BYTES = 1 << 26
_MOST_BYTES = 1 << 26


@dataclass(frozen=True)
class Refusal:
    """An identity without valid consent: `reason` is a phrase after the word consent.

    A removed identity has no name.
    """

    name: str
    reason: str
    fingerprint: str
    hashes: frozenset[str]


def require_consent(ref: IdentityRef) -> None:
    """Raise ConsentRefused if the consent of a job's identity is not valid.

    Its folder decides, and so does every refused identity of the library with the same photos or
    the same consent record. Raises BrokenIdentity if its record is invalid.
    """
    person = _identity_in(Path(ref.folder) if ref.folder else identities_dir() / ref.name)
    if person and (reason := person.consent.refusal):
        raise ConsentRefused(ref.name, reason)
    refusals = list(refused_identities())
    if not refusals:
        return
    fingerprints, hashes = {ref.fingerprint} - {""}, {ref.consent} - {""}
    if person:
        hashes |= person.consent.hashes
        with suppress(PvError):  # without embeddings
            fingerprints.add(person.ref.fingerprint)
    for refusal in refusals:
        if refusal.fingerprint in fingerprints or refusal.hashes & hashes:
            raise ConsentRefused(ref.name, refusal.reason)


def require_consent_of_adapter(file: Path) -> None:
    """Raise ConsentRefused if an adapter file is of an identity without valid consent.

    It is known by the hash of the consent record in its metadata; files of older versions by their
    content, if it is that of a checkpoint on this machine. Other files are accepted.
    """
    refusals = list(refused_identities())
    if not refusals:
        return
    claimed = consent_of_adapter(file)
    for refusal in refusals:
        if claimed in refusal.hashes or (not claimed and cached_sha256(file) in _adapters(refusal)):
            raise ConsentRefused(refusal.name, refusal.reason)


def require_consent_to_render(item: RenderItem) -> None:
    """Raise ConsentRefused if a clip shows an identity without valid consent.

    Clips of the base model show none.
    """
    if item.shows_identity:
        (subject,) = item.subjects
        require_consent(subject.identity)
    if item.adapter:
        require_consent_of_adapter(Path(item.adapter))


def consent_of_adapter(file: Path) -> str:
    """Return the hash of the consent record in the metadata of an adapter file, or ""."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > _MOST_HEADER_BYTES:
                return ""
            header: Any = parse_json(opened.read(length))
        return str(header["__metadata__"].get(CONSENT_KEY, ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def refused_identities() -> Iterator[Refusal]:
    """Yield revocations, also of removed identities, and expired identities of the library."""
    seen: set[str] = set()
    for path in sorted(identities_dir().glob(f"[!.]*/{IDENTITY_FILE}")):
        with suppress(PvError, OSError):
            person = _identity_in(path.parent)
            if person and (reason := person.consent.refusal):
                fingerprint = person.ref.fingerprint
                seen.add(fingerprint)
                yield Refusal(person.name, reason, fingerprint, person.consent.hashes)
    for fingerprint, record in _revocations().items():
        if fingerprint not in seen:
            reason = f"was revoked on {record['time'][:10]}"
            yield Refusal("", reason, fingerprint, frozenset(record["hashes"]))


def revoke_consent(name: str) -> Identity:
    """Revoke the consent of an identity. Raises Missing or BrokenIdentity."""
    library = Library()
    person = library.get(name)
    consent = revoked(person.consent)
    record = {"time": consent.terms.revoked, "hashes": sorted(consent.hashes)}
    _write_revocations({**_revocations(), person.ref.fingerprint: record})
    return library.change_consent(name, lambda _: consent)


def state_consent(name: str, consent: Consent) -> Identity:
    """Replace the consent of an identity by a new statement, which ends a revocation.

    Raises Missing or BrokenIdentity.
    """
    changed = Library().change_consent(name, lambda _: consent)
    left = {key: one for key, one in _revocations().items() if key != changed.ref.fingerprint}
    if left != _revocations():
        _write_revocations(left)
    return changed


def consent_warnings(person: Identity) -> list[str]:
    """Return what is unknown or has changed about a valid consent, as sentences.

    Raises BrokenIdentity without a photo.
    """
    found: list[str] = []
    if person.consent.state() == "incomplete":
        found.append(
            f"The consent record of {person.name} is incomplete: scope, or that the person is an "
            f"adult, is unknown. Complete it with `pv identity consent {person.name} "
            "--scope private --adult`."
        )
    if person.photos_changed():
        found.append(
            f"The photos of {person.name} have changed since the consent was recorded. If the "
            f"person agrees, record it with `pv identity consent {person.name} --consent TEXT`."
        )
    return found


def _identity_in(folder: Path) -> Identity | None:
    """Read an identity, once per change of its record; None if it was removed.

    Raises BrokenIdentity.
    """
    try:
        found = (folder / IDENTITY_FILE).stat()
    except OSError:
        return None
    return _identity_at(folder, (found.st_mtime_ns, found.st_ino, found.st_size))


@lru_cache(maxsize=4096)
def _identity_at(folder: Path, _version: tuple[int, int, int]) -> Identity:
    return identity_in(folder)


def _adapters(refusal: Refusal) -> Iterator[str]:
    """Yield the SHA-256 of all adapters in the checkpoints of an identity's runs."""
    for run in list_runs(runs_dir()):
        with suppress(PvError, OSError):
            job = read_job(run.config)
            if isinstance(job, TrainJob) and job.identity.fingerprint == refusal.fingerprint:
                yield from _recorded_adapters(run)


def _recorded_adapters(run: RunFolder) -> Iterator[str]:
    for checkpoint in run.checkpoint_folders():
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            manifest: Any = parse_json(read_regular(checkpoint / MANIFEST_FILE, RECORD_BYTES))
            yield str(manifest["sha256"][ADAPTER_FILE])


def _file() -> Path:
    return data_dir() / "revoked.json"


def _revocations() -> dict[str, dict[str, Any]]:
    """Return time and hashes of each revocation, by the fingerprint of the identity.

    Raises RunFailed for a corrupt file: without it, removed identities could be rendered.
    """
    try:
        content = cast("dict[str, Any]", parse_json(read_regular(_file(), _MOST_BYTES)))
        return {
            fingerprint: {
                "time": str(record["time"]),
                "hashes": [str(each) for each in record["hashes"]],
            }
            for fingerprint, record in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFailed(f"Cannot read {_file()}: {error}.", "Restore it from a copy.") from error


def _write_revocations(records: dict[str, dict[str, Any]]) -> None:
    make_private(data_dir())
    replace_file(_file(), json.dumps(records, indent=1).encode(), mode=0o600)
