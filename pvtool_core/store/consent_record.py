"""The consent record of an identity: its terms, their hash, and whether it is valid today."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from pvtool_core.errors import UsageError, is_utf8, printable
from pvtool_core.settings.schema import setting
from pvtool_core.settings.toml import shown_value

Scope = Literal["private", "tests", "public"]
SCOPES: tuple[str, ...] = Scope.__args__
CONSENT_EXAMPLE = "ann agreed on 3 May 2026 to videos of her for the spring campaign"
ConsentState = Literal["valid", "incomplete", "expired", "revoked"]


@dataclass(frozen=True, kw_only=True)
class ConsentTerms:
    """Terms of a consent statement, in identity.toml; records of older versions have none.

    `photos` is the hash of the photos that the statement covers. `salt` is random, so that nobody
    can guess the statement from the hash of the record. `earlier` are the hashes of the records
    that this one replaced.
    """

    scope: str = setting(
        "private: shown to nobody else; tests: shown in evaluations; public: may be published",
        "",
        choices=("", *SCOPES),
        omit_default=True,
    )
    adult: bool = setting("the person is an adult", False, omit_default=True)
    stated: str = setting("time of the statement in ISO 8601", "", omit_default=True)
    expires: str = setting("last valid day, as 2027-05-03; empty: none", "", omit_default=True)
    photos: str = setting("SHA-256 of the photos", "", omit_default=True)
    salt: str = setting("random text", "", omit_default=True)
    revoked: str = setting("time of the revocation in ISO 8601", "", omit_default=True)
    earlier: tuple[str, ...] = setting("hashes of earlier records", (), omit_default=True)


UNKNOWN_TERMS = ConsentTerms()


@dataclass(frozen=True, kw_only=True)
class Consent:
    """A consent statement with its terms."""

    statement: str
    terms: ConsentTerms = UNKNOWN_TERMS

    @property
    def sha256(self) -> str:
        """Hash of the record, without its revocation; empty if the terms are unknown."""
        terms = self.terms
        if not terms.stated:
            return ""
        facts = [self.statement, terms.scope, terms.adult, terms.stated, terms.expires]
        content = json.dumps([*facts, terms.photos, terms.salt])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def hashes(self) -> frozenset[str]:
        """Hashes of this record and of the earlier ones, which adapters and clips may have."""
        return frozenset({self.sha256, *self.terms.earlier} - {""})

    def state(self, today: date | None = None) -> ConsentState:
        """Return whether training and rendering are allowed: if `valid` or `incomplete`.

        An invalid date has expired.
        """
        if self.terms.revoked:
            return "revoked"
        if self.terms.expires and (today or local_today()) > _date_or_past(self.terms.expires):
            return "expired"
        return "valid" if self.terms.scope and self.terms.adult else "incomplete"

    @property
    def refusal(self) -> str:
        """Return why training and rendering are refused, as a phrase, or ""."""
        state = self.state()
        if state == "revoked":
            return f"was revoked on {printable(self.terms.revoked[:10], whole=True)}"
        day = printable(self.terms.expires[:10], whole=True)
        return f"expired on {day}" if state == "expired" else ""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A consent as the user states it, to be checked and recorded."""

    text: str
    adult: bool = False
    scope: str = "private"
    expires: str = ""

    def check(self) -> "Statement":
        """Return it with the date as records have it. Raises UsageError if it is not valid."""
        if not is_utf8(self.text):
            raise UsageError("The consent statement is not valid UTF-8.", "Encode it as UTF-8.")
        if not self.text.strip():
            raise UsageError(
                "A consent statement is required: who agreed, when, and to what.",
                f'Pass it with --consent, for example --consent "{CONSENT_EXAMPLE}".',
            )
        if self.scope not in SCOPES:
            raise UsageError(
                f"Invalid scope {shown_value(self.scope)}.", f"Use {', '.join(SCOPES)}."
            )
        if not self.adult:
            raise UsageError(
                "A statement that the person is an adult is required.",
                "If the person is an adult, add --adult. Photos of minors are not accepted.",
            )
        return replace(self, expires=parse_expiry(self.expires) if self.expires else "")


def new_consent(
    statement: str,
    *,
    scope: str,
    adult: bool,
    expires: str,
    photos: str,
    earlier: Sequence[str] = (),
) -> Consent:
    """Return a consent that is stated now."""
    terms = ConsentTerms(
        scope=scope,
        adult=adult,
        stated=now(),
        expires=expires,
        photos=photos,
        salt=secrets.token_hex(16),
        earlier=tuple(dict.fromkeys(filter(None, earlier))),
    )
    return Consent(statement=statement, terms=terms)


def revoked(consent: Consent) -> Consent:
    """Return the consent as revoked now, or at its earlier revocation."""
    terms = replace(consent.terms, revoked=consent.terms.revoked or now())
    return replace(consent, terms=terms)


def parse_expiry(text: str) -> str:
    """Return a date as 2027-05-03. Raises UsageError for another text or a day in the past."""
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"Invalid date {shown_value(text)}.", "Use year, month and day, as 2027-05-03."
        ) from error
    if day < local_today():
        raise UsageError(f"The date {day} is in the past.", "Use the last day of the consent.")
    return day.isoformat()


def sha256_of_photos(photos: Sequence[Path]) -> str:
    """Return the hash of photos in their order. Raises OSError."""
    found = hashlib.sha256()
    for photo in photos:
        found.update(hashlib.sha256(photo.read_bytes()).digest())
    return found.hexdigest()


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def local_today() -> date:
    """Return the date of the user's time zone."""
    return datetime.now().astimezone().date()


def _date_or_past(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return date.min
