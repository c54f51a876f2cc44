"""Jobs of the engine: one dataclass for each kind, and their files."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import tomli_w

from pvtool_core.errors import BadName, Mistake, SettingsError, UsageError, printable
from pvtool_core.files import replace_file
from pvtool_core.paths import check_name
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.schema import (
    NO_METHOD,
    AdapterConfig,
    MethodConfig,
    ModelConfig,
    SamplerConfig,
    Settings,
    check_method,
    check_model,
    check_trained,
    setting,
)
from pvtool_core.settings.toml import T, Table, from_table, read_toml_file, shown_value, to_table
from pvtool_core.untrusted import JOB_BYTES, SETTINGS_BYTES

Noun = Literal["man", "woman", "person"]
UNMARKED = "off"
WATERMARKS = ("spread",)
"""Methods of the invisible watermark: see pvtool_core/watermark/watermark_methods.py."""


@dataclass(frozen=True, kw_only=True)
class IdentityRef:
    """The identity of a job; `folder` is absolute.

    `fingerprint` distinguishes identities of the same name. `scope` and `consent` are scope and
    hash of the consent record when the job was created, for adapters and sidecars; whether the
    consent is valid is decided by the identity's folder.
    """

    name: str
    noun: str = setting("class noun in prompts", "person", choices=typing.get_args(Noun))
    folder: str
    fingerprint: str = ""
    scope: str = setting("scope of the consent; empty if unknown", "", omit_default=True)
    consent: str = setting("hash of the consent record; empty if unknown", "", omit_default=True)


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
    is the time of creation in ISO 8601 with a time zone; empty in runs of older versions. `cell`
    identifies identity, prompts and settings of a run that sweeps share, and `sweeps` names them.
    """

    kind: str = setting("of job", "train", choices=("train",))
    run: str
    preset: str = ""
    created: str = ""
    identity: IdentityRef
    prompts: tuple[str, ...]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    licences: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = setting("sweeps that use this run", (), omit_default=True)
    cell: str = setting("hash of the cell of these sweeps", "", omit_default=True)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The identity being trained: exactly one, as in config.toml."""
        return (Subject(identity=self.identity),)

    def check(self) -> Iterable[Mistake]:
        yield from super().check()
        yield from check_trained(self.method)
        if self.created and not _is_time(self.created):
            yield Mistake(
                "created", f"is {self.created!r}, not a time such as 2026-11-27T12:00:00+00:00"
            )
        try:
            check_name("an identity", self.identity.name)  # new runs are named after it
        except BadName:
            yield Mistake("identity.name", f"is {self.identity.name!r}, not a valid name")


@dataclass(frozen=True, kw_only=True)
class PlanJob(Settings):
    """Estimate the requirements of training with these settings, from shapes only.

    `architecture` is a diffusers folder whose config files are read, `motion` that of AnimateDiff's
    motion modules if separate.
    """

    kind: str = setting("of job", "plan", choices=("plan",))
    architecture: str
    motion: str = ""

    def check(self) -> Iterable[Mistake]:
        yield from super().check()
        yield from check_trained(self.method)


@dataclass(frozen=True, kw_only=True)
class LikenessConfig:
    """Face models that measure the likeness of rendered clips; none without a `package`."""

    package: str = setting("folder of an insightface model package; empty measures nothing", "")
    recognizer: str = setting("ONNX file of the held-out recogniser, in this folder", "")
    detector: str = setting("ONNX file of the detector with five landmarks, in this folder", "")
    detection_size: int = setting(
        "side of the detector's square input in pixels", 640, low=32, high=4096, multiple_of=32
    )
    detection_threshold: float = setting(
        "smallest detection score of a face", 0.5, low=0.0, high=1.0
    )
    held_out_photos: int = setting(
        "number of the newest photos that training has not used", 0, low=0, high=1000
    )

    @classmethod
    def of(cls, settings: Settings) -> "LikenessConfig":
        """Return the detector of the identity reward, with the recogniser of the evaluation."""
        reward = settings.identity_reward
        return cls(
            package=reward.package,
            recognizer=settings.evaluation.recognizer,
            detector=reward.detector,
            detection_size=reward.detection_size,
            detection_threshold=reward.detection_threshold,
            held_out_photos=reward.held_out_photos,
        )


@dataclass(frozen=True, kw_only=True)
class ActiveSteps(AdapterConfig):
    """The steps in which an adapter is active while rendering; only the starts matter."""

    start_sigma: float = setting(
        "noise level (sigma) at which the adapter starts, instead of `start`; 0 uses `start`",
        0.0,
        low=0.0,
        high=1.0,
        omit_default=True,
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A base model with its sampler and the active steps of adapters, for rendering.

    `method` is the encoder method, if one renders identities instead of an adapter. `likeness` does
    not change pixels, and is not part of the names of clips.
    """

    model: ModelConfig
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009 - frozen
    adapter: ActiveSteps = ActiveSteps()
    method: MethodConfig = setting("encoder method", NO_METHOD, omit_default=True)  # noqa: RUF009 - frozen
    likeness: LikenessConfig = LikenessConfig()

    @classmethod
    def of(cls, settings: Settings, likeness: LikenessConfig = LikenessConfig()) -> "Setup":
        """Return the model, sampler, active steps and method of a run or a preset."""
        return cls(
            model=settings.model,
            sampler=settings.sampler,
            adapter=ActiveSteps(start=settings.adapter.start),
            method=settings.method,
            likeness=likeness,
        )

    def check(self) -> Iterable[Mistake]:
        yield from check_model(self.model, self.sampler)
        yield from check_method(self.model, self.method)


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """Encoding of clips. `formats` are names of FORMATS; png is a folder of images."""

    formats: tuple[str, ...] = setting("output formats", ("mp4",), choices=FORMATS)
    codec: str = setting("of mp4", "h264", choices=("h264", "h265", "av1"))
    loop: int = setting("number of plays of a gif or webp; 0 loops forever", 0, low=0, high=65535)
    upscale: int = setting("integer upscaling factor (nearest neighbour)", 1, low=1, high=16)
    watermark: str = setting(
        "method of the invisible watermark; off in jobs of older versions",
        UNMARKED,
        choices=(UNMARKED, *WATERMARKS),
        omit_default=True,
    )
    certificate: str = setting(
        "PEM file with the certificate chain for content credentials (C2PA); none if empty", ""
    )
    key: str = setting("PEM file with the private key of that certificate", "")


@dataclass(frozen=True, kw_only=True)
class RenderItem:
    """A clip to render.

    `adapter` is a safetensors file, or empty for the base model; `clip` is the path of the clip
    without its suffix (see clips.py), so that the front end can check its existence without an
    engine. `strength` multiplies the adapter. `adapter_base` is the base model that it was trained
    on, and `adapter_base_fingerprint` that of its weights. `setup` is an index into the job's
    setups. `folder` is that of the identity, whose photos the clip is compared with; `scope` and
    `consent` are those of its consent record. `reference` is the SHA-256 of the photos that the
    setup's encoder method is given, or empty. Batches of older versions lack some of these.
    """

    identity: str
    prompt: str
    seed: int
    adapter: str = ""
    adapter_sha256: str = ""
    adapter_base: str = ""
    adapter_base_fingerprint: str = ""
    strength: float = 1.0
    run: str = ""
    step: int = 0
    setup: int = 0
    clip: str
    folder: str = ""
    scope: str = ""
    consent: str = ""
    reference: str = ""

    @property
    def shows_identity(self) -> bool:
        """Whether an adapter or an encoder method renders the identity, not the base model."""
        return bool(self.adapter or self.reference)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The identity in the clip: exactly one."""
        ref = IdentityRef(
            name=self.identity, folder=self.folder, scope=self.scope, consent=self.consent
        )
        return (Subject(identity=ref, adapter=self.adapter),)


@dataclass(frozen=True, kw_only=True)
class TriesConfig:
    """Further seeds for clips with a low likeness: see seed_tries.py."""

    min_likeness: float = setting(
        "smallest mean likeness of a clip; 0 tries no further seeds", 0.0, low=0.0, high=1.0
    )
    max_tries: int = setting("largest number of seeds of a clip, with its own", 4, low=1, high=1000)
    seed_step: int = setting("difference between the seeds of two tries", 10**6, low=1, high=10**18)


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
    likeness: bool = setting("measure the likeness of each clip", True)
    tries: TriesConfig = TriesConfig()
    sheet: str = setting("file name of contact sheets in `out`; none are written if empty", "")
    retries: int = setting("number of retries of a failed clip", 0, low=0, high=100)
    on: str = setting(
        "where groups of clips are rendered: on this machine, or by ray", "", choices=("", "ray")
    )
    address: str = setting("address of the Ray cluster; empty starts one on this machine", "")
    cache_gigabytes: float = setting(
        "size limit of the trajectory cache; the least recently used entries are deleted first",
        20.0,
        low=0.0,
        high=1e6,
    )
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])

    def check(self) -> Iterable[Mistake]:
        return ()


@dataclass(frozen=True, kw_only=True)
class ClipFile:
    """A clip to evaluate: its absolute path, identity, prompt, seed and method.

    `method` is the column of the report; BASE_METHOD is the base model. `fps` is 0 if the file says
    it, as videos of other programs do.
    """

    file: str
    identity: str
    prompt: str
    seed: int
    method: str
    fps: float = 0.0


BASE_METHOD, ADAPTER_METHOD, STEP_METHOD = "base", "adapter", "step "
"""Methods of pv's own clips; the last one is followed by the training step of a checkpoint."""
REPORT, SHEET, PAGE = "report.json", "contact-sheet.png", "report.html"
"""Files that an evaluation writes to its folder."""


@dataclass(frozen=True, kw_only=True)
class EvaluateJob(Settings):
    """Evaluate clips against their identities.

    `out` gets the report, the contact sheet, the scores of each clip and, with `page`, a web page.
    `scores` is the folder for the scores of clips if several evaluations share them.
    `metrics` are names; empty computes all. `fvd_reference` are the clips that FVD and KVD compare
    with; empty uses those of the base model. With several `shards`, only the clips of this one are
    scored, and there is no report.
    """

    kind: str = setting("of job", "evaluate", choices=("evaluate",))
    identities: tuple[IdentityRef, ...]
    clips: tuple[ClipFile, ...]
    out: str
    metrics: tuple[str, ...] = ()
    fvd_reference: tuple[ClipFile, ...] = ()
    page: bool = False
    shard: int = setting("number of this shard, starting at 1", 1, low=1, high=100_000)
    shards: int = setting("number of shards", 1, low=1, high=100_000)
    on: str = setting("where clips are scored: here, or by ray", "", choices=("", "ray"))
    address: str = setting("address of the Ray cluster; empty starts one on this machine", "")
    scores: str = setting("folder of the scores of clips; `out` if empty", "", omit_default=True)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """The identities in the clips; each clip shows one of them."""
        return tuple(Subject(identity=identity) for identity in self.identities)


@dataclass(frozen=True, kw_only=True)
class EnrollJob(Settings):
    """Check the face in each photo; write face crops and embeddings to the identity's folder.

    `face` counts faces from the left, starting at 1; 0 expects exactly one face.
    """

    kind: str = setting("of job", "identify", choices=("identify",))
    identity: IdentityRef
    pictures: tuple[str, ...]
    face: int = setting(
        "number of the face in each photo, from the left; 0 expects exactly one",
        0,
        low=0,
        high=1000,
    )
    allow_generated: bool = setting(
        "accept photos that are marked as generated by AI", False, omit_default=True
    )


Job = TrainJob | PlanJob | RenderJob | EvaluateJob | EnrollJob
_JOBS: dict[str, type[Job]] = {
    "train": TrainJob,
    "plan": PlanJob,
    "render": RenderJob,
    "evaluate": EvaluateJob,
    "identify": EnrollJob,
}


def read_job(path: Path, most: int = SETTINGS_BYTES) -> Job:
    """Read config.toml of a job, with a size limit.

    Raises RunFailed if it is missing, SettingsError if it is invalid, BrokenRun if it is too large
    or not a regular file.
    """
    table = read_toml_file(path, most, follow=False)
    kind = table.get("kind")
    cls = _JOBS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise SettingsError(
            [Mistake("kind", f"is {shown_value(kind)}, not one of {', '.join(_JOBS)}")], str(path)
        )
    if cls is RenderJob:
        table.pop("width", None)  # written before version 0.2
    return from_table(cls, table, str(path))


def write_job(path: Path, job: Job) -> None:
    """Write `job` as TOML atomically.

    Raises UsageError for text that is not valid UTF-8, or if it is larger than the limit of its
    kind.
    """
    most = SETTINGS_BYTES if isinstance(job, TrainJob) else JOB_BYTES
    try:
        content = tomli_w.dumps(to_table(job)).encode()
    except UnicodeEncodeError as error:
        text: str = error.object
        line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
        hint = "Rename the file or folder, or use another text."
        raise UsageError(
            f"Cannot record {printable(line, whole=True)}: it is not valid UTF-8.", hint
        ) from error
    if len(content) > most:
        raise UsageError(
            f"The settings of this job have {len(content) >> 10} KiB; the limit is {most >> 10}.",
            "Use fewer prompts or files.",
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
            f"Wrong kind of job in this folder: {job.kind}.",
            "Use the folder of another kind of job.",
        )
    return job


def check_trainable(settings: Settings) -> None:
    """Raise SettingsError for settings of an encoder method, which needs no training."""
    if mistakes := [*check_trained(settings.method)]:
        raise SettingsError(mistakes)


def flat_settings(settings: Settings) -> dict[str, str]:
    """Return settings by their dotted names, as used by `--set`, without the prompts."""
    table = to_table(settings)
    table.pop("prompts", None)
    return dict(_leaves("", table))


def _leaves(prefix: str, table: Table) -> list[tuple[str, str]]:
    leaves: list[tuple[str, str]] = []
    for name, value in table.items():
        leaves += (
            _leaves(f"{prefix}{name}.", value)
            if isinstance(value, dict)
            else [(prefix + name, str(value))]
        )
    return leaves
