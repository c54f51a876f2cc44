"""Provenance of a clip from its sidecar or its own file, for `pv render --from CLIP`.

Both have hashes of adapter and weights. Their paths are those of earlier batches on this machine,
or of the run in the metadata; sidecars of older versions have paths of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pvtool_core.batches.adapters import RunAdapter
from pvtool_core.batches.clips import METHOD_PLACES, encoding_of_how, read_sidecar
from pvtool_core.batches.columns import RANGES
from pvtool_core.batches.encoder_methods import method_preset
from pvtool_core.errors import InputRefused, Missing, PvError, WeightsMissing
from pvtool_core.hashes import sha256_of
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.media.metadata import read_facts
from pvtool_core.paths import runs_dir
from pvtool_core.settings.formats import FORMATS, format_of
from pvtool_core.settings.jobs import UNMARKED, LikenessConfig, RenderItem, Setup, TrainJob
from pvtool_core.settings.toml import Table, from_table, to_table
from pvtool_core.store.runs import ADAPTER_FILE, find_run
from pvtool_core.store.summary import job_of
from pvtool_core.store.weight_places import place_of

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Provenance:
    """An existing clip: its request, adapter, setup and encoding."""

    item: RenderItem
    setup: Setup
    trained: RunAdapter
    encoding: Table


def provenance_of(path: Path, other_run: bool = False, people: Sequence[str] = ()) -> Provenance:
    """Return the provenance of a clip.

    Its own adapter is not required for another run or other identities. Raises Missing,
    InputRefused for a clip of another program, WeightsMissing if its weights are missing.
    """
    if not path.exists():
        raise Missing(
            "clip",
            str(path),
            f"Use a clip rendered by pv ({', '.join(FORMATS)}), or its sidecar.",
        )
    clip = path.with_suffix("")
    facts = read_sidecar(clip) or ({} if path.suffix == ".json" else _facts_in(path))
    try:
        by_other = other_run or (bool(people) and facts["identity"] not in people)
        return _origin(path, clip, facts, by_other)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputRefused(
            f"{path.name} lacks metadata about its rendering.", "Use a clip rendered by pv."
        ) from error


def _facts_in(path: Path) -> Facts:
    """Read the metadata of a file or a folder of frames. Raises InputRefused."""
    try:
        return read_facts(path)
    except (ClipBroken, OSError, ValueError, RecursionError) as error:
        raise InputRefused(
            f"{path.name} is not a clip of pv.", "Use the file of a clip or its sidecar."
        ) from error


def _origin(path: Path, clip: Path, facts: Facts, by_other: bool) -> Provenance:
    job = _job_of_run(facts["run"])
    setup = _setup(facts, job)
    own = bool(facts["adapter_sha256"]) and not by_other
    reference = _text(facts, "reference")
    base = _text(facts, "adapter_base_fingerprint") or setup.model.fingerprint
    trained = RunAdapter(
        adapter=_adapter(facts) if own else Path(),
        sha256=facts["adapter_sha256"],
        run=facts["run"],
        step=facts["step"],
        setup=setup,
        start=job.adapter.start if job else setup.adapter.start,
        base_model=_text(facts, "adapter_base") or (job or setup).model.base_model,
        base_fingerprint=base,
    )
    item = RenderItem(
        identity=facts["identity"],
        prompt=facts["prompt"],
        seed=facts["seed"],
        adapter=str(trained.adapter) if own else "",
        adapter_sha256=facts["adapter_sha256"],
        strength=_strength(facts),
        run=facts["run"],
        step=facts["step"],
        clip=str(clip),
        reference=reference,
    )
    return Provenance(
        item,
        setup,
        trained,
        {
            "upscale": facts["upscale"]["factor"],
            "watermark": facts.get("watermark", {}).get("method", UNMARKED),
            **_encoding(path, facts),
        },
    )


def _text(facts: Facts, key: str) -> str:
    """Return an optional text. Raises ValueError for another type."""
    value = facts.get(key, "")
    if not isinstance(value, str):
        raise ValueError(key)
    return value


def _strength(facts: Facts) -> float:
    """Return the strength; clips of the base model and older ones lack it. Raises ValueError."""
    value = facts.get("strength")
    low, high = RANGES["strength"]
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError("strength")
    return float(value)


def _job_of_run(name: str) -> TrainJob | None:
    """Return the settings of the clip's run, if it exists."""
    try:
        return job_of(find_run(runs_dir(), name)) if name else None
    except PvError:
        return None


def _setup(facts: Facts, job: TrainJob | None) -> Setup:
    """Return the setup of the metadata, with paths from it or from the run."""
    places: Table = {}
    if job and job.model.fingerprint == facts["model"]["fingerprint"]:
        places = {
            key: value for key, value in to_table(job.model).items() if key not in facts["model"]
        }
    places |= place_of("model", facts["model"]["fingerprint"]) | _old_places(facts)
    if not places.get("base_model"):
        problem = f"the base model of {facts['identity']}'s clip"
        raise WeightsMissing(problem, "Restore its run, or render on the machine that rendered it.")
    loras = _loras(facts, job)
    control = _control(facts, places.pop("control", {}))
    method = _method(facts, places)
    model = {**facts["model"], **places, "loras": loras, "control": control}
    start = facts["adapter_start"]
    if (
        start is None and job
    ):  # a clip of the base model, which may be rendered again with an adapter
        start = job.adapter.start
    adapter = {} if start is None else {"start": start}
    if sigma := facts.get("adapter_start_sigma"):
        adapter["start_sigma"] = sigma
    table = {"model": model, "sampler": facts["sampler"], "adapter": adapter}
    if method:
        judges = LikenessConfig.of(method_preset(method["name"]))
        table |= {"method": method, "likeness": to_table(judges)}
    elif job:
        table["likeness"] = to_table(LikenessConfig.of(job))
    return from_table(Setup, table, "the settings of the clip")


def _method(facts: Facts, places: Table) -> Table:
    """Return the encoder method, with its paths; those of old sidecars are taken from `places`.

    Raises WeightsMissing without the paths.
    """
    paths = places.pop("method", {})
    if not facts.get("reference"):
        return {}
    method = dict(facts["method"])
    paths = paths or place_of("method", method["fingerprint"])
    if not paths:
        problem = f"of the clip's method {method['name']}"
        raise WeightsMissing(problem, "Render it on the machine that rendered it.")
    return {**method, **{name: paths.get(name, "") for name in METHOD_PLACES}}


def _old_places(facts: Facts) -> Table:
    """Return the absolute paths of a sidecar of an older version; newer ones have names."""
    places = {"base_model": facts.get("base_model"), **facts.get("places", {})}
    places.pop("loras", None)
    own = cast("Table", places.pop("control", None) or {})
    control = {key: value for key, value in own.items() if _is_path(value)}
    found = {key: value for key, value in places.items() if _is_path(value)}
    if control:
        found["control"] = control
    if any(map(_is_path, (method := places.get("method") or {}).values())):
        found["method"] = method
    return found


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def _loras(facts: Facts, job: TrainJob | None) -> list[Table]:
    files = cast("list[str]", facts.get("places", {}).get("loras", []))
    known = {lora.fingerprint: lora.file for lora in job.model.loras} if job else {}
    for number, (fingerprint, _) in enumerate(facts["model"]["loras"]):
        if file := place_of("lora", fingerprint).get("file"):
            known[fingerprint] = file
        if _is_path(next(iter(files[number:]), None)):
            known[fingerprint] = files[number]
    if unknown := [
        fingerprint for fingerprint, _ in facts["model"]["loras"] if fingerprint not in known
    ]:
        raise WeightsMissing(f"of a LoRA ({unknown[0]})", "Add it with --lora.")
    return [
        {"file": known[fingerprint], "weight": weight, "fingerprint": fingerprint}
        for fingerprint, weight in facts["model"]["loras"]
    ]


def _control(facts: Facts, places: Table) -> Table:
    fingerprint, weight = facts["model"]["control"]
    places = {**places, **place_of("control", fingerprint)} if fingerprint else {}
    if fingerprint and not places.get("model"):
        raise WeightsMissing("of the clip's ControlNet", "Add --controlnet and --control-frames.")
    return {"model": "", "frames": "", **places, "fingerprint": fingerprint, "weight": weight}


def _adapter(facts: Facts) -> Path:
    """Return the exact adapter, in a checkpoint of its run or where it was rendered from.

    Raises WeightsMissing.
    """
    run, step = facts["run"], facts["step"]
    checkpoint = runs_dir() / run / "checkpoints" / f"step-{step:06d}" / ADAPTER_FILE
    known = place_of("adapter", facts["adapter_sha256"]).get("file", "")
    for file in map(Path, (facts.get("adapter") or "", known, checkpoint)):
        if file.is_absolute() and file.is_file() and sha256_of(file) == facts["adapter_sha256"]:
            return file
    raise WeightsMissing(
        f"{run}@{step}", "Its run or this checkpoint was deleted; use another one with --run."
    )


def _encoding(path: Path, facts: Facts) -> Table:
    """Return the encoding of the clip's files; without a sidecar that of the given file only."""
    recorded = [file["how"] for file in facts.get("files", {}).values()]
    form = format_of(path)
    if recorded or form is None:
        return encoding_of_how(recorded)
    return {"formats": [form.name]}
