"""Adapters on other base models, with other strengths and starts."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import pvtool_core
from pvtool_core.batches.clips import model_facts
from pvtool_core.errors import UsageError
from pvtool_core.hashes import sha256_of
from pvtool_core.media.decode import frames_of
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.settings.jobs import TrainJob, read_job, require, write_job
from pvtool_core.settings.toml import to_table
from pvtool_core.store.identities import Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord, RunFolder, new_run
from tests.support.animatediff import original_names
from tests.support.commands import Pv
from tests.support.weight_files import checkpoint

pytestmark = pytest.mark.usefixtures("engines_in_process")
PROMPT = "a <V> {noun} waving"
PLAIN = ("--no-likeness", "--watermark", "off")  # the watermark differs by name
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def trained(
    home: Path, mara: str, models: Path, job: TrainJob, adapters: dict[str, Path]
) -> RunFolder:
    """Return a finished run on a copy of the small random model."""
    base = shutil.copytree(models / "animatediff", home / "base")
    folder = new_run(home / "data/runs", mara)
    model = with_fingerprints(dataclasses.replace(job.model, base_model=str(base)))
    person = Library().get(mara).ref
    write_job(
        folder.config, dataclasses.replace(job, run=folder.name, identity=person, model=model)
    )
    for step in (2, 4):
        folder.write_checkpoint(step, {ADAPTER_FILE: adapters["strong"].read_bytes()})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    return folder


@pytest.fixture
def styled(home: Path, trained: RunFolder) -> Path:
    """Return a base model of the same architecture with other weights."""
    folder = shutil.copytree(home / "base", home / "styled")
    weights = load_file(folder / UNET)
    save_file({name: 0.9 * weight for name, weight in weights.items()}, folder / UNET)
    return folder


@pytest.fixture
def render(pv: Pv, trained: RunFolder) -> Callable[..., list[Any]]:
    def rendered(*words: str) -> list[Any]:
        answer = pv("render", "mara", PROMPT, *words, *PLAIN, "--json")
        assert answer.status == 0, answer.err
        return answer.lines

    return rendered


def pixels(clip: Any) -> Any:
    return frames_of(Path(clip["path"]))


def sidecar(clip: Any) -> Any:
    return json.loads(Path(clip["path"]).with_suffix(".json").read_text())


def changed_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_strength_0_is_the_base_model_and_1_the_adapter_as_trained(
    render: Callable[..., list[Any]],
) -> None:
    base, plain = render("--base")
    clips = {clip.get("strength", 1): clip for clip in render("--strength", "0,0.5,1")}
    off, half, whole = clips[0], clips[0.5], clips[1]
    assert (pixels(off) == pixels(base)).all()
    assert whole["path"] == plain["path"]
    assert whole["status"] == "skipped"
    assert len({clip["path"] for clip in (base, off, half, whole)}) == 4
    assert (pixels(half) != pixels(off)).any()
    assert (pixels(half) != pixels(plain)).any()
    assert [sidecar(clip)["strength"] for clip in (base, off, half, whole)] == [None, 0, 0.5, 1]


def test_an_equal_base_model_elsewhere_gives_the_same_clip(
    pv: Pv, render: Callable[..., list[Any]], home: Path
) -> None:
    (plain,) = render()
    shutil.copytree(home / "base", home / "copy")
    (again,) = render("--base-model", str(home / "copy"))
    assert (again["path"], again["status"]) == (plain["path"], "skipped")


def test_another_base_model_is_in_hash_sidecar_and_json_and_is_used_again(
    pv: Pv, render: Callable[..., list[Any]], home: Path, styled: Path
) -> None:
    plain, other = render("--base-model", str(home / "base"), "--base-model", str(styled))
    assert plain["path"] != other["path"]
    assert (pixels(plain) != pixels(other)).any()
    assert (other["base_model"], other["adapter_base"]) == (str(styled), str(home / "base"))
    facts = sidecar(other)
    assert (facts["base_model"], facts["adapter_base"]) == ("styled", "base")
    assert facts["model"]["fingerprint"] != facts["adapter_base_fingerprint"]
    assert sidecar(plain)["model"]["fingerprint"] == facts["adapter_base_fingerprint"]
    answer = pv("render", "--from", other["path"], "--out", "again", "--no-likeness", "--json")
    (again,) = answer.lines
    assert Path(again["path"]).read_bytes() == Path(other["path"]).read_bytes()
    assert "the adapter was trained on base." in answer.err


def test_a_clip_of_the_base_model_is_rendered_again(
    pv: Pv, render: Callable[..., list[Any]]
) -> None:
    base, _ = render("--base")
    (again,) = pv("render", "--from", base["path"], "--dry-run", "--json").lines
    assert (again["path"], again["status"]) == (base["path"], "there")


@pytest.mark.parametrize(
    ("field", "value"),
    [("strength", "nan"), ("strength", -3), ("strength", 1e30), ("adapter_base", 5)],
)
def test_a_sidecar_with_an_invalid_strength_or_base_is_refused(
    field: str, value: Any, pv: Pv, trained: RunFolder
) -> None:
    (clip,) = pv("render", "mara", PROMPT, "--dry-run", "--json").lines
    file = Path(clip["path"])
    file.parent.mkdir(parents=True)
    facts = clip_facts_of(trained)
    file.with_suffix(".json").write_text(json.dumps({**facts, field: value}))
    file.write_bytes(b"")
    answer = pv("render", "--from", str(file), "--dry-run")
    assert answer.status == 3
    assert "lacks metadata about its rendering" in answer.err


def clip_facts_of(run: RunFolder) -> dict[str, Any]:
    """Return a sidecar of a clip that was never rendered."""
    job = require(read_job(run.config), TrainJob)
    adapter = run.checkpoint_folders()[-1] / ADAPTER_FILE
    return {
        "identity": "mara",
        "prompt": "a <V> woman waving",
        "seed": 0,
        "run": run.name,
        "step": 4,
        "adapter": str(adapter),
        "adapter_sha256": sha256_of(adapter),
        "adapter_start": 0.75,
        "base_model": job.model.base_model,
        "model": model_facts(job.model),
        "sampler": to_table(job.sampler),
        "upscale": {"factor": 1},
        "files": {},
    }


def test_a_base_model_that_was_moved_is_missing(
    pv: Pv, render: Callable[..., list[Any]], styled: Path
) -> None:
    (clip,) = render("--base-model", str(styled))
    styled.rename(styled.with_name("elsewhere"))
    answer = pv("render", "--from", clip["path"], "--dry-run")
    assert answer.status == 4
    assert f"{styled}" in answer.err


def test_a_base_model_that_changed_since_the_clip_was_written_is_refused(
    pv: Pv, render: Callable[..., list[Any]], styled: Path
) -> None:
    (clip,) = render("--base-model", str(styled))
    changed_json(styled / "scheduler/scheduler_config.json", beta_end=0.013)
    answer = pv("render", "--from", clip["path"], "--out", "again", "--no-likeness")
    assert answer.status == 3
    assert f"The base model in {styled} is not the one that this" in answer.err
    assert not list(Path("again").rglob("*.mp4"))


def test_a_start_by_noise_level_is_a_start_by_step(render: Callable[..., list[Any]]) -> None:
    """The levels of the sampler at steps 6 and 7 of 8 are 0.70 and 0.40."""
    by_step, later = render("--start", "0.75,0.9")
    by_level, last = render("--start-sigma", "0.7,0.6")
    assert (pixels(by_level) == pixels(by_step)).all()
    assert (pixels(last) == pixels(later)).all()
    assert (pixels(later) != pixels(by_step)).any()
    assert [sidecar(clip)["adapter_first_step"] for clip in (by_level, last)] == [6, 7]
    assert len({clip["path"] for clip in (by_step, later, by_level, last)}) == 4


def test_clips_of_a_sweep_are_rendered_again_from_their_files(
    pv: Pv, render: Callable[..., list[Any]]
) -> None:
    (clip,) = render("--strength", "0.5", "--start-sigma", "0.6")
    answer = pv("render", "--from", clip["path"], "--dry-run", "--json")
    assert [each["status"] for each in answer.lines] == ["there"]


def test_a_later_start_and_another_base_model_are_reported(
    pv: Pv, trained: RunFolder, home: Path, styled: Path
) -> None:
    words = ("--start", "0.9,0.5", "--base-model", str(styled))
    errors = pv("render", "mara", PROMPT, *words, "--dry-run").err
    run = f"{trained.name}@4"
    assert f"{run}: rendering on {styled}; the adapter was trained on {home / 'base'}." in errors
    assert f"{run} was trained to start at 0.75 of the steps; these clips start it later" in errors
    assert "these clips start it earlier, at 0.5." in errors


def test_the_library_renders_the_same_clip_as_the_command(
    render: Callable[..., list[Any]], trained: RunFolder, styled: Path
) -> None:
    words = ("--base-model", str(styled), "--strength", "0.5", "--start", "0.9")
    (clip,) = render(*words, "--out", "out", "--dry-run")
    options: dict[str, Any] = {"base_model": str(styled), "strength": 0.5, "start": 0.9}
    options["watermark"] = "off"
    files = pvtool_core.render(trained.name, PROMPT, "out", likeness=False, **options).wait()
    assert [str(file) for file in files] == [clip["path"]]
    with pytest.raises(UsageError, match="Invalid strength 5"):
        pvtool_core.render(trained.name, PROMPT, "out", strength=5)


def test_every_combination_is_a_clip_and_rows_override_options(
    pv: Pv, trained: RunFolder, styled: Path
) -> None:
    name = trained.name
    rows = [
        {"prompt": PROMPT},
        {"prompt": PROMPT, "strength": [0.3, 0.4], "start": 0.9, "base_model": str(styled)},
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ("--run", f"{name}@2", "--run", f"{name}@4", "--strength", "0.5,1", "--start", "0.5")
    clips = pv("render", "mara", "--prompts", "rows.jsonl", *words, "--dry-run", "--json").lines
    found = [(clip["step"], clip.get("strength", 1)) for clip in clips]
    # The files of both checkpoints are equal here, and so are their clips.
    assert found == [(2, 0.5), (2, 1), (2, 0.3), (2, 0.4)]
    Path("rows.csv").write_text('prompt,strength,start\n"<V> waits","0,0.5,1","0.5,0.75"\n')
    words = ("mara", "--prompts", "rows.csv", "--dry-run", "--json")
    assert len(pv("render", *words).lines) == 6


def test_empty_lists_are_refused_and_one_invalid_choice_does_not_remove_the_others(
    pv: Pv, trained: RunFolder, styled: Path
) -> None:
    Path("rows.jsonl").write_text(json.dumps({"prompt": PROMPT, "strength": []}))
    answer = pv("render", "mara", PROMPT, "--prompts", "rows.jsonl", "--dry-run")
    assert (answer.status, "Empty strength." in answer.err) == (2, True)
    words = ("--base-model", "nothing", "--base-model", str(styled))
    answer = pv("render", "mara", PROMPT, *words, "--keep-going", "--dry-run", "--json")
    assert [line["base_model"] for line in answer.lines if "path" in line] == [str(styled)]
    assert answer.status == 6


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("--base-model nothing", 4, "nothing"),
        ("--base-model lora.safetensors", 3, "lora.safetensors is a LoRA, not a base model."),
        ("--base-model wan", 3, "is a model of the family wan, not animatediff"),
        ("--base-model wide", 3, "has layers of width 24, 48, but the adapter of the run has"),
        ("--base-model v", 3, "predicts v_prediction, but the adapter of the run was trained on"),
        ("--base-model still", 3, "is Stable Diffusion without motion modules"),
        ("--strength 5", 2, "Invalid strength '5': expected numbers from 0 to 4."),
        ("--strength nan", 2, "Invalid strength 'nan'"),
        ("--strength 0,5", 2, "Invalid strength '5'"),
        ("--start 1", 2, "Invalid start '1'"),
        ("--start 0.5 --start-sigma 0.5", 2, "start and start_sigma cannot be combined."),
        ("--start-sigma 0.001", 3, "No denoising step has a noise level of at most 0.001"),
    ],
)
def test_unusable_base_models_strengths_and_starts_are_refused(
    words: str, status: int, sentence: str, pv: Pv, trained: RunFolder, home: Path, models: Path
) -> None:
    checkpoint(Path("lora.safetensors"), {"lora_unet_x.lora_down.weight": (2, 4)})
    for name in ("wan", "wide", "v", "still"):
        shutil.copytree(models / ("still" if name == "still" else "animatediff"), name)
    changed_json(Path("wan/model_index.json"), _class_name="WanPipeline")
    changed_json(Path("wide/unet/config.json"), block_out_channels=[24, 48])
    changed_json(Path("v/scheduler/scheduler_config.json"), prediction_type="v_prediction")
    answer = pv("render", "mara", PROMPT, "--no-likeness", *words.split())
    assert answer.status == status, answer.err
    assert sentence in answer.err


def test_a_single_file_uses_the_configurations_of_the_run(
    pv: Pv, trained: RunFolder, home: Path, models: Path, job: TrainJob
) -> None:
    model = dataclasses.replace(
        job.model,
        base_model=str(models / "still"),
        motion_adapter=str(models / "motion"),
    )
    folder = new_run(home / "data/runs", "mara")
    person = Library().get("mara").ref
    settings = dataclasses.replace(job, run=folder.name, identity=person)
    write_job(folder.config, dataclasses.replace(settings, model=with_fingerprints(model)))
    adapter = (trained.checkpoint_folders()[-1] / ADAPTER_FILE).read_bytes()
    folder.write_checkpoint(4, {ADAPTER_FILE: adapter})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    save_file(original_names(models / "still"), "style.safetensors")
    words = ("--run", folder.name, *PLAIN, "--json", "--base-model")
    clips = [
        pv("render", "mara", PROMPT, *words, base).lines[0]
        for base in (str(models / "still"), "style.safetensors")
    ]
    assert [clip["status"] for clip in clips] == ["done", "done"]
    assert (pixels(clips[0]) == pixels(clips[1])).all()
