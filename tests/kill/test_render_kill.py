"""Batches whose engines are killed: in the end every clip is complete and was rendered once."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from pvtool_core.batches.clips import Names, is_whole, sidecar_path
from pvtool_core.batches.folder import read_items
from pvtool_core.media.decode import frames_of
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup, TrainJob, TriesConfig
from pvtool_core.store.event_log import read_records
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder
from tests.support.adapters import save_random_adapters
from tests.support.engines import Engines, wait_until
from tests.support.render_jobs import item, render_job

PEOPLE = ("ann", "bob")
PROMPTS = ("a <V> woman waving", "a <V> woman walking", "a <V> woman at sea")
SEEDS = 3
KILLS = 6
AT_ONCE = 3


@pytest.fixture(scope="session")
def adapters(models: Path, job: TrainJob) -> dict[str, Path]:
    setup = Setup.of(job)
    return save_random_adapters(models / "people", setup, PEOPLE, strength=1.0)


def batch(
    out: Path, adapters: dict[str, Path], people: Iterable[str] = PEOPLE, seeds: int = SEEDS
) -> list[RenderItem]:
    """Return a clip of each identity for each prompt and seed."""
    return [
        dataclasses.replace(
            item(out / f"{person}/{number}/seed-{seed}", seed, adapters[person], prompt),
            identity=person,
        )
        for number, prompt in enumerate(PROMPTS)
        for seed in range(seeds)
        for person in people
    ]


def job_for(job: TrainJob, out: Path, items: list[RenderItem], **changes: object) -> RenderJob:
    return dataclasses.replace(render_job(job, *items), out=str(out), **changes)


def missing(wanted: RenderJob) -> list[str]:
    """Return the clips that are missing or incomplete."""
    names = Names(wanted.setups[0])
    items = read_items(Path(wanted.items))
    return [
        one.clip for one in items if not is_whole(one.clip, names.fingerprint(one), wanted.encoding)
    ]


def check_whole(*jobs: RenderJob) -> None:
    """Check that every clip is complete and playable, without any other files."""
    assert [clip for job in jobs for clip in missing(job)] == []
    clips = {one.clip for job in jobs for one in read_items(Path(job.items))}
    assert all(frames_of(Path(f"{clip}.mp4")).shape == (4, 32, 32, 3) for clip in clips)
    there = {str(path) for path in Path(jobs[0].out).rglob("*") if not path.is_dir()}
    assert there == {f"{clip}{suffix}" for clip in clips for suffix in (".mp4", ".json")}
    assert not list(Path(jobs[0].out).rglob(".*"))


def reported(folders: Iterable[RunFolder], status: str = "done") -> Counter[str]:
    """Return how often each clip was reported with this status."""
    events = [event for folder in folders for event in read_records(folder.events)[0]]
    return Counter(
        event["path"] for event in events if event["type"] == "clip" and event["status"] == status
    )


def made_at(wanted: RenderJob) -> dict[str, int]:
    """Return when each complete clip was completed."""
    left = set(missing(wanted))
    clips = [one.clip for one in read_items(Path(wanted.items)) if one.clip not in left]
    return {clip: sidecar_path(clip).stat().st_mtime_ns for clip in clips}


def at_work(wanted: RenderJob, pids: list[int]) -> list[int]:
    """Return the processes that hold leases."""
    with suppress(FileNotFoundError, orjson.JSONDecodeError):  # released, or being written
        owners = [
            orjson.loads(lease.read_bytes())["pid"]
            for lease in Path(wanted.out).glob(".claims/[!.]*")
        ]
        return [pid for pid in owners if pid in pids]
    return []


@pytest.mark.slow
def test_engines_that_are_killed_repeatedly_render_every_clip_once(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    draw = random.Random(1)
    wanted = job_for(job, tmp_path / "out", batch(tmp_path / "out", adapters))
    folders = [engines.folder(f"render-{number}", wanted) for number in range(AT_ONCE)]
    pids = [engines.start(folder) for folder in folders]
    whole: dict[str, int] = {}
    for _ in range(KILLS):
        wait_until(lambda: bool(at_work(wanted, pids)))
        hit = pids.index(draw.choice(at_work(wanted, pids) or pids))
        time.sleep(draw.uniform(0, 0.3))
        os.kill(pids[hit], signal.SIGKILL)
        engines.wait(pids[hit])
        now = made_at(wanted)
        assert whole.items() <= now.items()  # complete clips are never rendered again
        whole = now
        pids[hit] = engines.start(folders[hit])
    assert missing(wanted)  # otherwise the kills came too late for this test
    assert [engines.wait(pid) for pid in pids] == [0] * AT_ONCE, folders[0].log.read_text()
    assert whole.items() <= made_at(wanted).items()
    assert set(reported(folders).values()) == {1}
    check_whole(wanted)


@pytest.mark.slow
def test_batches_of_different_identities_share_a_folder_and_trajectories(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fresh = dataclasses.replace(
        job, sampler=dataclasses.replace(job.sampler, negative_prompt="of these batches alone")
    )
    jobs = [job_for(fresh, out, batch(out, adapters, [person], seeds=1)) for person in PEOPLE]
    folders = [
        engines.folder(f"shared-{person}", one) for person, one in zip(PEOPLE, jobs, strict=True)
    ]
    before = set((engines.home / "cache/trajectories").glob("*"))
    pids = [engines.start(folder) for folder in folders]
    assert [engines.wait(pid) for pid in pids] == [0, 0]
    assert reported(folders) == Counter(
        {f"{out}/{person}/{number}/seed-0": 1 for person in PEOPLE for number in range(3)}
    )
    assert len(set((engines.home / "cache/trajectories").glob("*")) - before) == len(PROMPTS)
    check_whole(*jobs)


@pytest.mark.slow
def test_a_terminated_batch_leaves_complete_clips_only(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    wanted = job_for(job, tmp_path / "out", batch(tmp_path / "out", adapters))
    folder = engines.folder("render-terminated", wanted)
    pid = engines.start(folder)
    wait_until(lambda: len(reported([folder])) >= 2)
    os.kill(pid, signal.SIGTERM)
    assert engines.wait(pid) == 143
    assert folder.state() == State.STOPPED
    assert missing(wanted)
    done = set(reported([folder]))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {str(path) for path in files} == {
        f"{clip}{suffix}" for clip in done for suffix in (".mp4", ".json")
    }
    assert not set(missing(wanted)) & done


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """Mount a file system of 60 kB for clips; this needs root."""
    place = tmp_path / "small-disk"
    place.mkdir()
    with mounted(place, "size=60k"):
        yield place


class mounted:  # noqa: N801 - used as a verb
    """Context manager: a file system in memory, mounted at a folder."""

    def __init__(self, place: Path, options: str) -> None:
        self._place = place
        mount = shutil.which("mount")
        words = ["-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if (
            not mount
            or subprocess.run([mount, *words], capture_output=True, check=False).returncode
        ):
            pytest.skip("mounting needs root")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._place)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_batch_which_continues_once_there_is_space(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], small_disk: Path
) -> None:
    out = small_disk / "out"
    wanted = job_for(job, out, batch(out, adapters))
    folder = engines.folder("render-full", wanted)
    assert engines.run(folder) == 5
    ended = folder.read_exit()
    assert ended is not None
    assert ended.kind == "DiskFull"
    assert ended.message.startswith("The disk is full")
    assert ended.hint == "Free some disk space; the same command then renders the missing clips."
    assert reported([folder], "failed") == Counter()
    before = made_at(wanted)
    assert before.keys() == reported([folder]).keys()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert engines.run(folder) == 0, folder.log.read_text()
    assert before.items() <= made_at(wanted).items()
    check_whole(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["ro", "size=8k"])
def test_a_cache_that_cannot_be_written_only_causes_a_warning(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path, options: str
) -> None:
    cache = engines.home / "cache/trajectories"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = job_for(job, tmp_path / "out", batch(tmp_path / "out", adapters, seeds=1))
    folder = engines.folder(f"render-{options}", wanted)
    with mounted(cache, options):
        assert engines.run(folder) == 0, folder.log.read_text()
    check_whole(wanted)
    assert len(warnings(folder)) == 1
    assert warnings(folder)[0].startswith(f"Trajectories are not cached in {cache}: ")


def warnings(folder: RunFolder) -> list[str]:
    return [
        event["message"] for event in read_records(folder.events)[0] if event["type"] == "warning"
    ]


@pytest.mark.slow
def test_damaged_trajectories_are_recomputed_and_a_missing_checkpoint_fails_only_its_clips(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    items = batch(tmp_path / "out", adapters, seeds=1)
    wanted = job_for(job, tmp_path / "out", items)
    assert engines.run(engines.folder("render-first", wanted)) == 0
    clips = {one.clip: Path(f"{one.clip}.mp4").read_bytes() for one in items}
    shutil.rmtree(tmp_path / "out")
    for switch in (engines.home / "cache/trajectories").rglob("switch.safetensors"):
        switch.write_bytes(switch.read_bytes()[:-1] + b"?")
    hidden = adapters["bob"].rename(tmp_path / "hidden")
    folder = engines.folder("render-damaged", wanted)
    assert engines.run(folder) == 6
    assert len(warnings(folder)) == len(PROMPTS)
    assert reported([folder], "failed").keys() == {
        one.clip for one in items if one.identity == "bob"
    }
    hidden.rename(adapters["bob"])
    assert engines.run(folder) == 0
    check_whole(wanted)
    assert clips == {clip: Path(f"{clip}.mp4").read_bytes() for clip in clips}


def test_tries_of_a_killed_engine_are_continued_by_another(
    engines: Engines, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out/ann"
    clips = [
        item(out / f"seed-{seed:06d}", seed, adapters["ann"], folder=job.identity.folder)
        for seed in (3, 4)
    ]
    tries = TriesConfig(min_likeness=1.0, max_tries=3)
    wanted = job_for(job, tmp_path / "out", clips, tries=tries)
    folders = [engines.folder(f"tries-{number}", wanted) for number in range(2)]
    first, second = (engines.start(folder) for folder in folders)
    wait_until((out / "seed-1000003.json").exists)
    os.kill(first, signal.SIGKILL)
    engines.wait(first)
    assert engines.wait(second) == 0
    for seed in (3, 4):
        record = orjson.loads((out / f"seed-{seed:06d}.json").read_bytes())
        seeds = [one["seed"] for one in record["likeness"]["tries"]]
        assert seeds == [seed, 1_000_000 + seed, 2_000_000 + seed]
    assert len(list(out.glob("*.mp4"))) == 6
    assert not list((tmp_path / "out").rglob(".*"))
    assert reported(folders).keys() <= {clip.clip for clip in clips}
