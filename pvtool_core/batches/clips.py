"""Names of rendered clips, their sidecars, and the check that a clip is complete.

    OUT/IDENTITY/PROMPT-SLUG-HASH/seed-000003.mp4  seed-000003.gif  seed-000003.json


The hash covers everything that changes pixels: clips with other settings have other names, and the
same command twice renders nothing. The sidecar is written last, with a fingerprint of everything
that the clip was rendered from: a clip without it, with another fingerprint, or with changed files,
is rendered again.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import orjson

from pvtool_core.errors import InputRefused
from pvtool_core.files import replace_file
from pvtool_core.hashes import hash_of, sha256_of_folder
from pvtool_core.settings.formats import FORMATS, Format
from pvtool_core.settings.jobs import UNMARKED, EncodingConfig, RenderItem, Setup
from pvtool_core.settings.schema import MethodConfig, ModelConfig
from pvtool_core.store.clip_likeness import ClipLikeness
from pvtool_core.store.prompts import without_keyword
from pvtool_core.untrusted import RECORD_BYTES, read_regular

BASE = "base"


class Names:
    """Names of the clips of one setup; the common part is computed once."""

    def __init__(self, setup: Setup, upscale: int = 1, watermark: str = UNMARKED) -> None:
        self._setup, self._upscale, self._watermark = setup, upscale, watermark

    @cached_property
    def setup_key(self) -> str:
        """A key that is equal for setups with equal clips."""
        return f"{self._model} {self._sampler} {self._start}{self._method}"

    @cached_property
    def _model(self) -> str:
        return json.dumps(model_facts(self._setup.model), sort_keys=True)

    @cached_property
    def _sampler(self) -> str:
        return json.dumps(asdict(self._setup.sampler), sort_keys=True)

    @cached_property
    def _start(self) -> str:
        steps = self._setup.adapter
        return f'{{"sigma": {steps.start_sigma}}}' if steps.start_sigma else str(steps.start)

    @cached_property
    def _method(self) -> str:
        """The encoder method, as another item of a JSON object; empty without one."""
        facts = method_facts(self._setup.method)
        return f', "method": {json.dumps(facts, sort_keys=True)}' if facts else ""

    def path(
        self,
        out: Path,
        identity: str,
        prompt: str,
        seed: int,
        adapter_sha256: str = "",
        strength: float = 1.0,
        reference: str = "",
    ) -> str:
        """Return the path of a clip without suffix.

        Without an adapter and a `reference`, `identity` is BASE and the digest empty.
        """
        folder = self._folder(prompt, adapter_sha256, strength, reference)
        return f"{out}/{identity}/{folder}/{seed_name(seed)}"

    @lru_cache(maxsize=1024)  # noqa: B019 - consecutive calls differ by seed
    def _folder(self, prompt: str, adapter_sha256: str, strength: float, reference: str) -> str:
        return f"{slug(prompt)}-{self._digest(prompt, adapter_sha256, strength, reference)[:12]}"

    def _digest(self, prompt: str, adapter_sha256: str, strength: float, reference: str) -> str:
        start = self._start if adapter_sha256 else "null"
        acts = f', "strength": {strength}' if adapter_sha256 and strength != 1 else ""
        upscale = f', "upscale": {self._upscale}' if self._upscale > 1 else ""
        method = f'{self._method}, "reference": "{reference}"' if reference else ""
        marked = self._watermark != UNMARKED  # unmarked clips have the names of older versions
        watermark = f', "watermark": "{self._watermark}"' if marked else ""
        facts = (
            f'{{"adapter": "{adapter_sha256}", "model": {self._model}, '
            f'"prompt": {json.dumps(prompt)}, "sampler": {self._sampler}, '
            f'"start": {start}{acts}{upscale}{method}{watermark}}}'
        )
        return hashlib.sha256(facts.encode()).hexdigest()

    def fingerprint(self, item: RenderItem) -> str:
        """Return a hash of everything that changes pixels."""
        digest = self._digest(item.prompt, item.adapter_sha256, item.strength, item.reference)
        return hashlib.sha256(f"{digest} {item.seed}".encode()).hexdigest()[:32]

    def trajectory(self, prompt: str, seed: int) -> str:
        """Return a key shared by all clips with common adapter-free steps.

        These have one prompt, seed and model. The start of the adapter is not included, since
        base-model clips do not depend on it.
        """
        facts = f"{self._model} {self._sampler}{self._method} {seed} {prompt}"
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


def seed_name(seed: int) -> str:
    """Return the name of a clip, without suffix, in the folder of its prompt."""
    return f"seed-{seed:06d}"


_PLACES = {
    "base_model",
    "motion_adapter",
    "config",
    "device",
    "threads",
    "offload",
    "loras",
    "control",
}


def model_facts(model: ModelConfig) -> dict[str, Any]:
    """Return the model settings that change pixels, without paths, as JSON values."""
    settings = {key: value for key, value in asdict(model).items() if key not in _PLACES}
    loras = [[lora.fingerprint, lora.weight] for lora in model.loras]
    return {
        **settings,
        "loras": loras,
        "control": [model.control.fingerprint, model.control.weight],
    }


METHOD_PLACES = ("weights", "image_encoder", "detector", "recognizer")
"""Settings of an encoder method that are paths."""


def method_facts(method: MethodConfig) -> dict[str, Any]:
    """Return what of an encoder method changes pixels, without paths; empty without one."""
    if not method.name:
        return {}
    return {"name": method.name, "scale": method.scale, "fingerprint": method.fingerprint}


def slug(prompt: str, length: int = 40) -> str:
    """Return the first words of a prompt in lower case for a folder name."""
    plain = (
        unicodedata.normalize("NFKD", without_keyword(prompt))
        .encode("ascii", "ignore")
        .decode()
        .lower()
    )
    words = "-".join(re.findall(r"[a-z0-9]+", plain)) or "prompt"
    return (
        words if len(words) <= length else words[: length + 1].rpartition("-")[0] or words[:length]
    )


def sidecar_path(clip: str | Path) -> Path:
    """Return the path of the sidecar of a clip."""
    return Path(f"{clip}.json")


def file_names(clip: str | Path, encoding: EncodingConfig) -> dict[str, str]:
    """Return the files (or folders of frames) of a clip, each with its encoding settings."""
    name = str(clip).rpartition("/")[2]
    forms = [FORMATS[kind] for kind in encoding.formats]
    return {f"{name}{form.suffix}": _how(form, encoding) for form in forms}


@cache
def _how(form: Format, encoding: EncodingConfig) -> str:
    """Return the encoding settings of a file: `mp4 h264`, `gif loop 0`, `webp loop 0 signed`."""
    option = f" {form.option_label}{getattr(encoding, form.option)}" if form.option else ""
    return form.name + option + (" signed" if encoding.certificate else "")


def encoding_of_how(words: Iterable[str]) -> dict[str, Any]:
    """Return the formats and options that the `how` of a clip's files record."""
    table: dict[str, Any] = {"formats": []}
    for how in words:
        name, *rest = how.split()
        form = FORMATS[name]
        table["formats"].append(name)
        if form.option:
            value = rest[len(form.option_label.split())]
            default = getattr(EncodingConfig(), form.option)
            table[form.option] = type(default)(value)
    return table


def write_sidecar(
    clip: Path, fingerprint: str, encoding: EncodingConfig, facts: Mapping[str, Any]
) -> None:
    """Write the sidecar of a clip whose files exist.

    `facts` is everything needed to render it again. Complete files of other formats with the same
    fingerprint remain part of the clip, and so does its likeness if it was not measured again.
    """
    names = file_names(clip, encoding)
    files = {name: {"how": how, **_state(clip.with_name(name))} for name, how in names.items()}
    before = read_sidecar(clip)
    same = before if before and before.get("fingerprint") == fingerprint else {"files": {}}
    measured = {key: same[key] for key in ("likeness",) if key in same}
    all_files = {**same["files"], **files}
    _write_record(clip, {**measured, **facts, "fingerprint": fingerprint, "files": all_files})


def record_likeness(clip: str | Path, likeness: ClipLikeness) -> None:
    """Change the likeness in the sidecar of an existing clip, whose lease this process holds."""
    if record := read_sidecar(clip):
        _write_record(clip, {**record, "likeness": likeness.record()})


def _write_record(clip: str | Path, record: Mapping[str, Any]) -> None:
    replace_file(sidecar_path(clip), json.dumps(record, indent=1, ensure_ascii=False).encode())


def is_whole(
    clip: str | Path, fingerprint: str, encoding: EncodingConfig, since: float = 0.0
) -> bool:
    """Return whether the clip exists unchanged in each format, with this fingerprint.

    Clips rendered before `since`, in unix seconds, do not count.
    """
    return whole_record(clip, fingerprint, encoding, since) is not None


def whole_record(
    clip: str | Path, fingerprint: str, encoding: EncodingConfig, since: float = 0.0
) -> dict[str, Any] | None:
    """Return the sidecar of a clip that `is_whole`, otherwise None."""
    record = read_sidecar(clip)
    whole = (
        record is not None
        and record.get("fingerprint") == fingerprint
        and (not since or record.get("created", 0.0) >= since)
        and _files_are_whole(clip, encoding, record)
    )
    return record if whole else None


def _files_are_whole(clip: str | Path, encoding: EncodingConfig, record: Mapping[str, Any]) -> bool:
    files: Mapping[str, Any] = record["files"]
    folder = Path(clip).parent
    return all(
        name in files and files[name].get("how") == how and _as_recorded(folder / name, files[name])
        for name, how in file_names(clip, encoding).items()
    )


def read_sidecar(clip: str | Path) -> dict[str, Any] | None:
    """Return the content of a sidecar, or None if it is missing or invalid."""
    try:
        record = _read_record(sidecar_path(clip))
        return record if all(map(_is_file_record, record["files"].values())) else None
    # An unreadable clip is rendered again, which reports the problem if it persists.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_clip_record(sidecar: Path) -> dict[str, Any]:
    """Return identity and request of a clip from its sidecar.

    Raises InputRefused if it is invalid.
    """
    try:
        record = _read_record(sidecar)
        complete = {"run": "", **record}
        if all(type(complete.get(key)) is kind for key, kind in _OF_A_CLIP.items()):
            return record
        raise ValueError(sidecar)
    except (OSError, ValueError) as error:
        raise InputRefused(
            f"{sidecar} is not a sidecar of pv.", "Remove it, or render the clip again."
        ) from error


def shows_identity(record: Mapping[str, Any]) -> bool:
    """Return whether a clip shows an identity by its sidecar, and not the base model's person."""
    return bool(record["adapter"] or record.get("reference"))


_OF_A_CLIP = {"identity": str, "prompt": str, "seed": int, "run": str, "adapter": str}
_OF_A_FILE = {"how": str, "sha256": str, "size": int, "mtime_ns": int}


def _read_record(sidecar: Path) -> dict[str, Any]:
    """Read a sidecar. Raises ValueError if it is not a table, and OSError."""
    record: Any = orjson.loads(read_regular(sidecar, RECORD_BYTES, follow=True))
    if not isinstance(record, dict):
        raise ValueError(sidecar)
    return cast("dict[str, Any]", record)


def _is_file_record(facts: Any) -> bool:
    return isinstance(facts, dict) and all(
        type(facts.get(key)) is kind for key, kind in _OF_A_FILE.items()
    )


def _state(path: Path) -> dict[str, Any]:
    found = path.stat()
    size = sum(file.stat().st_size for file in _contents(path))
    return {"sha256": clip_sha256(path), "size": size, "mtime_ns": found.st_mtime_ns}


def _as_recorded(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Return whether a file is unchanged: by size and time or, if these differ, by content.

    They differ for example in a copy.
    """
    try:
        found = path.stat()
        if not all(file.is_file() for file in _contents(path)):  # a pipe would block
            return False
        if sum(file.stat().st_size for file in _contents(path)) != recorded["size"]:
            return False
        same_time = found.st_mtime_ns == recorded["mtime_ns"]
        return (same_time and path.is_file()) or clip_sha256(path) == recorded["sha256"]
    except OSError:
        return False


def clip_sha256(path: Path) -> str:
    """Return the SHA-256 of a clip's file, or of its folder of frames."""
    return hash_of(path, "sha256") if path.is_file() else sha256_of_folder(path)


def _contents(path: Path) -> Iterable[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]
