"""Repositories of the Hugging Face hub or a mirror: their files, and those that a model needs."""

import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from pvtool_core.errors import InputRefused, Unreachable
from pvtool_core.models.downloads import Remote, fetch_json
from pvtool_core.models.registry import Source, is_inside

ENDPOINT = "https://huggingface.co"
_HOSTS = ("huggingface.co", "hf.co")
_TRUE = {"1", "true", "yes", "on"}
_NO_WEIGHTS = (
    ".md",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
    ".mp4",
    ".msgpack",
    ".h5",
    ".ot",
    ".gitattributes",
)
_VARIANT = re.compile(
    r"\.(fp16|bf16|fp32|non_ema|ema)(-\d+-of-\d+)?\.|\.index\.(fp16|bf16|fp32|non_ema|ema)\."
)
_LONE_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)\.safetensors$")
_PICKLED = (".bin", ".bin.index.json", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Repository:
    """One commit of a repository: its files by path, and its licence by its card."""

    commit: str
    licence: str
    files: Mapping[str, Remote]


def read_repository(
    source: Source, endpoint: str | None = None, send_token: bool = False
) -> Repository:
    """List the files of `source` on the hub.

    Honours HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. The user's token is sent to the hub only; to a
    mirror with `send_token`. Raises Unreachable.
    """
    check_online()
    base = (endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
    token = _token() if send_token or is_the_hub(base) else ""
    revision = urllib.parse.quote(source.revision, safe="")
    answer = fetch_json(f"{base}/api/models/{source.hub}/revision/{revision}?blobs=true", token)
    try:
        at = f"{base}/{source.hub}/resolve/{answer['sha']}/"
        files = {str(each["rfilename"]): _remote(at, each, token) for each in answer["siblings"]}
        licences = [
            tag.removeprefix("license:")
            for tag in answer.get("tags", [])
            if tag.startswith("license:")
        ]
        return Repository(commit=answer["sha"], licence=", ".join(licences), files=files)
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreachable(
            f"{base} is not a hub: unexpected response.", "Check HF_ENDPOINT, or --from."
        ) from error


def is_the_hub(address: str) -> bool:
    """Return whether an address is an https address of the hub itself.

    Only the hub may receive the user's token.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    own = host in _HOSTS or host.endswith(tuple(f".{each}" for each in _HOSTS))
    return parts.scheme == "https" and own and port in {None, 443}


def check_online() -> None:
    """Raise Unreachable if the environment forbids downloads."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        hint = "Unset it, or add local files with `pv models add NAME FILE_OR_FOLDER`."
        raise Unreachable("HF_HUB_OFFLINE is set: downloads are disabled.", hint)


def _remote(at: str, file: Mapping[str, Any], token: str) -> Remote:
    """Return a file of the hub, with the SHA-256 of a large file or the git hash of a small one."""
    large = file.get("lfs") or {}
    published = {"sha256": large.get("sha256"), "git": None if large else file.get("blobId")}
    checks = {algorithm: digest for algorithm, digest in published.items() if digest}
    size = file.get("size")
    if size is not None and (type(size) is not int or size < 0):
        raise TypeError(f"a size of {size!r}")
    return Remote(at + urllib.parse.quote(file["rfilename"]), size, checks, token)


def _token() -> str:
    """Return HF_TOKEN, or the token stored by the login of the hub's own tool."""
    if token := os.environ.get("HF_TOKEN"):
        return token.strip()
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    return path.read_text().strip() if path.is_file() else ""


def wanted_files(source: Source, there: Iterable[str]) -> list[str]:
    """Return the files of a repository to fetch.

    Without `source.files`: those of the pipeline in a diffusers folder, otherwise all. Weights of
    other number formats are skipped if plain ones exist, pickles if safetensors exist.
    """
    names = sorted(name for name in there if _is_inside(name))
    patterns = source.files or (
        ("model_index.json", "*/*") if "model_index.json" in names else ("*",)
    )
    named = [name for name in names if _matches(name, patterns) and not _matches(name, source.skip)]
    return [
        name
        for name in named
        if name in source.files or not (name.endswith(_NO_WEIGHTS) or _is_spare(name, named))
    ]


def _is_inside(name: str) -> bool:
    """Return whether a name is valid and stays inside the model folder."""
    return (
        name.isprintable()
        and is_inside(name)
        and all(len(part.encode()) < 200 for part in name.split("/"))
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _is_spare(name: str, named: Iterable[str]) -> bool:
    """Return whether other files in the same folder have the same weights in a better format."""
    path = PurePosixPath(name)
    beside = [
        other
        for other in map(PurePosixPath, named)
        if other.parent == path.parent and other != path
    ]
    safe = [other for other in beside if other.suffix == ".safetensors"]
    if _VARIANT.search(path.name):
        return any(not _VARIANT.search(other.name) for other in safe)
    if not name.endswith(_PICKLED):
        return False
    return any(path.suffix in {".bin", ".json"} or other.stem == path.stem for other in safe)


def stored_as(name: str, wanted: Iterable[str]) -> str:
    """Return the local name of a file.

    The only variant of a part gets the plain name, under which it is loaded.
    """
    plain = _LONE_VARIANT.sub(".safetensors", name)
    return name if plain in wanted else plain


def check_loadable(hub: str, stored: Iterable[str]) -> None:
    """Raise InputRefused for a pipeline that has a part without safetensors weights."""
    paths = [PurePosixPath(name) for name in stored]
    if PurePosixPath("model_index.json") not in paths:
        return
    weighty = {path.parent for path in paths if path.suffix in {".bin", ".safetensors"}}
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    if lacking := sorted(map(str, weighty - safe)):
        raise InputRefused(
            f"{hub} has no .safetensors in {', '.join(lacking)}, and pv loads no other format.",
            "Save it with diffusers' save_pretrained and add the folder with `pv models add`.",
        )
