"""Jobs of the engine: one dataclass for each kind, and their files."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import tomli_w

from pvtool_core.errors import Mistake, SettingsError, UsageError, printable
from pvtool_core.files import replace_file
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.schema import (
    AdapterConfig,
    ModelConfig,
    SamplerConfig,
    Settings,
    check_model,
    setting,
)
from pvtool_core.settings.toml import T, from_table, read_toml_file, to_table, told
from pvtool_core.untrusted import JOB_BYTES, SETTINGS_BYTES

Noun = Literal["man", "woman", "person"]


@dataclass(frozen=True, kw_only=True)
class IdentityRef:
    """The identity of a job; `folder` is absolute.

    `fingerprint` tells identities of the same name apart.
    """

    name: str
    noun: str = setting("what prompts call them", "person", choices=typing.get_args(Noun))
    folder: str
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One identity in a clip: the keyword that stands for it in prompts, and its adapter.

    `adapter` is a safetensors file, or empty for the base model.
    """

    identity: IdentityRef
    keyword: str = "<V>"
    adapter: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainJob(Settings):
    """Train an adapter. `prompts` are resolved: `{noun}` is replaced, the keyword `<V>` is kept.

    `licences` has a line for each model with a known licence: name, licence, allowed use. `created`
    is the time of creation in ISO 8601 with a time zone; empty in runs of older versions.
    """

    kind: str = setting("of job", "train", choices=("train",))
    run: str
    preset: str = ""
    created: str = ""
    identity: IdentityRef
    prompts: tuple[str, ...]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    licences: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Who is trained: exactly one, as config.toml has room for one `[identity]`."""
        return (Subject(identity=self.identity),)

    def check(self) -> Iterable[Mistake]:
        yield from super().check()
        if self.created and not _is_time(self.created):
            yield Mistake(
                "created", f"is {self.created!r}, not a time such as 2026-11-27T12:00:00+00:00"
            )


@dataclass(frozen=True, kw_only=True)
class PlanJob(Settings):
    """Estimate what training with these settings requires, on shapes alone.

    `architecture` is a diffusers folder whose config files are read, `motion` that of AnimateDiff's
    motion modules if separate.
    """

    kind: str = setting("of job", "plan", choices=("plan",))
    architecture: str
    motion: str = ""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A base model with its sampler, with which clips are rendered; of the adapter only `start`
    matters.
    """

    model: ModelConfig
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009 - frozen
    adapter: AdapterConfig = AdapterConfig()  # noqa: RUF009 - frozen

    def check(self) -> Iterable[Mistake]:
        return check_model(self.model, self.sampler)


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """Encoding of clips. `formats` are names in `settings/formats.py`; png is a folder of images."""

    formats: tuple[str, ...] = setting("output formats", ("mp4",), choices=FORMATS)
    codec: str = setting("of mp4", "h264", choices=("h264", "h265", "av1"))
    loop: int = setting("how many times a gif or webp plays; 0 is for ever", 0, low=0, high=65535)
    upscale: int = setting("whole times that each pixel is repeated", 1, low=1, high=16)
    certificate: str = setting(
        "PEM file with the chain that signs content credentials (C2PA); none if empty", ""
    )
    key: str = setting("PEM file with the private key of that certificate", "")


@dataclass(frozen=True, kw_only=True)
class RenderItem:
    """A clip to render.

    `adapter` is a safetensors file, or empty for the base model; `clip` is the path of the clip
    without its suffix (see clips.py), so that the front end can check its existence without an
    engine. `setup` is an index into the job's setups.
    """

    identity: str
    prompt: str
    seed: int
    adapter: str = ""
    adapter_sha256: str = ""
    run: str = ""
    step: int = 0
    setup: int = 0
    clip: str

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Who is in the clip: exactly one. Only the name of the identity is known, not its folder."""
        ref = IdentityRef(name=self.identity, folder="")
        return (Subject(identity=ref, adapter=self.adapter),)


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """Render clips.

    Several engines, on several machines, may work at the same clips: see leases.py.

    `items` is a file with one RenderItem per line (see batches/folder.py), `out` the folder of all
    clips.
    """

    kind: str = setting("of job", "render", choices=("render",))
    items: str
    setups: tuple[Setup, ...]
    out: str
    encoding: EncodingConfig = EncodingConfig()
    overwrite: bool = False
    sheet: str = setting(
        "what contact sheets of all clips are called in `out`; none are written if empty", ""
    )
    retries: int = setting("how often a clip that failed is tried again", 0, low=0, high=100)
    on: str = setting("where groups of clips are made: here, or by ray", "", choices=("", "ray"))
    address: str = setting("of the Ray cluster; empty starts one here", "")
    cache_gigabytes: float = setting(
        "of trajectories kept; the least recently used go first", 20.0, low=0.0, high=1e6
    )
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    def check(self) -> Iterable[Mistake]:
        return ()


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Settings):
    """Evaluate clips against their identities.

    `sidecars` are the JSON files beside the clips; those without an adapter are the base-model
    clips of those with one. `report` (JSON) and `sheet` (PNG) are the output files; an empty path
    writes none.
    """

    kind: str = setting("of job", "evaluate", choices=("evaluate",))
    identities: tuple[IdentityRef, ...]
    sidecars: tuple[str, ...]
    report: str
    sheet: str = ""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Who the clips show, one subject for each identity; each clip shows one of them."""
        return tuple(Subject(identity=identity) for identity in self.identities)


@dataclass(frozen=True, kw_only=True)
class EnrollJob(Settings):
    """Detect and check the face in each photo; write face crops and embeddings into the identity's
    folder.

    `face` counts faces from the left, starting at 1; 0 expects exactly one face.
    """

    kind: str = setting("of job", "identify", choices=("identify",))
    identity: IdentityRef
    pictures: tuple[str, ...]
    face: int = setting("which face of each picture", 0, low=0, high=1000)


Job = TrainJob | PlanJob | RenderJob | EvaluateJob | EnrollJob
_JOBS: dict[str, type[Job]] = {
    "train": TrainJob,
    "plan": PlanJob,
    "render": RenderJob,
    "evaluate": EvaluateJob,
    "identify": EnrollJob,
}


def read_job(path: Path, most: int = SETTINGS_BYTES) -> Job:
    """Read config.toml of a job, of at most that many bytes.

    Raises RunFailed if it is missing, SettingsError if it is invalid, BrokenRun if it is too large
    or not a regular file.
    """
    table = read_toml_file(path, most, follow=False)
    kind = table.get("kind")
    cls = _JOBS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise SettingsError(
            [Mistake("kind", f"is {told(kind)}, not one of {', '.join(_JOBS)}")], str(path)
        )
    if cls is RenderJob:
        table.pop("width", None)  # written before version 0.2
    return from_table(cls, table, str(path))


def write_job(path: Path, job: Job) -> None:
    """Write `job` as TOML atomically.

    Raises UsageError for text that is not valid UTF-8, or if it is larger than allowed for its
    kind.
    """
    most = SETTINGS_BYTES if isinstance(job, TrainJob) else JOB_BYTES
    try:
        content = tomli_w.dumps(to_table(job)).encode()
    except UnicodeEncodeError as error:
        text: str = error.object
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        hint = "Rename the file or folder, or give another text."
        raise UsageError(
            f"Cannot record {printable(line, whole=True)}: it is not valid UTF-8.", hint
        ) from error
    if len(content) > most:
        raise UsageError(
            f"The settings of this job need {len(content) >> 10} KiB; at most {most >> 10} KiB are allowed.",
            "Give fewer prompts, or fewer files at once.",
        )
    replace_file(path, content)


def _is_time(text: str) -> bool:
    try:
        time = datetime.fromisoformat(text)
        return time.tzinfo is not None and time.timestamp() >= 0
    except (ValueError, OverflowError):
        return False


def require(job: Job, cls: type[T]) -> T:
    """Return `job` if it is an instance of `cls`; guards against the folder of another job.

    Raises UsageError.
    """
    if not isinstance(job, cls):
        raise UsageError(
            f"This folder holds a {job.kind} job.", "Give the folder of another kind of job."
        )
    return job
