"""Rendering: what is there stays, what fails stops nothing else, and no work is done twice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pvtool_core.config import EncodingConfig, TrainJob
from pvtool_core.errors import Interrupted
from pvtool_core.media import frames_of
from pvtool_core.metadata import read_facts
from pvtool_core.renderer import render
from tests.core.jobs import PROMPT, Engine, item, render_job, whole


def test_a_rendered_clip_has_its_facts_beside_it_and_inside_it(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    clip = tmp_path / "out/ann/waving-0123/seed-000003"
    both = EncodingConfig(formats=("mp4", "gif"))
    wanted = render_job(job, item(clip, adapter=adapters["strong"]), encoding=both)
    assert run(wanted).status == 0
    assert run.clips() == ["done"]
    assert whole(wanted, clip)
    assert sorted(path.name for path in clip.parent.iterdir()) == [
        f"{clip.name}.{end}" for end in ("gif", "json", "mp4")
    ]
    assert frames_of(clip.with_suffix(".mp4")).shape == (4, 32, 32, 3)
    beside, inside = json.loads(clip.with_suffix(".json").read_text()), read_facts(clip.with_suffix(".mp4"))
    assert inside["generated_by_ai"] is True
    assert inside.items() <= beside.items()
    assert (inside["prompt"], inside["seed"], inside["run"], inside["sampler"]["num_inference_steps"]) == (
        PROMPT, 3, "ann-1", 8
    )  # fmt: skip
    assert beside["adapter"] == str(adapters["strong"])
    assert str(tmp_path.parent.parent) not in json.dumps(inside)  # where things lie here is nobody's business


def test_what_is_there_is_skipped_and_what_was_damaged_is_made_again(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    clips = [tmp_path / f"out/base/waving/seed-{seed:06d}" for seed in (3, 4)]
    wanted = render_job(job, *(item(clip, seed) for clip, seed in zip(clips, (3, 4), strict=True)))
    assert run(wanted).status == 0
    before = [clip.with_suffix(".mp4").read_bytes() for clip in clips]
    clips[0].with_suffix(".mp4").write_bytes(before[0][:-100])
    assert run(wanted).status == 0
    assert sorted(run.clips()) == ["done", "skipped"]
    assert [clip.with_suffix(".mp4").read_bytes() for clip in clips] == before
    Path(wanted.items).touch()  # what was made before this batch was asked for is made again
    assert run(dataclasses.replace(wanted, overwrite=True)).status == 0
    assert run.clips() == ["done", "done"]


def test_a_clip_made_in_another_way_under_the_same_name_is_made_again(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    wanted = render_job(job, item(tmp_path / "out/clip"))
    assert run(wanted).status == 0
    plain = frames_of(tmp_path / "out/clip.mp4")
    assert run(dataclasses.replace(wanted, encoding=EncodingConfig(upscale=2))).status == 0
    assert run.clips() == ["done"]
    assert frames_of(tmp_path / "out/clip.mp4").shape == (4, 64, 64, 3)
    record = json.loads((tmp_path / "out/clip.json").read_text())
    assert record["upscale"] == {"factor": 2, "filter": "nearest"}
    assert plain.shape == (4, 32, 32, 3)


def test_an_adapter_changes_the_clip_and_one_of_zeros_does_not(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    files = {"strong": adapters["strong"], "base": "", "zero": adapters["zero"]}
    assert run(render_job(job, *(item(tmp_path / name, adapter=file) for name, file in files.items()))).status == 0
    frames = {name: frames_of(tmp_path / f"{name}.mp4") for name in files}
    assert (frames["zero"] == frames["base"]).all()
    assert np.abs(frames["strong"].astype(int) - frames["base"]).mean() > 1


def test_one_clip_that_fails_does_not_stop_the_others(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(adapters["strong"].read_bytes()[:-7])
    items = [item(tmp_path / "a", adapter=torn), item(tmp_path / "b", adapter=tmp_path / "gone"), item(tmp_path / "c")]
    wanted = render_job(job, *items)
    ended = run(wanted)
    assert (ended.status, ended.kind, ended.message) == (6, "SomeFailed", "2 of 3 failed.")
    reasons = {Path(event["path"]).name: event.get("reason") for event in run.events if event["type"] == "clip"}
    assert reasons["c"] is None
    assert "torn.safetensors is no adapter file" in str(reasons["a"])
    assert "gone are not on this machine" in str(reasons["b"])
    assert whole(wanted, tmp_path / "c")
    assert not list(tmp_path.glob("[ab].*"))


def test_when_nothing_could_be_made_the_reason_is_the_answer(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    ended = run(render_job(job, item(tmp_path / "b", adapter=tmp_path / "gone")))
    assert (ended.status, ended.kind) == (4, "WeightsMissing")


def test_a_clip_whose_file_could_not_be_written_is_not_denoised_again(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").mkdir()  # where the file is to go
    wanted = render_job(job, item(tmp_path / "clip"))
    assert run(wanted).status == 1
    (kept,) = tmp_path.glob(".clip.latents")
    (tmp_path / "clip.mp4").rmdir()
    mark_latents(kept)
    assert run(wanted).status == 0
    assert not kept.exists()
    frames = frames_of(tmp_path / "clip.mp4").astype(int)
    assert np.abs(frames - frames[:1]).max() <= 2  # latents of zeros show the same in every frame


def mark_latents(file: Path) -> None:
    """Put zeros in place of kept latents, so that one sees whether they are used."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({"latents": torch.zeros_like(load_file(file)["latents"])}, file, metadata=metadata)


def test_a_batch_that_is_stopped_keeps_what_is_whole(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    def report(type: str, **values: Any) -> None:
        if type == "clip":
            raise Interrupted("asked to stop")

    wanted = render_job(job, *(item(tmp_path / f"clip-{seed}", seed) for seed in range(9)))
    with pytest.raises(Interrupted):
        render(wanted, report)
    made = sorted({path.stem for path in tmp_path.glob("*.mp4")})
    assert 1 <= len(made) <= 5  # the one that was told of, and those that were on their way
    assert all(whole(wanted, tmp_path / name) for name in made)
    assert len(list(tmp_path.iterdir())) == 2 * len(made)
