"""Rendering: what is there stays, what fails stops nothing else, and no work is done twice."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.batches.rates import estimate
from pvtool_core.errors import Interrupted
from pvtool_core.media.decode import frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.media.metadata import read_facts
from pvtool_core.rendering.renderer import render
from pvtool_core.rendering.write import Writer
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, TrainJob
from tests.support.render_jobs import PROMPT, Engine, item, render_job, whole


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
    beside, inside = (
        json.loads(clip.with_suffix(".json").read_text()),
        read_facts(clip.with_suffix(".mp4")),
    )
    assert inside["generated_by_ai"] is True
    assert inside.items() <= beside.items()
    assert (inside["prompt"], inside["seed"], inside["run"], inside["sampler"]["num_inference_steps"]) == (
        PROMPT, 3, "ann-1", 8
    )  # fmt: skip
    assert beside["adapter"] == str(adapters["strong"])
    assert str(tmp_path.parent.parent) not in json.dumps(
        inside
    )  # where things lie here is nobody's business


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
    assert (
        run(
            render_job(job, *(item(tmp_path / name, adapter=file) for name, file in files.items()))
        ).status
        == 0
    )
    frames = {name: frames_of(tmp_path / f"{name}.mp4") for name in files}
    assert (frames["zero"] == frames["base"]).all()
    assert np.abs(frames["strong"].astype(int) - frames["base"]).mean() > 1


def test_one_clip_that_fails_does_not_stop_the_others(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(adapters["strong"].read_bytes()[:-7])
    items = [
        item(tmp_path / "a", adapter=torn),
        item(tmp_path / "b", adapter=tmp_path / "gone"),
        item(tmp_path / "c"),
    ]
    wanted = render_job(job, *items)
    ended = run(wanted)
    assert (ended.status, ended.kind, ended.message) == (6, "SomeFailed", "2 of 3 failed.")
    reasons = {
        Path(event["path"]).name: event.get("reason")
        for event in run.events
        if event["type"] == "clip"
    }
    assert reasons["c"] is None
    assert "torn.safetensors is no adapter file" in str(reasons["a"])
    assert "gone." in str(reasons["b"])
    assert whole(wanted, tmp_path / "c")
    assert not list(tmp_path.glob("[ab].*"))


def test_when_nothing_could_be_made_the_reason_is_the_answer(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
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


def test_a_batch_that_is_stopped_keeps_what_is_whole(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
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


class Passes:
    """Counts how many clips went through the model, and how many at once; a memory for `room` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int = 99) -> None:
        self.widths: list[int] = []
        predict = AnimateDiff.predict

        def counted(backbone: AnimateDiff, latents: Any, step: int, embeds: Any) -> Any:
            self.widths.append(len(latents))
            if len(latents) > room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return predict(backbone, latents, step, embeds)

        monkeypatch.setattr(AnimateDiff, "predict", counted)


def people(
    adapters: dict[str, Path], out: Path, prompts: Sequence[str] = (PROMPT,)
) -> list[RenderItem]:
    """Clips of two people and of nobody, for each prompt."""
    files = {"strong": adapters["strong"], "zero": adapters["zero"], "base": ""}
    return [
        item(out / name / str(number), 5, file, prompt)
        for number, prompt in enumerate(prompts)
        for name, file in files.items()
    ]


def test_clips_of_one_prompt_and_seed_share_what_no_adapter_takes_part_in(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    passes = Passes(monkeypatch)
    assert run(render_job(job, *people(adapters, tmp_path / "out"))).status == 0
    assert len(passes.widths) == 6 + 3 * 2
    assert run(render_job(job, item(tmp_path / "later", 5, adapters["strong"]))).status == 0
    assert len(passes.widths) == 6 + 4 * 2


def test_several_go_through_the_model_at_once_and_can_be_made_again_to_the_bit(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    passes = Passes(monkeypatch)
    prompts = [PROMPT, "a <V> woman asleep", "a <V> woman waving again"]
    assert run(render_job(job, *people(adapters, tmp_path / "out", prompts), width="2")).status == 0
    assert passes.widths == [2] * (6 + 3 * 2) + [1] * (6 + 3 * 2)
    again = replace(item(tmp_path / "again", 5, adapters["strong"]), switch_width=2, tail_width=2)
    monkeypatch.setenv("PV_HOME", str(tmp_path / "another home"))
    assert run(render_job(job, again)).status == 0
    first = tmp_path / "out/strong/0.mp4"
    assert (tmp_path / "again.mp4").read_bytes() == first.read_bytes()
    assert json.loads(first.with_suffix(".json").read_text())["widths"] == [2, 2]


def test_too_many_for_the_memory_are_made_by_halves(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    passes = Passes(monkeypatch, room=1)
    wanted = render_job(
        job, *people(adapters, tmp_path / "out", [PROMPT, "a <V> woman asleep"]), width="4"
    )
    assert run(wanted).status == 0
    assert passes.widths.count(2) == 1
    assert run.clips() == ["done"] * 6
    passes.widths.clear()
    passes_of_nothing = Passes(monkeypatch, room=0)
    ended = run(render_job(job, item(tmp_path / "large", 6)))
    assert (ended.status, ended.kind) == (5, "OutOfMemory")
    assert len(passes_of_nothing.widths) == 1


def test_a_clip_that_fails_is_tried_again_as_often_as_asked(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = iter([True, True, False, False])

    def sometimes(*words: Any) -> Any:
        if next(broken):
            raise ClipBroken(tmp_path / "clip.mp4", "the sun shone on it")
        return write_clip(*words)

    monkeypatch.setattr("pvtool_core.rendering.write.write_clip", sometimes)
    wanted = render_job(job, item(tmp_path / "clip"), retries=1)
    assert run(wanted).status == 1
    assert run.clips() == ["failed"]
    assert run(wanted).status == 0
    assert run.clips() == ["done"]


def test_what_is_there_of_another_format_stays(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    assert run(render_job(job, item(tmp_path / "clip"))).status == 0
    before = (tmp_path / "clip.mp4").stat().st_mtime_ns
    gif = render_job(job, item(tmp_path / "clip"), encoding=EncodingConfig(formats=("gif",)))
    assert run(gif).status == 0
    assert (tmp_path / "clip.mp4").stat().st_mtime_ns == before
    both = EncodingConfig(formats=("mp4", "gif"))
    assert run(render_job(job, item(tmp_path / "clip"), encoding=both)).status == 0
    assert run.clips() == ["skipped"]


def test_contact_sheets_show_every_clip_that_is_there(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    items = [item(tmp_path / str(seed), seed) for seed in range(3)]
    assert run(render_job(job, *items, sheet="contact-sheet")).status == 0
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.height > 3 * 128


def test_how_long_clips_take_is_known_afterwards(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    wanted = render_job(job, *people(adapters, tmp_path / "out"))
    assert estimate(wanted.setups[0]) is None
    assert run(wanted).status == 0
    rate = estimate(wanted.setups[0])
    assert rate is not None
    assert rate.switch is not None
    assert rate.tail is not None
    assert rate.switch > rate.tail > 0  # six steps, and two


def test_what_a_killed_engine_had_begun_to_write_is_gone_once_its_clip_is_made(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    for begun in (".clip.json.1.writing", "..clip.latents.1.writing"):
        (tmp_path / begun).touch()
    (tmp_path / ".clip-2.json.1.writing").touch()  # another clip's
    assert run(render_job(job, item(tmp_path / "clip"))).status == 0
    left = [".clip-2.json.1.writing", "clip.json", "clip.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*") if path.is_file()) == left


def test_a_memory_that_was_full_of_a_clip_that_is_being_finished_is_tried_again(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, full = AnimateDiff.predict, iter([True])

    def busy(_: Writer) -> bool:
        return True

    def busy_at_first(backbone: AnimateDiff, latents: Any, step: int, embeds: Any) -> Any:
        if next(full, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(backbone, latents, step, embeds)

    monkeypatch.setattr(AnimateDiff, "predict", busy_at_first)
    monkeypatch.setattr(Writer, "busy", busy)
    assert run(render_job(job, item(tmp_path / "clip", 11))).status == 0
    assert run.clips() == ["done"]


def test_the_original_of_a_clip_that_is_made_again_goes_with_it(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    again = replace(item(tmp_path / "again", 5, adapters["strong"]), switch_width=2, tail_width=2)
    assert run(render_job(job, item(tmp_path / "base", 5), again)).status == 0
    assert json.loads((tmp_path / "again.json").read_text())["widths"] == [2, 2]


def test_latents_that_pv_did_not_write_are_left_alone(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    (tmp_path / ".clip.latents").mkdir()
    assert (
        run(render_job(job, item(tmp_path / "clip", 5))).status == 1
    )  # it cannot be replaced by a file
    assert run.clips() == ["failed"]
