"""Thousands of clips while whoever makes them is killed: in the end each is there, whole, and was made once.

    python -m tests.benchmarks.killing [--clips 2000] [--processes 4] [--ray] [--out DIR]

The tiny preset's model with few steps, frames and pixels makes clips of several people, in a batch on which several
processes are at work; one of them, drawn at random, is killed with SIGKILL again and again, and followed by a new one.
With --ray one process leads Ray's workers here, and those are killed; never what holds the cluster together. After
each kill all clips that are whole are noted: none of them may ever be made again. With --out, the same command goes on
with what DIR holds.
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

from pvtool.output import table
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
WORKER = "ray::render_group"  # as Ray calls a worker that is at work on a group


@dataclass
class Watch:
    """What is known of the clips while they are made."""

    job: RenderJob
    items: Sequence[RenderItem]
    kills: int = 0
    in_hands: set[str] = field(default_factory=set[str])
    """The groups that killed processes held."""
    idle_kills: int = 0
    made_at: dict[str, int] = field(default_factory=dict[str, int])
    made_again: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._names = Names(self.job.setups[0])

    def kill(self, process: psutil.Process) -> None:
        """End it at once, and note what it held and what is whole."""
        process.send_signal(signal.SIGKILL)
        held = self._held_by(process.pid)
        self.kills += 1
        self.idle_kills += not held
        self.in_hands |= held
        self.look()

    def look(self) -> None:
        """See what is whole, and whether what was whole before is still the same."""
        for item in self.items:
            if not self._is_whole(item):
                continue
            made = sidecar_path(item.clip).stat().st_mtime_ns
            self.made_again[item.clip] += self.made_at.get(item.clip, made) != made
            self.made_at[item.clip] = made

    def missing(self) -> list[str]:
        return [item.clip for item in self.items if not self._is_whole(item)]

    def was_in_hands(self, item: RenderItem) -> bool:
        return self._names.trajectory(item.prompt, item.seed) in self.in_hands

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
            ):  # given back, or only just begun to be written
                continue
        return found


class Processes:
    """Engines on one batch, each with a folder of its own."""

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
        """Start the one that takes the place of one that was killed."""
        place = self._pids.index(victim.pid)
        self._engines.wait(victim.pid)
        self._pids[place] = self._engines.start(self._folders[place])

    def events(self) -> Iterator[dict[str, object]]:
        for folder in self._folders:
            yield from read_records(folder.events)[0]

    def end(self) -> list[int]:
        """Their exit statuses, once all have ended."""
        statuses = [self._engines.wait(pid) for pid in self._pids]
        self._engines.close()
        return statuses

    def stop(self) -> None:
        for process in self.living():
            process.terminate()


class Ray(Processes):
    """One engine that leads; the victims are the workers of its cluster, which Ray itself replaces."""

    between_kills = (10.0, 30.0)  # a worker takes seconds to import what it needs

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
    """Let them work, and kill one after another until all have ended."""
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
        print(f"the engines' exit statuses: {statuses}")
    except BaseException:
        crew.stop()
        raise


def tell(watch: Watch, crew: Processes, minutes: float) -> int:
    """Print the table; give back how much of it is not as it should be."""
    done = Counter(str(event["path"]) for event in crew.events() if event.get("status") == "done")
    twice = {
        clip for clip in {**done, **watch.made_again} if done[clip] > 1 or watch.made_again[clip]
    }
    held = {item.clip for item in watch.items if watch.was_in_hands(item)}
    unreadable = [item.clip for item in watch.items if not _plays(item)]
    left = leftovers(watch)
    facts = {
        "clips": len(watch.items),
        "kills": watch.kills,
        "… of processes with clips in their hands": watch.kills - watch.idle_kills,
        "clips in killed processes' hands": len(held),
        "made again though whole": len(twice),
        "… of those in killed processes' hands": len(twice & held),
        "missing": len(watch.missing()),
        "unreadable": len(unreadable),
        "leftovers": len(left),
    }
    print(table(["", "count"], [[what, str(count)] for what, count in facts.items()]))
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
    """Whatever lies in the folder and belongs to no clip."""
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
    parser.add_argument("--seed", type=int, default=0, help="of when and whom to kill")
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
    sys.exit(1 if tell(watch, crew, (time.monotonic() - began) / 60) else 0)


if __name__ == "__main__":
    main()
