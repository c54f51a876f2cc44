"""Runs of textual inversion in the commands: render, `--from`, `--base-model`, show and export."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pvtool_core.media.decode import frames_of
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.store.identities import Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord, RunFolder, new_run
from tests.support.commands import Pv
from tests.support.keyword_vectors import inversion_job, save_vectors

pytestmark = pytest.mark.usefixtures("engines_in_process")
PROMPT = "a <V> {noun} waving"
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def trained(home: Path, mara: str, models: Path, job: TrainJob) -> RunFolder:
    """Return a finished run of textual inversion on a copy of the small random model."""
    base = shutil.copytree(models / "animatediff", home / "base")
    folder = new_run(home / "data/runs", mara)
    model = with_fingerprints(dataclasses.replace(job.model, base_model=str(base)))
    person = Library().get(mara).ref
    wanted = dataclasses.replace(inversion_job(job), run=folder.name, identity=person, model=model)
    write_job(folder.config, wanted)
    vectors = save_vectors(home / "vectors.safetensors", wanted).read_bytes()
    folder.write_checkpoint(4, {ADAPTER_FILE: vectors})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    return folder


def pixels(clip: Any) -> Any:
    return frames_of(Path(clip["path"]))


def test_clips_of_a_run_its_base_model_and_another_base_model(
    pv: Pv, trained: RunFolder, home: Path
) -> None:
    def render(*words: str) -> Any:
        answer = pv("render", *words, "--no-likeness", "--json")
        assert answer.status == 0, answer.err
        return answer.lines

    base, vectors = render("mara", PROMPT, "--base")
    assert (pixels(base) != pixels(vectors)).any()
    sidecar = json.loads(Path(vectors["path"]).with_suffix(".json").read_text())
    assert sidecar["adapter_start"] == 0
    (again,) = render("--from", vectors["path"])
    assert (again["path"], again["status"]) == (vectors["path"], "skipped")
    (reseeded,) = render("--from", vectors["path"], "--seed", "5")
    assert reseeded["status"] == "done"
    styled = shutil.copytree(home / "base", home / "styled")
    weights = load_file(styled / UNET)
    save_file({name: 0.9 * weight for name, weight in weights.items()}, styled / UNET)
    (other,) = render("mara", PROMPT, "--base-model", str(styled))
    assert (pixels(other) != pixels(vectors)).any()


def test_refused_strengths_base_models_and_long_prompts(
    pv: Pv, trained: RunFolder, home: Path
) -> None:
    wide = shutil.copytree(home / "base", home / "wide")
    for part, key in (("text_encoder", "hidden_size"), ("unet", "cross_attention_dim")):
        config = wide / part / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), key: 24}))
    refusals = {
        ("--strength", "1,0.5"): (2, "have no strength, but 0.5 was given."),
        ("--base-model", str(wide)): (
            3,
            "has width 24, but the keyword vectors of the run have 16.",
        ),
    }
    for words, (status, sentence) in refusals.items():
        answer = pv("render", "mara", PROMPT, *words)
        assert (answer.status, sentence in answer.err) == (status, True), answer.err
    long = "b" * 33 + " <V> {noun}"
    answer = pv("render", "mara", long, "--dry-run")
    assert (answer.status, "is cut off" in answer.err) == (3, True), answer.err


def test_show_and_export(pv: Pv, trained: RunFolder) -> None:
    shown = pv("runs", "show", trained.name, "--json").json
    assert shown["vectors"] == {"count": 4, "width": 16, "keyword": "<V>"}
    assert shown["effect"] is None
    assert "4 of width 16, which stand for <V>" in pv("runs", "show", trained.name).out
    answer = pv("runs", "export", trained.name, "mara.safetensors")
    assert (answer.status, "Keyword vectors: 4 of width 16" in answer.err) == (0, True)
    assert (
        Path("mara.safetensors").read_bytes()
        == (trained.checkpoint_folders()[-1] / ADAPTER_FILE).read_bytes()
    )
    workflow = pv("runs", "export", trained.name, "x.safetensors", "--comfyui", "x.json")
    assert (workflow.status, "No ComfyUI workflow for keyword vectors" in workflow.err) == (2, True)
