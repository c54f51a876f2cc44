"""Render thousands of clips while workers are killed: each clip must be complete and made once.

    python -m tests.benchmarks.killing [--clips 2000] [--processes 4] [--ray] [--out DIR]


Several workers render a batch of several identities with the tiny model at few steps, frames and
pixels. Again and again one of them, chosen at random, is killed with SIGKILL and replaced. With
`--ray` one engine starts a Ray cluster, and its render workers are killed, not the processes of the
cluster. After each kill the complete clips are recorded: none of them may be rendered again. With
`--out` the same command continues the benchmark in DIR.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import psutil
import torch

from pvtool.tables import Table
from pvtool_core.batches.clips import Names, is_whole, sidecar_path
from pvtool_core.errors import PvError
from pvtool_core.media.decode import frames_of
from pvtool_core.settings.jobs import RenderItem, RenderJob, write_job
from pvtool_core.store.event_log import read_records
from pvtool_core.store.runs import RunFolder
from tests.benchmarks.rendering import bank, items_of, job_for, preset_setup
from tests.support.adapters import save_random_adapters
from tests.support.engines import Engines

SIDE, FRAMES, STEPS = 32, 4, 4
PEOPLE, PROMPTS = 5, 20
WORKER = "ray::render_group"  # process title of a Ray worker that renders a group


@dataclass
class Watch:
    """State of the clips during the benchmark."""

    job: RenderJob
    items: Sequence[RenderItem]
    kills: int = 0
    held_by_killed: set[str] = field(default_factory=set[str])
    """Groups whose lease a killed process held."""
    idle_kills: int = 0
    made_at: dict[str, int] = field(default_factory=dict[str, int])
    made_again: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._names = Names(self.job.setups[0])

    def kill(self, process: psutil.Process) -> None:
        """Kill the process, record the groups that it held and the complete clips."""
        process.send_signal(signal.SIGKILL)
        held = self._held_by(process.pid)
        self.kills += 1
        self.idle_kills += not held
        self.held_by_killed |= held
        self.look()

    def look(self) -> None:
        """Record complete clips, and those that were rendered again."""
        for item in self.items:
            if not self._is_whole(item):
                continue
            made = sidecar_path(item.clip).stat().st_mtime_ns
            self.made_again[item.clip] += self.made_at.get(item.clip, made) != made
            self.made_at[item.clip] = made

    def missing(self) -> list[str]:
        return [item.clip for item in self.items if not self._is_whole(item)]

    def was_held(self, item: RenderItem) -> bool:
        return self._names.trajectory(item.prompt, item.seed) in self.held_by_killed

    def _is_whole(self, item: RenderItem) -> bool:
        return is_whole(item.clip, self._names.fingerprint(item), self.job.encoding)

    def _held_by(self, pid: int) -> set[str]:
        found: set[str] = set()
        for claim in Path(self.job.out).glob(".claims/[!.]*"):
            try:
                if orjson.loads(claim.read_bytes())["pid"] == pid:
                    found.add(claim.stem)
            except (
                FileNotFoundError,
                orjson.JSONDecodeError,
            ):  # released, or incompletely written
                continue
        return found


class Processes:
    """Engines on one batch, each with its own run folder."""

    between_kills = (1.0, 8.0)

    def __init__(self, job: RenderJob, root: Path, count: int) -> None:
        self._engines = Engines(root / "home")
        self._folders = [_folder(root / f"worker-{number}", job) for number in range(count)]
        self._pids = [self._engines.start(folder) for folder in self._folders]

    def living(self) -> list[psutil.Process]:
        found = [psutil.Process(pid) for pid in self._pids if psutil.pid_exists(pid)]
        return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]

    def victims(self) -> list[psutil.Process]:
        return self.living()

    def follow(self, victim: psutil.Process) -> None:
        """Start a replacement of a killed process."""
        place = self._pids.index(victim.pid)
        self._engines.wait(victim.pid)
        self._pids[place] = self._engines.start(self._folders[place])

    def events(self) -> Iterator[dict[str, object]]:
        for folder in self._folders:
            yield from read_records(folder.events)[0]

    def end(self) -> list[int]:
        """Wait for all and return their exit statuses."""
        statuses = [self._engines.wait(pid) for pid in self._pids]
        self._engines.close()
        return statuses

    def stop(self) -> None:
        for process in self.living():
            process.terminate()


class Ray(Processes):
    """One engine with a Ray cluster.

    The render workers are killed; Ray replaces them.
    """

    between_kills = (10.0, 30.0)  # a worker needs seconds for its imports

    def __init__(self, job: RenderJob, root: Path, count: int) -> None:
        super().__init__(replace(job, on="ray"), root, 1)

    def victims(self) -> list[psutil.Process]:
        children = [
            child for process in self.living() for child in process.children(recursive=True)
        ]
        return [child for child in children if _name_of(child).startswith(WORKER)]

    def follow(self, victim: psutil.Process) -> None:
        pass


def _name_of(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def _folder(path: Path, job: RenderJob) -> RunFolder:
    folder = RunFolder(path)
    if not path.exists():
        folder.create()
    write_job(folder.config, job)
    return folder


def make(watch: Watch, crew: Processes, draw: random.Random) -> None:
    """Kill one worker after another until all have finished."""
    try:
        while crew.living():
            time.sleep(draw.uniform(*crew.between_kills))
            victims = crew.victims()
            if victims and watch.missing():
                victim = draw.choice(victims)
                watch.kill(victim)
                crew.follow(victim)
                print(
                    f"{watch.kills} kills, {len(watch.made_at)} of {len(watch.items)} clips",
                    flush=True,
                )
        statuses = crew.end()
        watch.look()
        print(f"exit statuses of the engines: {statuses}")
    except BaseException:
        crew.stop()
        raise


def report(watch: Watch, crew: Processes, minutes: float) -> int:
    """Print the table and return the number of errors."""
    done = Counter(str(event["path"]) for event in crew.events() if event.get("status") == "done")
    twice = {
        clip for clip in {**done, **watch.made_again} if done[clip] > 1 or watch.made_again[clip]
    }
    held = {item.clip for item in watch.items if watch.was_held(item)}
    unreadable = [item.clip for item in watch.items if not _plays(item)]
    left = leftovers(watch)
    facts = {
        "clips": len(watch.items),
        "kills": watch.kills,
        "kills of processes that held a lease": watch.kills - watch.idle_kills,
        "clips whose lease a killed process held": len(held),
        "complete clips rendered again": len(twice),
        "those whose lease a killed process held": len(twice & held),
        "missing": len(watch.missing()),
        "unreadable": len(unreadable),
        "leftovers": len(left),
    }
    print(Table(["", "count"], [[what, str(count)] for what, count in facts.items()]))
    print(f"{minutes:.1f} minutes")
    for what in [*sorted(twice), *unreadable, *left]:
        print(what)
    return len(twice - held) + len(watch.missing()) + len(unreadable) + len(left)


def _plays(item: RenderItem) -> bool:
    try:
        return frames_of(Path(f"{item.clip}.mp4")).shape == (FRAMES, SIDE, SIDE, 3)
    except PvError:
        return False


def leftovers(watch: Watch) -> list[str]:
    """Return files and folders in the output folder that belong to no clip."""
    wanted = {f"{item.clip}{suffix}" for item in watch.items for suffix in (".mp4", ".json")}
    folders = {str(parent) for item in watch.items for parent in Path(item.clip).parents}
    found = {str(path) for path in Path(watch.job.out).rglob("*")}
    return sorted(found - wanted - folders)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills")
    words = parser.parse_args()
    root = (words.out or Path(tempfile.mkdtemp(prefix="pv-killing-"))).absolute()
    os.environ |= {"PV_HOME": str(root / "home"), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    torch.set_num_threads(1)
    small = {"width": SIDE, "height": SIDE, "num_frames": FRAMES}
    setup = preset_setup(model=small, sampler={"num_inference_steps": STEPS})
    adapters = {file.stem: file for file in sorted((root / "adapters").glob("*.safetensors"))}
    adapters = adapters or save_random_adapters(
        root / "adapters", setup, [f"p{n}" for n in range(PEOPLE)], 0.05
    )
    seeds = range(-(-words.clips // (PEOPLE * PROMPTS)))
    items = items_of(setup, adapters, bank(PROMPTS), seeds, root / "out")[: words.clips]
    watch = Watch(job_for(setup, items, root / "batch", root / "out"), items)
    crew = (Ray if words.ray else Processes)(watch.job, root, words.processes)
    print(f"{root}: {len(items)} clips", flush=True)
    began = time.monotonic()
    make(watch, crew, random.Random(words.seed))
    sys.exit(1 if report(watch, crew, (time.monotonic() - began) / 60) else 0)


if __name__ == "__main__":
    main()
