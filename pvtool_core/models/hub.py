"""What a repository of the Hugging Face hub, or of a mirror of it, holds, and which of its files a model needs."""

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
    """One commit of a repository: its files by path, and the licence that its card names."""

    commit: str
    licence: str
    files: Mapping[str, Remote]


def read_repository(
    source: Source, endpoint: str | None = None, send_token: bool = False
) -> Repository:
    """Ask the hub what `source` holds. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured. Raises Unreachable.

    Only the hub itself gets the user's token; a mirror gets it with `send_token`.
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
            f"{base} does not answer as a hub does.", "See HF_ENDPOINT, or --from."
        ) from error


def is_the_hub(address: str) -> bool:
    """Whether an address is one of the hub's own hosts, over https: those that may have the user's token."""
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    own = host in _HOSTS or host.endswith(tuple(f".{each}" for each in _HOSTS))
    return parts.scheme == "https" and own and port in {None, 443}


def check_online() -> None:
    """Raises Unreachable if the user's environment says that nothing is to be fetched."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        hint = "Unset it, or take files that you have with `pv models add NAME FILE_OR_FOLDER`."
        raise Unreachable("HF_HUB_OFFLINE is set, so nothing is fetched.", hint)


def _remote(at: str, file: Mapping[str, Any], token: str) -> Remote:
    """The hub says the sha256 of large files, and of small ones what git calls them."""
    large = file.get("lfs") or {}
    published = {"sha256": large.get("sha256"), "git": None if large else file.get("blobId")}
    checks = {algorithm: digest for algorithm, digest in published.items() if digest}
    size = file.get("size")
    if size is not None and (type(size) is not int or size < 0):
        raise TypeError(f"a size of {size!r}")
    return Remote(at + urllib.parse.quote(file["rfilename"]), size, checks, token)


def _token() -> str:
    """HF_TOKEN, or what a login with the hub's own tool has left."""
    if token := os.environ.get("HF_TOKEN"):
        return token.strip()
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
    return path.read_text().strip() if path.is_file() else ""


def wanted_files(source: Source, there: Iterable[str]) -> list[str]:
    """Which of a repository's files are to be had.

    Without `source.files`, those of the pipeline in a diffusers folder, else all. Weights in another number format are
    left out where there are plain ones, pickles where there are safetensors.
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
    """A name that could leave the model's folder, or is no file name here, is none that a repository can have."""
    return (
        name.isprintable()
        and is_inside(name)
        and all(len(part.encode()) < 200 for part in name.split("/"))
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _is_spare(name: str, named: Iterable[str]) -> bool:
    """Whether other files of the same folder hold the same weights in a better form."""
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
    """Where a file goes: the only variant of a part takes the plain name, under which it will be loaded."""
    plain = _LONE_VARIANT.sub(".safetensors", name)
    return name if plain in wanted else plain


def check_loadable(hub: str, stored: Iterable[str]) -> None:
    """Raises InputRefused for a pipeline with a part whose weights are no safetensors: it could not be loaded."""
    paths = [PurePosixPath(name) for name in stored]
    if PurePosixPath("model_index.json") not in paths:
        return
    weighty = {path.parent for path in paths if path.suffix in {".bin", ".safetensors"}}
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    if lacking := sorted(map(str, weighty - safe)):
        raise InputRefused(
            f"{hub} has no .safetensors in {', '.join(lacking)}, and pv loads nothing else.",
            "Save it anew with diffusers' save_pretrained, and `pv models add` the folder.",
        )
