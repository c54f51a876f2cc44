"""The registry of models: sources, published hashes, licences and allowed use."""

import dataclasses
import difflib
import re
import typing
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pvtool_core.errors import BadName, Missing, Mistake, SettingsError
from pvtool_core.hashes import SHA256_DIGITS, cached_sha256
from pvtool_core.paths import check_name, config_dir, models_dir, presets_dir
from pvtool_core.settings.schema import Settings, named_weights, setting
from pvtool_core.settings.toml import from_table, merge, read_toml

REGISTRY_FILE = "models/registry.toml"
PURPOSES = (
    "base model",
    "motion adapter",
    "face package",
    "semantic reward",
    "evaluation",
    "configs",
    "other",
)
CHANNELS = ("rgb", "bgr")
_FEWEST_DIGITS = 8
_SHA256 = re.compile(rf"[0-9a-fA-F]{{{_FEWEST_DIGITS},{SHA256_DIGITS}}}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository of the hub, or the address of one file; of a .zip, `files` are extracted."""

    hub: str = setting("organisation/repository", "")
    revision: str = setting("branch, tag or commit", "main")
    address: str = setting("https://… of one file", "")
    files: tuple[str, ...] = setting("file names or patterns", ())
    skip: tuple[str, ...] = setting("exceptions from `files`", ())
    into: str = setting("subfolder for the files", "")
    size: int = setting("bytes of the file at the address", 0, low=0, high=2**63 - 1)
    sha256: str = setting("of the file at the address", "")


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """One model.

    `sha256`, `md5` and `git` (the hash of a blob) map paths in its folder to published hashes, or
    to the first digits of a SHA-256; `channels` maps recognisers to the order of their input, which
    is rgb for others. The registry sets `name`.
    """

    name: str = ""
    title: str
    purpose: str = setting("purpose", "other", choices=PURPOSES)
    licence: str = setting("its name", "not known")
    commercial: str = setting(
        "whether commercial use is allowed", "conditions", choices=("yes", "no", "conditions")
    )
    terms: str = setting("allowed use, as a phrase", "")
    size: int = setting("bytes of all files; 0 if unknown", 0, low=0, high=2**63 - 1)
    sources: tuple[Source, ...]
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    md5: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    git: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    channels: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    @property
    def licence_line(self) -> str:
        return f"{self.licence} ({self.terms})" if self.terms else self.licence

    def required(self) -> list[str]:
        """Return the paths in the entry; only the hub knows the matches of its patterns."""
        return sorted(
            {
                str(PurePosixPath(source.into, file))
                for source in self.sources
                for file in _plain(source)
            }
        )

    def checks(self, path: str) -> dict[str, str]:
        """Return the published hashes of a file by algorithm."""
        tables = {"sha256": self.sha256, "md5": self.md5, "git": self.git}
        known = {algorithm: table.get(path) for algorithm, table in tables.items()}
        return {algorithm: digest.lower() for algorithm, digest in known.items() if digest}

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every file with a published hash; empty if that is another."""
        whole = {path: each for path, each in self.sha256.items() if len(each) == SHA256_DIGITS}
        return {path: whole.get(path, "").lower() for path in (*self.sha256, *self.md5, *self.git)}


def _plain(source: Source) -> Iterable[str]:
    if source.address and not source.address.endswith(".zip"):
        return [PurePosixPath(source.address).name]
    return [file for file in source.files if not set("*?[") & set(file)]


class Registry:
    """The shipped entries and the user's; the latter replace shipped ones of the same name."""

    def __init__(self, shipped: Path | None = None, own: Path | None = None) -> None:
        own = own or config_dir() / "models.toml"
        tables = [
            read_toml(path)
            for path in (shipped or presets_dir() / REGISTRY_FILE, own)
            if path.is_file()
        ]
        entries = [_read_entry(name, table) for each in tables for name, table in each.items()]
        self._entries = {entry.name: entry for entry in entries}
        self._channels = {
            entry.digests()[path]: order
            for entry in entries
            for path, order in entry.channels.items()
        }

    def names(self) -> list[str]:
        return sorted(self._entries)

    def find(self, name: str) -> RegistryEntry | None:
        """Return the entry of a name, or an empty one for a repository of the hub; else None."""
        if is_hub_id(name):
            return RegistryEntry(
                name=name,
                title=f"{name} on the hub",
                terms="by its card",
                sources=(Source(hub=name),),
            )
        return self._entries.get(name)

    def channels(self, recognizer: Path) -> str:
        """Return the order of a recogniser's input channels, rgb or bgr, by the file's content.

        It is rgb for files that no entry describes.
        """
        return self._channels.get(cached_sha256(recognizer), "rgb")

    def get(self, name: str) -> RegistryEntry:
        """Return the entry as `find` does. Raises Missing."""
        if (entry := self.find(name)) is None:
            near = next(iter(difflib.get_close_matches(name, self._entries, n=1)), None)
            hint = "See `pv models list`; write a repository of the hub as organisation/repository."
            raise Missing("model", name, hint, near)
        return entry


def _read_entry(name: str, table: Any) -> RegistryEntry:
    """Read one entry. Raises SettingsError or BadName."""
    source = f"the model {name}"
    if not isinstance(table, dict):
        raise SettingsError([Mistake(name, "is not a table")], source)
    entry = from_table(
        RegistryEntry,
        merge(typing.cast("dict[str, Any]", table), {"name": check_name("a model", name)}),
        source,
    )
    mistakes = [
        Mistake(f"{name}.sources[{i}]", problem)
        for i, each in enumerate(entry.sources)
        for problem in _problems_of(each)
    ]
    mistakes += [Mistake(f"{name}.{key}", problem) for key, problem in _problems_of_files(entry)]
    if mistakes:
        raise SettingsError(mistakes, source)
    return entry


def _problems_of_files(entry: RegistryEntry) -> Iterable[tuple[str, str]]:
    """Return problems of hashes and channels, by their key.

    The order of channels is known for a file of that hash, wherever it is.
    """
    for path, digest in entry.sha256.items():
        if not _SHA256.fullmatch(digest):
            yield f"sha256.{path}", f"is {digest!r}: expected {_FEWEST_DIGITS} to 64 hex digits"
    for path, order in entry.channels.items():
        if order not in CHANNELS:
            yield f"channels.{path}", f"is {order!r}: expected {' or '.join(CHANNELS)}"
        if not entry.digests().get(path):
            yield f"channels.{path}", "needs the file's sha256"


def _problems_of(source: Source) -> Iterable[str]:
    """Return the problems of a source.

    It must have one location, and files inside the model folder.
    """
    address = source.address
    if bool(source.hub) == bool(address) or (address.endswith(".zip") and not source.files):
        yield "needs either hub or address, and a .zip needs files"
    if source.hub and not is_hub_id(source.hub):
        yield f"has the invalid hub {source.hub!r}: expected organisation/repository"
    if address and not is_web_address(address):
        yield f"has the invalid address {address!r}: expected https://… of one file"
    if source.into and not is_inside(source.into):
        yield f"has the invalid into {source.into!r}: expected a subfolder of the model's folder"
    yield from (f"has the invalid file {file!r}" for file in source.files if not is_inside(file))


def is_web_address(address: str) -> bool:
    """Return whether an address is an http or https address of a file."""
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"} and bool(host) and is_inside(PurePosixPath(address).name)
    )


def is_inside(path: str) -> bool:
    """Return whether a relative path stays inside its folder on every platform."""
    parts = path.split("/")
    return (
        not path.startswith("/")
        and ".." not in parts
        and any(parts)
        and not set("\\\0") & set(path)
    )


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form organisation/repository, without -- and .. in it."""
    return bool(_HUB_ID.fullmatch(name)) and "--" not in name and ".." not in name


def model_folder(name: str) -> Path:
    """Return the folder of a fetched model; `org/repo` is stored in org--repo. Raises BadName."""
    if "/" in name and not is_hub_id(name):
        raise BadName("a model", name)
    return models_dir() / (
        name.replace("/", "--") if is_hub_id(name) else check_name("a model", name)
    )


def model_name(folder: str) -> str:
    """Return the name of the model in a folder of `models_dir()`."""
    org, dashes, repository = folder.partition("--")
    return f"{org}/{repository}" if dashes and is_hub_id(f"{org}/{repository}") else folder


def models_named_in(settings: Settings) -> list[str]:
    """Return the models in settings: `models:NAME…`, org/repo, or a downloaded model's path."""
    found = map(_model_of, named_weights(settings))
    return list(dict.fromkeys(name for name in found if name))


def _model_of(value: str) -> str | None:
    if value.startswith("models:"):
        return value.removeprefix("models:").split("/")[0]
    if Path(value).is_relative_to(models_dir()):
        inside = Path(value).relative_to(models_dir()).parts
        return model_name(inside[0]) if inside else None
    return value if is_hub_id(value) and not Path(value).exists() else None
