"""`pv eval` as a user runs it: folders of clips, clips of other programs, and bad input."""

import json
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from pvtool_core.api.evaluate import evaluation_plan, folder_clips, planned_clips
from pvtool_core.media import ffmpeg
from pvtool_core.media.encode import write_clip
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder
from tests.support.commands import Pv
from tests.support.sample_data import add_identity_of_noise
from tests.support.small_models import with_settings

PROMPTS = ("<V> waits", "<V> walks")


@pytest.fixture
def run(home: Path, job: TrainJob) -> RunFolder:
    """Return a run of the small models, of an identity with one photo of noise."""
    identity = add_identity_of_noise("ann").ref
    folder = RunFolder(home / "data/runs/ann-1").create()
    about = {
        "name": identity.name,
        "folder": identity.folder,
        "fingerprint": identity.fingerprint,
    }
    job = with_settings(
        with_settings(job, "identity", **about), "evaluation", prompts="tiny-unseen"
    )
    write_job(folder.config, job)
    return folder


def noise(frames: int, seed: int) -> np.ndarray:
    shape = (frames, 64, 64, 3)
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def save_clip(clip: Path, noise_seed: int, **record: object) -> None:
    """Write a clip and its sidecar, as `pv render` does."""
    clip.parent.mkdir(parents=True, exist_ok=True)
    write_clip(clip, noise(4, noise_seed), 8, {})
    about = {"identity": "ann", "seed": 0, "run": "ann-1", "step": 4, "adapter": "", **record}
    clip.with_suffix(".json").write_text(json.dumps({**about, "model": {"fps": 8}}))


def save_clips(out: Path, identities: Sequence[str] = ("ann",)) -> None:
    """Write clips of two prompts with and without adapter; people share the base model's."""
    for number, prompt in enumerate(PROMPTS):
        save_clip(out / f"base/{number}-01/seed-000000", number, prompt=prompt)
        for name in identities:
            facts = {"identity": name, "prompt": prompt, "adapter": f"/{name}/{ADAPTER_FILE}"}
            save_clip(out / f"{name}/{number}-02/seed-000000", 9 + number, **facts)


def save_foreign_clips(folder: Path) -> Path:
    """Write clips of another program, some of them bad; return their manifest."""
    folder.mkdir()
    rows = ["file,identity,prompt,seed,method,camera"]

    def add(name: str, prompt: str = PROMPTS[0]) -> Path:
        rows.append(f"{name},ann,{prompt},0,MagicMe,pan")
        return folder / name

    frames = noise(6, 5).repeat(2, 1).repeat(2, 2)
    iio.imwrite(add("good.webm"), frames, plugin="FFMPEG", fps=24, codec="libvpx-vp9")
    iio.imwrite(add("one.mp4", PROMPTS[1]), frames[:1], plugin="FFMPEG", fps=8)
    iio.imwrite(folder / "even.mp4", frames, plugin="FFMPEG", fps=10)
    ffmpeg.ask(
        folder / "even.mp4", "-i", str(folder / "even.mp4"), "-vf", "select='not(eq(n,3))'",
        "-fps_mode", "vfr", str(add("uneven.mkv", "<V> jumps")),
    )  # fmt: skip
    add("missing.mp4")
    add("broken.mp4", "<V> sits").write_bytes(b"no video")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder / "clips.csv"


def test_clips_of_other_programs_are_compared_in_one_table(
    pv: Pv, run: RunFolder, home: Path, engines_in_process: None
) -> None:
    out, manifest = home.parent / "here/out", save_foreign_clips(home.parent / "here/other")
    save_clips(out)
    words = (
        "--clips",
        str(manifest.parent),
        "--manifest",
        str(manifest),
        "--out",
        "both",
        "--html",
    )
    found = pv("eval", "out", *words)
    assert found.status == 0, found.err
    assert "METRIC" in found.out
    heading = found.out.splitlines()[0]
    assert heading.split("  ")[0] == "METRIC"
    assert all(name in heading for name in ("BASE", "ADAPTER", "MAGICME", "MAGICME − BASE"))
    for words_of_warning in (
        "the column 'camera' of",
        "clips.csv:5: missing.mp4 does not exist",
        "The frame rate varies from 5 to 10 per second",
        "broken.mp4 is corrupt or incomplete",
    ):
        assert words_of_warning in found.err, found.err
    report = json.loads(Path("both/report.json").read_bytes())
    assert report["methods"]["MagicMe"]["clips"] == 3
    assert report["methods"]["MagicMe"]["differences"]["likeness"]["pairs"] == 2
    assert [Path(each["file"]).name for each in report["failed"]] == ["broken.mp4"]
    scores = {Path(each["file"]).name: each["scores"] for each in report["clips"]}
    assert scores["one.mp4"]["temporal_consistency"] is None
    assert scores["one.mp4"]["likeness"] is not None
    page = Path("both/report.html")
    assert page.stat().st_mode & 0o077 == 0
    assert "MagicMe" in page.read_text()
    answer = pv("eval", "out", "--metrics", "clip_t", "--json")
    (one,) = answer.lines
    assert one["methods"]["adapter"]["means"].keys() == {"clip_t"}
    assert one["report"].endswith("out/report.json")


def test_people_of_one_folder_are_compared_with_the_base_clips_that_they_share(
    run: RunFolder, tmp_path: Path
) -> None:
    save_clips(tmp_path, ("ann", "ben"))
    clips, name = folder_clips(tmp_path)
    assert name == "ann-1"
    shown = sorted((clip.identity, clip.method, clip.prompt) for clip in clips)
    assert shown == sorted(
        (identity, method, prompt)
        for identity in ("ann", "ben")
        for method in ("base", "adapter")
        for prompt in PROMPTS
    )


def test_several_adapters_of_a_person_are_methods_of_their_own(tmp_path: Path) -> None:
    save_clips(tmp_path)
    facts = {"prompt": PROMPTS[0], "adapter": "/ann/8", "step": 8}
    save_clip(tmp_path / "ann/0-03/seed-000000", 3, **facts)
    clips, _ = folder_clips(tmp_path)
    assert {clip.method for clip in clips} == {"base", "ann-1@4", "ann-1@8"}


def test_each_checkpoint_of_a_run_is_a_method(run: RunFolder, tmp_path: Path) -> None:
    for step in (2, 4):
        run.write_checkpoint(step, {ADAPTER_FILE: f"adapter {step}".encode()})
    planned = evaluation_plan(run, tmp_path, prompts=1, seeds=1, checkpoints=True)
    clips = planned_clips(planned, checkpoints=True)
    assert sorted(clip.method for clip in clips) == ["base", "step 2", "step 4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Nothing to evaluate"),
        (("--clips", "x"), "--clips requires --manifest"),
        (("empty",), "No clip in the folder named"),
        (("--clips", "nowhere", "--manifest", "x.csv"), "No folder named 'nowhere'"),
        (("--clips", "empty", "--manifest", "x.csv"), "No manifest named 'x.csv'"),
        (("empty", "--fvd-reference", "empty"), "No video in the folder named"),
        (("empty", "--shard", "3/2"), "Invalid shard"),
        (("empty", "--checkpoints"), "--checkpoints evaluates a run only"),
    ],
)
def test_bad_input_is_refused(pv: Pv, words: Sequence[str], message: str) -> None:
    Path("empty").mkdir()
    found = pv("eval", *words)
    assert found.status in {2, 4}
    assert message in found.err


def test_two_clips_of_the_same_prompt_and_seed_are_refused(
    pv: Pv, run: RunFolder, home: Path
) -> None:
    save_clips(Path("out"))
    save_clip(
        Path("out/ann/0-04/seed-000000"), 3, prompt=PROMPTS[0], adapter=f"/ann/{ADAPTER_FILE}"
    )
    found = pv("eval", "out")
    assert found.status == 2
    assert "Two clips of ann by adapter have the seed 0" in found.err


def test_further_seeds_rendered_for_a_likeness_are_left_out(tmp_path: Path) -> None:
    save_clips(tmp_path)
    planned = tmp_path / "ann/0-02/seed-000000.json"
    tries = [{"seed": seed, "mean": 0.1, "clip": f"seed-{seed:06d}"} for seed in (0, 1)]
    worst = {"frame": 0, "time": 0.0, "value": 0.1}
    about = {"mean": 0.1, "found": 0.1, "faces_found": 1.0, "worst": worst, "frames": 4}
    record = json.loads(planned.read_text())
    record["likeness"] = {**about, "recognizer": "other.onnx", "tries": tries}
    planned.write_text(json.dumps(record))
    save_clip(planned.with_name("seed-000001"), 1, prompt=PROMPTS[0], seed=1, adapter="/ann/x")
    clips, _ = folder_clips(tmp_path)
    assert {clip.seed for clip in clips} == {0}


def test_unknown_metric_is_refused_before_clips_are_rendered(
    pv: Pv, run: RunFolder, engines_in_process: None
) -> None:
    run.write_checkpoint(2, {ADAPTER_FILE: b"adapter"})
    found = pv("eval", "ann-1", "--metrics", "likenes")
    assert found.status == 2
    assert "Unknown metric 'likenes'" in found.err
    assert not (run.path / "evaluation").exists()
