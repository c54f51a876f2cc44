"""Rendering: existing clips are kept, failures stop no other clip, and no work is done twice."""

import dataclasses
import json
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.batches.folder import Group, read_items
from pvtool_core.batches.rates import estimate
from pvtool_core.errors import Interrupted
from pvtool_core.media.decode import frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.media.metadata import read_facts
from pvtool_core.rendering.denoise import ClipDenoiser
from pvtool_core.rendering.leases import Leases
from pvtool_core.rendering.loaded_models import Models
from pvtool_core.rendering.renderer import render
from pvtool_core.settings.jobs import (
    ActiveSteps,
    EncodingConfig,
    RenderItem,
    Setup,
    TrainJob,
    read_job,
    write_job,
)
from pvtool_core.store.events import ClipEvent, Event, ignore
from tests.support.adapters import save_random_adapters
from tests.support.render_jobs import PROMPT, Engine, item, render_job, whole


def test_a_rendered_clip_has_its_settings_in_its_sidecar_and_in_its_file(
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
    assert (inside["prompt"], inside["seed"], inside["run"]) == (PROMPT, 3, "ann-1")
    assert inside["sampler"]["num_inference_steps"] == 8
    assert beside["adapter"] == "strong.safetensors"
    assert str(tmp_path.parent.parent) not in json.dumps(
        inside
    )  # no paths of this machine in the file


def test_existing_clips_are_skipped_and_damaged_ones_rendered_again(
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
    Path(wanted.items).touch()  # clips older than this batch are rendered again
    assert run(dataclasses.replace(wanted, overwrite=True)).status == 0
    assert run.clips() == ["done", "done"]


def test_a_clip_with_other_settings_and_the_same_name_is_rendered_again(
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


def test_a_watermark_is_part_of_the_name_and_recorded(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    wanted = render_job(job, item(tmp_path / "out/clip"))
    assert run(wanted).status == 0
    plain, before = frames_of(tmp_path / "out/clip.mp4"), read_facts(tmp_path / "out/clip.mp4")
    assert "watermark" not in before
    marked = dataclasses.replace(wanted, encoding=EncodingConfig(watermark="spread"))
    assert not whole(marked, tmp_path / "out/clip")
    assert run(marked).status == 0
    assert (run.clips(), whole(marked, tmp_path / "out/clip")) == (["done"], True)
    assert (frames_of(tmp_path / "out/clip.mp4") != plain).any()
    record = json.loads((tmp_path / "out/clip.json").read_text())
    watermark = record["watermark"]
    assert record["fingerprint"].startswith(watermark["id"])
    assert watermark["psnr"] > 25
    assert watermark["seconds"] >= 0
    events = [event["watermark"] for event in run.events if event["type"] == "clip"]
    assert events == [watermark]
    inside = read_facts(tmp_path / "out/clip.mp4")
    assert inside["watermark"] == {"method": "spread", "id": watermark["id"]}


def test_adapter_changes_the_clip_and_one_of_zeros_does_not(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    setup = dataclasses.replace(Setup.of(job), adapter=ActiveSteps(rank=2, alpha=2))  # as theirs
    crossed = save_random_adapters(tmp_path, setup, ["cross"], 2.0, layers="cross")
    files = {"strong": adapters["strong"], **crossed, "base": "", "zero": adapters["zero"]}
    assert (
        run(
            render_job(job, *(item(tmp_path / name, adapter=file) for name, file in files.items()))
        ).status
        == 0
    )
    loaded = [event for event in run.events if event["type"] == "lora"]
    assert len(loaded) == 3
    assert all(event["matched"] == event["keys"] > 0 for event in loaded)
    frames = {name: frames_of(tmp_path / f"{name}.mp4") for name in files}
    assert (frames["zero"] == frames["base"]).all()
    for name in ("strong", "cross"):
        assert np.abs(frames[name].astype(int) - frames["base"]).mean() > 1


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
    assert "torn.safetensors is not an adapter file" in str(reasons["a"])
    assert "gone." in str(reasons["b"])
    assert whole(wanted, tmp_path / "c")
    assert not list(tmp_path.glob("[ab].*"))


def test_job_fails_with_the_error_of_its_clips_if_all_fail(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    ended = run(render_job(job, item(tmp_path / "b", adapter=tmp_path / "gone")))
    assert (ended.status, ended.kind) == (4, "WeightsMissing")


def test_a_clip_whose_file_could_not_be_written_is_not_denoised_again(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").mkdir()  # a folder with the name of the file
    wanted = render_job(job, item(tmp_path / "clip"))
    assert run(wanted).status == 1
    (kept,) = tmp_path.glob(".clip.latents")
    (tmp_path / "clip.mp4").rmdir()
    mark_latents(kept)
    assert run(wanted).status == 0
    assert not kept.exists()
    frames = frames_of(tmp_path / "clip.mp4").astype(int)
    assert np.abs(frames - frames[:1]).max() <= 2  # all frames of zero latents are equal


def mark_latents(file: Path) -> None:
    """Replace cached latents by zeros, which show whether they are used."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file({"latents": torch.zeros_like(load_file(file)["latents"])}, file, metadata=metadata)


def test_a_stopped_batch_keeps_complete_clips(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    def report(event: Event) -> None:
        if isinstance(event, ClipEvent):
            raise Interrupted("asked to stop")

    wanted = render_job(job, *(item(tmp_path / f"clip-{seed}", seed) for seed in range(9)))
    with pytest.raises(Interrupted):
        render(wanted, report)
    made = sorted({path.stem for path in tmp_path.glob("*.mp4")})
    assert 1 <= len(made) <= 5  # the reported one, and those being rendered
    assert all(whole(wanted, tmp_path / name) for name in made)
    assert len(list(tmp_path.iterdir())) == 2 * len(made)


class Passes:
    """Counts forward passes. Those for which `full` returns true run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: Callable[[int], bool]) -> None:
        self.count = 0
        predict = AnimateDiff.predict

        def counted(backbone: AnimateDiff, latents: Any, step: int, embeds: Any) -> Any:
            self.count += 1
            if full(self.count):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return predict(backbone, latents, step, embeds)

        monkeypatch.setattr(AnimateDiff, "predict", counted)


def never(_: int) -> bool:
    return False


def people(
    adapters: dict[str, Path], out: Path, prompts: Sequence[str] = (PROMPT,)
) -> list[RenderItem]:
    """Return clips of two identities and of the base model, for each prompt."""
    files = {"strong": adapters["strong"], "zero": adapters["zero"], "base": ""}
    return [
        item(out / name / str(number), 5, file, prompt)
        for number, prompt in enumerate(prompts)
        for name, file in files.items()
    ]


def test_clips_of_one_prompt_and_seed_share_the_steps_before_the_adapter(
    run: Engine,
    job: TrainJob,
    adapters: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    passes = Passes(monkeypatch, never)
    assert run(render_job(job, *people(adapters, tmp_path / "out"))).status == 0
    assert passes.count == 6 + 3 * 2
    assert run(render_job(job, item(tmp_path / "later", 5, adapters["strong"]))).status == 0
    assert passes.count == 6 + 4 * 2


def test_error_of_a_clip_that_runs_out_of_memory_says_what_to_change(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    passes = Passes(monkeypatch, lambda _: True)
    ended = run(render_job(job, item(tmp_path / "large", 6)))
    assert (ended.status, ended.kind) == (5, "OutOfMemory")
    assert ended.hint == "Use fewer frames or a smaller size."
    assert run.clips() == ["failed"]
    assert passes.count == 2  # the second attempt runs alone on the device


def test_clips_of_a_larger_size_fail_and_the_others_are_rendered(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    Passes(monkeypatch, lambda count: count <= 2)
    ended = run(render_job(job, *(item(tmp_path / str(seed), seed) for seed in (3, 4))))
    assert (ended.status, ended.kind) == (6, "SomeFailed")
    assert sorted(run.clips()) == ["done", "failed"]


def test_a_failed_clip_is_retried(
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


def test_files_of_other_formats_are_kept(run: Engine, job: TrainJob, tmp_path: Path) -> None:
    assert run(render_job(job, item(tmp_path / "clip"))).status == 0
    before = (tmp_path / "clip.mp4").stat().st_mtime_ns
    gif = render_job(job, item(tmp_path / "clip"), encoding=EncodingConfig(formats=("gif",)))
    assert run(gif).status == 0
    assert (tmp_path / "clip.mp4").stat().st_mtime_ns == before
    both = EncodingConfig(formats=("mp4", "gif"))
    assert run(render_job(job, item(tmp_path / "clip"), encoding=both)).status == 0
    assert run.clips() == ["skipped"]


def test_contact_sheets_show_every_existing_clip(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    items = [item(tmp_path / str(seed), seed) for seed in range(3)]
    assert run(render_job(job, *items, sheet="contact-sheet")).status == 0
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.height > 3 * 128


def test_rendering_records_how_long_clips_take(
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
    assert rate.switch > 0
    assert rate.tail > 0


def test_partial_files_of_a_killed_engine_are_removed_with_the_next_render(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    for begun in (".clip.json.1.writing", "..clip.latents.1.writing"):
        (tmp_path / begun).touch()
    (tmp_path / ".clip-2.json.1.writing").touch()  # another clip's
    assert run(render_job(job, item(tmp_path / "clip"))).status == 0
    left = [".clip-2.json.1.writing", "clip.json", "clip.mp4"]
    assert sorted(path.name for path in tmp_path.glob("*") if path.is_file()) == left


def test_clip_is_retried_after_another_ones_decoding_frees_memory(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread decodes while another one runs out of memory; it is retried after that has ended."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    setup = Setup.of(job)
    decode, decoding, full, over = (
        AnimateDiff.decode,
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def slowly(backbone: AnimateDiff, latents: Any, frames: Any) -> Any:
        decoding.set()
        assert full.wait(60)
        over.set()
        return decode(backbone, latents, frames)

    def is_full(_: int) -> bool:
        full.set()
        return not over.is_set()

    with Models(ignore, 1.0) as models, ThreadPoolExecutor(1) as pool:
        denoiser = models.load(Group("", setup, (PROMPT,), {}, ()))
        assert isinstance(denoiser, ClipDenoiser)
        latents = denoiser.prefix(PROMPT, 3)
        monkeypatch.setattr(AnimateDiff, "decode", slowly)
        pixels = pool.submit(denoiser.decode, latents)
        assert decoding.wait(60)
        passes = Passes(monkeypatch, is_full)
        assert denoiser.prefix(PROMPT, 4).isfinite().all()
        assert passes.count in (6, 7)  # the second one is retried if the first ran out of memory
        assert pixels.result().shape == (4, 32, 32, 3)


def test_a_model_is_released_before_the_next_one_is_loaded(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    group, other = (
        Group("", Setup.of(job), (prompt,), {}, ()) for prompt in (PROMPT, "another <V> prompt")
    )
    with Models(ignore, 1.0) as models:
        first = models.load(group)
        assert isinstance(first, ClipDenoiser)
        backbone = weakref.ref(first.backbone)
        assert models.get(group) is first
        assert models.get(other) is None
        models.load(other)
        assert backbone() is None  # although `first` still exists


def test_clip_with_a_lost_lease_is_rendered_when_it_is_free_again(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens after a suspension, if another process took the lease and died."""
    holds, lost = Leases.holds, iter([True])

    def sometimes(leases: Leases, key: str) -> bool:
        return False if next(lost, False) else holds(leases, key)

    monkeypatch.setattr(Leases, "holds", sometimes)
    wanted = render_job(job, *(item(tmp_path / str(seed), seed) for seed in (3, 4)))
    assert run(wanted).status == 0
    assert run.clips() == ["done", "done"]
    assert all(whole(wanted, tmp_path / str(seed)) for seed in (3, 4))
    assert not (tmp_path / ".claims").exists()


def test_jobs_and_items_of_older_versions_are_read(job: TrainJob, tmp_path: Path) -> None:
    wanted = render_job(job, item(tmp_path / "clip"))
    items = Path(wanted.items)
    old = {**json.loads(items.read_text()), "switch_width": 2, "tail_width": 4}
    items.write_text(json.dumps(old) + "\n")
    assert read_items(items) == [item(tmp_path / "clip")]
    write_job(tmp_path / "config.toml", wanted)
    config = (tmp_path / "config.toml").read_text()
    (tmp_path / "config.toml").write_text('width = "auto"\n' + config)
    assert read_job(tmp_path / "config.toml") == wanted


def test_folder_instead_of_cached_latents_fails_the_clip(
    run: Engine, job: TrainJob, tmp_path: Path
) -> None:
    (tmp_path / ".clip.latents").mkdir()
    assert (
        run(render_job(job, item(tmp_path / "clip", 5))).status == 1
    )  # a folder cannot be replaced by a file
    assert run.clips() == ["failed"]
