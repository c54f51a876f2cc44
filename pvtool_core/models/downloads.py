"""Download a file: resume a partial one, and rename it only when it is complete and verified."""

import http
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvtool_core.errors import BrokenWeights, Unreachable
from pvtool_core.hashes import has_digest
from pvtool_core.models.integrity import PART
from pvtool_core.web import NETWORK_ERRORS, describe_network_error, host_of

TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # consecutive attempts without new bytes
PAUSE = 1.0  # seconds after the first attempt, increasing
_CHUNK = 2**20
_LARGEST_ANSWER = 64 * 2**20  # bytes of a listing; 100,000 files need 30 MB
_BY_HAND = "Try again later, or add local files with `pv models add NAME FILE_OR_FOLDER`."

Report = Callable[[int], None]


@dataclass(frozen=True)
class Remote:
    """A file to download.

    `checks` maps algorithms (sha256, md5, git) to the published hex digests or their
    first digits.
    """

    address: str
    size: int | None = None
    checks: Mapping[str, str] = field(default_factory=dict[str, str])
    token: str = ""


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Redirect handler that allows http and https only, and not from https to http."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        allowed = (
            ("https://",)
            if req.full_url.lower().startswith("https://")
            else ("https://", "http://")
        )
        if not newurl.lower().startswith(allowed):
            raise Unreachable(f"{req.full_url} redirects to {newurl}: not allowed.", _BY_HAND)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_WebOnly)


class _Cut(ConnectionError):
    """The connection ended before the end of the file."""


def download(remote: Remote, path: Path, report: Report) -> None:
    """Download `remote` to `path`; `report` receives the number of bytes so far.

    Bytes are kept in PATH.part, where a later call continues. Raises Unreachable; BrokenWeights if
    the content differs from the published hash, in which case nothing is kept; OSError.
    """
    part = part_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not remote.checks:  # without a hash, the rest could be of another file
        part.unlink(missing_ok=True)
    failures = 0
    while not _is_full(part, remote):
        before = _length(part)
        try:
            _transfer(remote, part, report)
            break
        except NETWORK_ERRORS as error:
            _raise_refusal(error, remote.address)
            if (
                isinstance(error, urllib.error.HTTPError)
                and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            ):
                part.unlink(missing_ok=True)  # the local part is longer than the file: start over
            failures = failures + 1 if _length(part) == before else 0
            if failures == TRIES:
                raise Unreachable(
                    f"Cannot fetch {remote.address}: {describe_network_error(error)}.", _BY_HAND
                ) from error
            time.sleep(PAUSE * failures)
    _check(remote, part, path.name)
    part.replace(path)


def part_of(path: Path) -> Path:
    """Return the path of a file while it is incomplete."""
    return path.with_name(path.name + PART)


def fetch_json(address: str, token: str = "") -> Any:
    """Return the JSON content of an address. Raises Unreachable."""
    try:
        with _open(address, token) as answer:
            content = answer.read(_LARGEST_ANSWER + 1)
        if len(content) > _LARGEST_ANSWER:
            raise ValueError("too long")
        return json.loads(content)
    except NETWORK_ERRORS as error:
        _raise_refusal(error, address)
        raise Unreachable(
            f"Cannot reach {host_of(address)}: {describe_network_error(error)}.", _BY_HAND
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unreachable(
            f"{host_of(address)} is not a hub: unexpected response.",
            "Check HF_ENDPOINT, or --from.",
        ) from error


def _open(address: str, token: str, first: int = 0) -> Any:
    if not address.lower().startswith(("http://", "https://")):
        hint = "Use an https:// address. For a local file use `pv models add NAME FILE`."
        raise Unreachable(f"Cannot fetch {address}: only http and https are fetched.", hint)
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "pv"})  # noqa: S310
    except ValueError as error:
        raise Unreachable(f"Cannot fetch {address}: invalid address.", _BY_HAND) from error
    if token:
        request.add_unredirected_header(
            "Authorization", f"Bearer {token}"
        )  # not sent after redirects
    if first:
        request.add_header("Range", f"bytes={first}-")
    return _OPENER.open(request, timeout=TIMEOUT)


def _transfer(remote: Remote, part: Path, report: Report) -> None:
    first = _length(part)
    with _open(remote.address, remote.token, first) as answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        there = first if goes_on else 0
        length = answer.headers.get("Content-Length") or ""
        total = there + int(length) if length.isdecimal() else remote.size
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                there += len(chunk)
                report(there)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and there < total:
        raise _Cut(f"the connection ended after {there} of {total} bytes")


def _is_full(part: Path, remote: Remote) -> bool:
    """Return whether all bytes, or more, have arrived; `_check` refuses a file that is too long."""
    return remote.size is not None and part.is_file() and _length(part) >= remote.size


def _check(remote: Remote, part: Path, name: str) -> None:
    size = _length(part)
    problem = (
        f"{name} has {size} bytes, not the {remote.size} that were published"
        if _differs(size, remote)
        else None
    )
    for algorithm, digest in remote.checks.items() if problem is None else ():
        if not has_digest(part, algorithm, digest):
            problem = f"{name} does not have the published {algorithm}"
    if problem:
        part.unlink()
        raise BrokenWeights(
            [problem],
            "The file was deleted; run the command again, or try another --from.",
        )


def _differs(size: int, remote: Remote) -> bool:
    return remote.size is not None and size != remote.size


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _raise_refusal(error: Exception, address: str) -> None:
    """Raise for a final refusal; too many requests and server errors may be temporary."""
    if (
        not isinstance(error, urllib.error.HTTPError)
        or error.code in {408, 416, 429}
        or error.code >= 500
    ):
        return
    if error.code in {401, 403}:
        hint = (
            "Check the name. If the model's page asks for consent, give it, and set HF_TOKEN to "
            "your access token."
        )
        raise Unreachable(
            f"{host_of(address)} refused access to {address} ({error.code}).", hint
        ) from error
    raise Unreachable(
        f"{address} not found ({error.code}).", f"Check the name. {_BY_HAND}"
    ) from error
