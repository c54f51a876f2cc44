"""Read C2PA content credentials of any program, without a network."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pvtool_core.errors import printable

_OFFLINE = {
    "verify": {"verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"allowed_network_hosts": []},
}
_GENERATED = "trainedalgorithmicmedia"
"""End of the IPTC digital source types of AI-generated media, composites with it included."""
_LONGEST = 200


@dataclass(frozen=True)
class FoundCredentials:
    """Content credentials of a file.

    `state` is invalid if the file was changed after signing, otherwise valid. Whether the signer
    can be trusted is not checked. `generated` says whether they state that AI generated the file.
    """

    signer: str
    program: str
    state: str
    generated: bool

    @property
    def is_mark(self) -> bool:
        return self.generated and self.state != "invalid"

    def record(self) -> dict[str, Any]:
        """Return the credentials as a JSON object."""
        return asdict(self)


def can_read_credentials() -> bool:
    """Return whether the library for content credentials is installed."""
    return find_spec("c2pa") is not None


def read_credentials_of(path: Path) -> FoundCredentials | None:
    """Return the content credentials of a file; None without any that can be read.

    None also without the library.
    """
    if not can_read_credentials():
        return None
    from c2pa import C2paError, Context, Reader, Settings

    try:
        reader = Reader.try_create(path, context=Context(Settings.from_dict(_OFFLINE)))
        if reader is None:
            return None
        with reader:
            state = str(reader.get_validation_state() or "unknown").lower()
            return _parse(json.loads(reader.json()), state)
    except (C2paError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # formats without credentials, and corrupt files, which are reported elsewhere


def _parse(store: Mapping[str, Any], state: str) -> FoundCredentials:
    manifest: Mapping[str, Any] = store["manifests"][store["active_manifest"]]
    programs = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    signature = manifest.get("signature_info") or {}
    texts = _texts(list(store["manifests"].values()))
    return FoundCredentials(
        signer=_short(signature.get("issuer") or signature.get("common_name")),
        program=_short(programs[0].get("name")),
        state="invalid" if state == "invalid" else "valid",
        generated=any(text.lower().endswith(_GENERATED) for text in texts),
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield the values of all digital source types in parsed JSON."""
    if isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _texts(each)
    elif isinstance(value, dict):
        for name, each in cast("dict[str, Any]", value).items():
            if name == "digitalSourceType" and isinstance(each, str):
                yield each
            else:
                yield from _texts(each)


def _short(value: Any) -> str:
    return printable(str(value or ""))[:_LONGEST]
