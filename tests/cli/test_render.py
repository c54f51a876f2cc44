"""`pv render` up to the engine: forms of input, planned clips, and refused input."""

import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool.cli.render_options import parse_gigabytes
from pvtool_core.batches.clips import Names, model_facts, sidecar_path, write_sidecar
from pvtool_core.batches.plan import Shard
from pvtool_core.batches.provenance import provenance_of
from pvtool_core.batches.rates import Rate, note
from pvtool_core.hashes import sha256_of
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.settings.jobs import (
    EncodingConfig,
    RenderItem,
    Setup,
    TrainJob,
    read_job,
    write_job,
)
from pvtool_core.settings.schema import LoraConfig
from pvtool_core.settings.toml import to_table
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import (
    ADAPTER_FILE,
    BestCheckpoint,
    ExitRecord,
    RunFolder,
    new_run,
)
from tests.support.commands import Pv, everything

Add = Callable[[str], RunFolder]


@pytest.fixture
def add(home: Path, run: RunFolder) -> Add:
    """Add another identity, and a finished run with the settings of Mara's."""

    def person(name: str) -> RunFolder:
        library = Library()
        with library.staging() as staging:
            (staging / FACES_FILE).write_text("[]")
            (staging / EMBEDDINGS_FILE).write_bytes(name.encode())
            library.adopt(staging, name, "man", "yes")
        return another_run(name)

    return person


def another_run(name: str, *, finished: bool = True) -> RunFolder:
    """Add a newer run of an identity, with a checkpoint at step 400."""
    person = Library().get(name)
    root = person.folder.parent.parent / "runs"
    folder = new_run(root, name)
    job = read_job(root / "mara-1/config.toml")
    assert isinstance(job, TrainJob)
    write_job(folder.config, dataclasses.replace(job, run=folder.name, identity=person.ref))
    folder.write_checkpoint(400, {ADAPTER_FILE: folder.name.encode()})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED if finished else State.STOPPED))
    return folder


def planned(pv: Pv, *words: str) -> list[Any]:
    answer = pv("render", *words, "--dry-run", "--json")
    assert answer.status == 0, answer.err
    return answer.lines


def paths(pv: Pv, *words: str) -> list[str]:
    return [clip["path"] for clip in planned(pv, *words)]


def rows_file(*rows: dict[str, Any], name: str = "batch.jsonl") -> str:
    Path(name).write_text("\n".join(json.dumps(row) for row in rows))
    return name


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("mara", 2, "No prompts to render."),
        ("<V>runs", 2, "Missing identity."),
        ("mara <V>runs --out /dev/null", 2, "Cannot create output folder /dev/null: file exists."),
        (
            "mara <V>runs --out /dev/null/clips",
            2,
            "Cannot create output folder /dev/null/clips: not a directory.",
        ),
        (
            "mara <V>runs --out /proc/clips",
            2,
            "Cannot create output folder /proc/clips: no such file or directory.",
        ),
        ("mara runs", 3, "The prompt 'runs' lacks the keyword <V>."),
        (f"mara <V>{'x' * 10_000}", 3, "is longer than 1000 characters."),
        ("nora <V>runs", 4, "No identity named 'nora'."),
        ("mara,marah <V>runs", 4, "Did you mean 'mara'?"),
        ("mara <V>runs --seed 3..1", 2, "Invalid seeds '3..1': expected"),
        ("mara <V>runs --format avi", 2, "Unknown format 'avi'."),
        ("mara <V>runs --codec mpeg", 2, "codec: is 'mpeg', not one of h264, h265, av1"),
        ("mara <V>runs --run mara-7", 4, "No run named 'mara-7'."),
        ("mara <V>runs --run mara-1@5", 4, "No checkpoint of mara-1 named '5'."),
        ("mara --prompts nothing.txt", 4, "No prompt file named 'nothing.txt'."),
        ("mara <V>runs --width 20", 2, "width is 20, not a multiple of 8."),
        (
            "mara <V>runs --lora nothing.safetensors",
            4,
            "nothing.safetensors.",
        ),
        ("mara <V>runs --lora a --lora-set b", 2, "--lora and --lora-set cannot be combined."),
        ("mara <V>runs --shard 0/4", 2, "Invalid shard '0/4': expected I/N."),
        ("mara <V>runs --devices 0,x", 2, "Invalid device 'x'."),
        ("mara <V>runs --on slurm", 2, "Unknown place 'slurm'."),
        ("mara <V>runs --on ray --devices 0", 2, "--on and --devices cannot be combined."),
        ("mara <V>runs --address auto", 2, "--address requires --on ray."),
        ("mara <V>runs --max-tries 3", 2, "--max-tries requires --min-likeness."),
        (
            "mara <V>runs --no-likeness --min-likeness 0.5",
            2,
            "--min-likeness and --no-likeness cannot be combined.",
        ),
        ("mara <V>runs --min-likeness 0.5", 4, "faces"),
        ("mara <V>runs --cache-size big", 2, "Invalid size 'big'."),
        ("mara <V>runs --c2pa-cert a.pem", 2, "Use both --c2pa-cert and --c2pa-key."),
        ("mara <V>runs --controlnet net", 2, "Use --controlnet and --control-frames together."),
        ("--from nothing.mp4", 4, "No clip named 'nothing.mp4'."),
        ("--from /etc/passwd", 3, "passwd is not a clip of pv."),
        ("--from /etc", 3, "etc is not a clip of pv."),
        ("--from /dev/zero", 3, "zero is not a clip of pv."),
        ("--prompts /dev/zero", 3, "zero is larger than"),
        (
            "mara <V>runs --c2pa-cert no.pem --c2pa-key /etc/passwd",
            2,
            "File not found: no.pem.",
        ),
        ("mara <V>runs --c2pa-cert /etc/passwd --c2pa-key /etc", 2, "File not found: /etc."),
    ],
)
def test_invalid_input_is_refused_without_changes(
    pv: Pv, run: RunFolder, home: Path, words: str, status: int, sentence: str
) -> None:
    before = everything(home.parent)
    answer = pv("render", *words.split())
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert (answer.status, answer.out) == (status, "")
    assert everything(home.parent) == before


def test_dry_run_lists_every_clip_and_renders_none(pv: Pv, run: RunFolder, home: Path) -> None:
    before = everything(home.parent)
    clips = planned(pv, "mara", "<V> {noun} runs", "<V> swims", "--seed", "0..2", "--base")
    assert len({clip["path"] for clip in clips}) == 2 * 3 * 2
    assert {clip["status"] for clip in clips} == {"missing"}
    assert {clip["identity"] for clip in clips} == {"mara", "base"}
    assert {clip["prompt"] for clip in clips} == {"<V> woman runs", "<V> swims"}
    answer = pv("render", "mara", "<V> swims", "--dry-run")
    assert answer.out.startswith("missing       ?  renders/mara/swims-")
    used, counts = answer.err.splitlines()
    assert used == "mara: using mara-1, step 800."
    assert (
        counts == "1 clips: 1 missing. Unknown rendering time: no similar clips were rendered yet."
    )
    assert everything(home.parent) == before


def test_estimate_counts_shared_prefixes_once(pv: Pv, run: RunFolder) -> None:
    job = read_job(run.config)
    assert isinstance(job, TrainJob)
    note(Setup(model=job.model, sampler=job.sampler), Rate(30.0, 10.0))
    clips = planned(pv, "mara", "<V> runs", "<V> waits", "--base")
    assert [clip["seconds"] for clip in clips] == [40, 10, 40, 10]
    answer = pv(
        "render",
        "mara",
        "<V> runs",
        "--prompts",
        rows_file({"prompt": "<V> runs", "steps": 3}),
        "--dry-run",
    )
    assert answer.out.splitlines()[0].startswith("missing    0:40  renders/mara/runs-")
    counts = answer.err.splitlines()[-1]
    assert counts == "2 clips: 2 missing. Estimated time: 0:40, without 1 of unknown time."


def test_several_or_all_identities_are_rendered_with_their_runs(
    pv: Pv, run: RunFolder, add: Add
) -> None:
    add("abel")
    add("bob")
    assert [clip["identity"] for clip in planned(pv, "bob,mara", "<V> {noun} runs")] == [
        "bob",
        "mara",
    ]
    clips = planned(pv, "--all", "<V> {noun} runs", "<V> swims")
    assert [clip["identity"] for clip in clips] == ["abel", "bob", "mara"] * 2
    assert [clip["prompt"] for clip in clips][:3] == [
        "<V> man runs",
        "<V> man runs",
        "<V> woman runs",
    ]


def test_rows_override_options(pv: Pv, run: RunFolder, add: Add) -> None:
    add("bob")
    file = rows_file(
        {"prompt": "<V> runs", "identity": "bob", "seed": "3..4", "steps": 9},
        {"prompt": "<V> swims"},
    )
    clips = planned(pv, "mara", "--prompts", file, "--seed", "7", "--steps", "5")
    assert [(clip["identity"], clip["seed"]) for clip in clips] == [
        ("bob", 3),
        ("bob", 4),
        ("mara", 7),
    ]
    assert paths(pv, "bob", "<V> runs", "--seed", "3", "--steps", "9") == [clips[0]["path"]]
    assert paths(pv, "mara", "<V> swims", "--seed", "7") != [clips[2]["path"]]


def test_identities_can_be_omitted_if_every_row_has_one(pv: Pv, run: RunFolder) -> None:
    assert len(paths(pv, "--prompts", rows_file({"prompt": "<V> runs", "identity": "mara"}))) == 1
    refused = pv(
        "render",
        "--prompts",
        rows_file({"prompt": "<V> runs", "identity": "mara"}, {"prompt": "<V> swims"}),
    )
    assert refused.status == 2
    assert "batch.jsonl, line 2: Missing identity." in refused.err


def test_all_errors_of_rows_are_reported_with_lines_before_rendering(
    pv: Pv, run: RunFolder
) -> None:
    file = rows_file(
        {"prompt": "<V> runs", "identity": "nora"},
        {"prompt": "<V> runs", "identity": "mara", "run": "mara-9"},
        {"prompt": "<V> swims", "identity": "nora"},
        {"prompt": "<V> runs", "identity": "mara", "lora": "gone.safetensors"},
        {"prompt": "<V> runs", "identity": "mara", "shift": 3},
        {"prompt": "<V> runs", "identity": "mara"},
    )
    answer = pv("render", "--prompts", file)
    assert answer.status == 4
    assert answer.err.splitlines()[:5] == [
        "Error: 4 invalid rows:",
        "batch.jsonl, line 1 (and 1 more): No identity named 'nora'.",
        "batch.jsonl, line 2: No run named 'mara-9'. Did you mean 'mara-1'?",
        "batch.jsonl, line 4: Weights not found: gone.safetensors.",
        "batch.jsonl, line 5: Cannot use the settings of the clip: sampler.shift: is not supported "
        "by animatediff, only by hunyuan-video, wan.",
    ]
    assert not Path("renders").exists()


def test_keep_going_reports_and_skips_invalid_rows(pv: Pv, run: RunFolder) -> None:
    file = rows_file(
        {"prompt": "<V> runs"},
        {"prompt": f"<V>{'x' * 10_000}"},
        {"prompt": "<V> sits", "seed": "3..1"},
        {"prompt": "<V> waits", "identity": "nora"},
        {"prompt": "<V> swims"},
    )
    answer = pv("render", "mara", "--prompts", file, "--keep-going", "--dry-run", "--json")
    *clips, error = answer.lines
    assert [clip["prompt"] for clip in clips] == ["<V> runs", "<V> swims"]
    assert (answer.status, error["error"]["message"]) == (6, "3 of 5 failed.")
    told = answer.err.splitlines()
    assert [line.partition(":")[0] for line in told[:3]] == [
        f"batch.jsonl, line {line}" for line in (2, 3, 4)
    ]
    assert "is longer than 1000 characters" in told[0]
    nothing = pv("render", "mara", "--prompts", rows_file({"prompt": "runs"}), "--keep-going")
    assert (nothing.status, nothing.out) == (3, "")
    assert not Path("renders").exists()


def test_standard_input_files_and_banks_can_be_combined(
    pv: Pv, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pv("prompts", "add", "mine", "<V> {noun} runs", "<V> {noun} waits")
    Path("more.csv").write_text("prompt,seed\n<V> swims,4\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'"<V> sits"\n')))
    clips = planned(
        pv, "mara", "<V> sleeps", "--prompts", "mine", "--prompts", "more.csv", "--prompts", "-"
    )
    told = [(clip["prompt"].removeprefix("<V> "), clip["seed"]) for clip in clips]
    assert told == [("sleeps", 0), ("woman runs", 0), ("woman waits", 0), ("swims", 4), ("sits", 0)]


def test_newest_finished_run_is_the_default(pv: Pv, run: RunFolder) -> None:
    by_first = paths(pv, "mara", "<V> runs")
    stopped = another_run("mara", finished=False)
    assert paths(pv, "mara", "<V> runs") == by_first
    by_stopped = paths(pv, "mara", "<V> runs", "--run", stopped.name)
    stopped.write_checkpoint(500, {ADAPTER_FILE: b"later"})
    assert paths(pv, "mara", "<V> runs", "--run", stopped.name) != by_stopped
    assert paths(pv, "mara", "<V> runs", "--run", f"{stopped.name}@400") == by_stopped
    shutil.rmtree(run.path)
    refused = pv("render", "mara", "<V> runs", "--dry-run")
    assert refused.status == 4
    assert (
        "No finished run of the identity named 'mara'.\n"
        "Unfinished runs can be used with --run: mara-2 (stopped)." in refused.err
    )


def test_best_checkpoint_of_a_run_can_be_named(pv: Pv, run: RunFolder) -> None:
    run.write_checkpoint(400, {ADAPTER_FILE: b"earlier"})
    by_step = paths(pv, "mara", "<V> runs", "--run", "mara-1@400")
    assert paths(pv, "mara", "<V> runs", "--run", "mara-1") != by_step
    refused = pv("render", "mara", "<V> runs", "--run", "mara-1@best", "--dry-run")
    assert refused.status == 4
    assert "No best checkpoint of the run named 'mara-1'." in refused.err
    run.write_best(BestCheckpoint(step=400, likeness=0.4))
    assert paths(pv, "mara", "<V> runs", "--run", "mara-1@best") == by_step
    row = {"prompt": "<V> runs", "identity": "mara", "run": "mara-1@best"}
    assert paths(pv, "--prompts", rows_file(row)) == by_step


def test_clip_path_depends_on_the_adapter(pv: Pv, run: RunFolder) -> None:
    base, before = paths(pv, "mara", "<V> runs", "--base")
    run.write_checkpoint(900, {ADAPTER_FILE: b"other weights"})
    assert paths(pv, "mara", "<V> runs", "--base") == [base, paths(pv, "mara", "<V> runs")[0]]
    assert paths(pv, "mara", "<V> runs") != [before]


def test_row_of_the_base_model_is_one_clip(pv: Pv, run: RunFolder, add: Add) -> None:
    add("bob")
    base, _ = paths(pv, "mara", "<V> runs", "--base")
    rows = [
        {"prompt": "<V> runs", "identity": name, "base": True} for name in ("mara", "bob", "mara")
    ]
    assert paths(pv, "--prompts", rows_file(*rows)) == [base]


def test_each_lora_set_is_a_separate_clip(pv: Pv, run: RunFolder, home: Path) -> None:
    job = read_job(run.config)
    assert isinstance(job, TrainJob)
    styled = dataclasses.replace(
        job.model, loras=(LoraConfig(file="ink.safetensors", fingerprint="1"),)
    )
    write_job(run.config, dataclasses.replace(job, model=styled))
    as_trained, without = (
        paths(pv, "mara", "<V> runs"),
        paths(pv, "mara", "<V> runs", "--lora-set", "none"),
    )
    assert as_trained != without
    assert paths(pv, "mara", "<V> runs", "--lora", "none") == without
    rows = rows_file({"prompt": "<V> runs", "lora": [[], "none"]}, {"prompt": "<V> runs"})
    assert paths(pv, "mara", "--prompts", rows) == [*without, *as_trained]


def test_clip_path_depends_on_size_and_guidance_and_duplicates_are_merged(
    pv: Pv, run: RunFolder
) -> None:
    plain = paths(pv, "mara", "<V> runs")
    for option, value in (
        ("width", "256"),
        ("frames", "8"),
        ("fps", "12"),
        ("guidance", "3"),
        ("negative", "dull"),
    ):
        changed = paths(pv, "mara", "<V> runs", f"--{option}", value)
        assert changed != plain
        assert (
            paths(pv, "mara", "--prompts", rows_file({"prompt": "<V> runs", option: value}))
            == changed
        )
    assert paths(pv, "mara", "<V> runs", "<V>  runs", "--seed", "0,0") == plain


def test_complete_clips_start_no_engine(pv: Pv, run: RunFolder) -> None:
    Path("renders").mkdir()
    Path("renders/failed.jsonl").write_text("of another time")
    (wanted,) = planned(pv, "mara", "<V> runs")
    video = write_clip_of(run, Path(wanted["path"]))
    (answer,) = pv("render", "mara", "<V> runs", "--json").lines
    assert (answer["status"], answer["path"], answer["files"]) == (
        "skipped",
        str(video),
        [str(video)],
    )
    assert json.loads(video.with_suffix(".json").read_text())["seed"] == 0
    assert not Path("renders/failed.jsonl").exists()
    assert [clip["status"] for clip in planned(pv, "mara", "<V> runs", "--overwrite")] == ["again"]
    assert [clip["status"] for clip in planned(pv, "mara", "<V> runs", "--format", "gif")] == [
        "stale"
    ]
    video.write_bytes(b"vid")
    assert [clip["status"] for clip in planned(pv, "mara", "<V> runs")] == ["stale"]
    video.with_suffix(".json").unlink()
    assert [clip["status"] for clip in planned(pv, "mara", "<V> runs")] == ["missing"]
    video.with_name(".seed-000000.latents").write_bytes(b"")
    assert [clip["status"] for clip in planned(pv, "mara", "<V> runs")] == ["partial"]


def test_clip_of_several_files_is_one_json_line(pv: Pv, run: RunFolder) -> None:
    (clip,) = planned(pv, "mara", "<V> runs", "--format", "gif,mp4,png")
    assert [Path(file).suffix for file in clip["files"]] == [".gif", ".mp4", ""]
    assert clip["path"] == clip["files"][0]
    assert {Path(file).parent for file in clip["files"]} == {
        Path(paths(pv, "mara", "<V> runs")[0]).parent
    }


def write_clip_of(run: RunFolder, video: Path) -> Path:
    """Write a video and its sidecar, like Mara's run for the prompt '<V> runs' and seed 0."""
    job = read_job(run.config)
    adapter = run.latest_checkpoint()
    assert isinstance(job, TrainJob)
    assert adapter is not None
    clip = video.with_suffix("")
    clip.parent.mkdir(parents=True)
    video.write_bytes(b"video")
    names = Names(Setup(model=job.model, sampler=job.sampler), watermark="spread")
    digest = sha256_of(adapter / ADAPTER_FILE)
    about: dict[str, Any] = {
        "identity": "mara",
        "prompt": "<V> runs",
        "seed": 0,
        "run": run.name,
        "step": 800,
    }
    item = RenderItem(**about, adapter="a", adapter_sha256=digest, clip="")
    facts = {
        **about,
        "adapter_sha256": digest,
        "adapter_start": job.adapter.start,
        "model": model_facts(job.model),
        "sampler": to_table(job.sampler),
        "upscale": {"factor": 1},
        "watermark": {"method": "spread", "id": "c0ffee"},
    }
    write_sidecar(clip, names.fingerprint(item), EncodingConfig(), facts)
    return video


def test_shards_are_disjoint_and_complete_and_share_no_trajectories(
    pv: Pv, run: RunFolder, add: Add
) -> None:
    add("bob")
    words = ("mara,bob", "<V> runs", "<V> swims", "--seed", "0..9", "--base")
    parts = [planned(pv, *words, "--shard", f"{number}/3") for number in (1, 2, 3)]
    assert sorted(clip["path"] for part in parts for clip in part) == sorted(paths(pv, *words))
    shared = [{(clip["prompt"], clip["seed"]) for clip in part} for part in parts]
    assert sum(map(len, shared)) == 20
    assert all(shared)


@given(st.integers(1, 50), st.text("0123456789abcdef", min_size=32, max_size=32))
def test_trajectory_belongs_to_one_shard(count: int, trajectory: str) -> None:
    assert sum(Shard(number, count).holds(trajectory) for number in range(1, count + 1)) == 1


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("20GB", 20), ("500M", 0.5), ("1.5 TB", 1500), ("20KB", 2e-5), ("0G", 0), ("2gib", 2)],
)
def test_sizes_of_the_cache_are_read(text: str, gigabytes: float) -> None:
    assert parse_gigabytes(text) == pytest.approx(gigabytes)


@pytest.fixture
def real(
    home: Path, mara: str, models: Path, job: TrainJob, adapters: dict[str, Path]
) -> RunFolder:
    """Return a finished run on the small random model."""
    folder = new_run(home / "data/runs", mara)
    model, person = with_fingerprints(job.model), Library().get(mara).ref
    write_job(
        folder.config, dataclasses.replace(job, run=folder.name, identity=person, model=model)
    )
    folder.write_checkpoint(4, {ADAPTER_FILE: adapters["strong"].read_bytes()})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    return folder


def test_rerender_with_the_same_identity_uses_the_recorded_adapter(pv: Pv, run: RunFolder) -> None:
    video = write_clip_of(run, Path(paths(pv, "mara", "<V> runs")[0]))
    for words in (("mara",), ("mara,mara",), ()):
        (clip,) = planned(pv, "--from", str(video), *words, "--seed", "9")
        assert paths(pv, "mara", "<V> runs", "--seed", "9") == [clip["path"]]
        assert Path(provenance_of(video, people=["mara"]).item.adapter).is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("engines_in_process")
def test_failed_rows_can_be_repeated_and_clips_rerendered_exactly(pv: Pv, real: RunFolder) -> None:
    bad = {"prompt": "<V> {noun} runs", "frames": 12}  # the model supports eight frames only
    words = ("mara", "<V> {noun} waits", "--prompts", rows_file(bad), "--seed", "5", "--steps", "4")
    answer = pv("render", *words, "--base", "--retries", "1", "--sheet", "--json")
    *clips, error = answer.lines
    assert (answer.status, error["error"]["kind"]) == (6, "SomeFailed")
    assert sorted(clip["status"] for clip in clips) == ["done", "done", "failed", "failed"]
    assert "Failed clips (retry with --prompts renders/failed.jsonl):" in answer.err
    assert Path("renders/contact-sheet.png").is_file()
    failed = [json.loads(line) for line in Path("renders/failed.jsonl").read_text().splitlines()]
    assert all(row["reason"] for row in failed)
    assert paths(pv, "--prompts", "renders/failed.jsonl") == [
        f"{row['path']}.mp4" for row in failed
    ]
    (video,) = [
        Path(clip["path"])
        for clip in clips
        if clip["status"] == "done" and clip["identity"] == "mara"
    ]
    check_rerender(pv, real, video)


def check_rerender(pv: Pv, run: RunFolder, video: Path) -> None:
    """Check that a clip can be rendered again from its sidecar, and that options override it.

    The files that it was rendered with must exist.
    """
    alone = shutil.copy(video, "alone.mp4")
    (again,) = pv("render", "--from", alone, "--out", "again", "--json").lines
    assert again["status"] == "done"
    assert Path(again["path"]).read_bytes() == video.read_bytes()
    assert Path(again["path"]).relative_to(Path("again").absolute()) == video.relative_to(
        Path("renders").absolute()
    )
    for known in (alone, str(sidecar_path(video.with_suffix("")))):
        assert [clip["status"] for clip in planned(pv, "--from", known)] == ["there"]
    assert planned(pv, "--from", alone, "--steps", "8") == planned(
        pv, "mara", "<V> woman waits", "--seed", "5"
    )
    clips = planned(pv, "--from", alone, "<V> {noun} sits", "--seed", "6..7", "--base")
    assert {(clip["prompt"], clip["seed"]) for clip in clips} == {
        ("<V> woman sits", 6),
        ("<V> woman sits", 7),
    }
    assert [clip["identity"] for clip in clips] == ["base", "mara"] * 2
    shutil.rmtree(run.path)
    gone = pv("render", "--from", str(video), "--dry-run")
    assert (gone.status, "Weights not found: mara-1@4." in gone.err) == (4, True), gone.err
