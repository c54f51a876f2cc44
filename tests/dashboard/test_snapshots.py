"""Text snapshots of every screen at three sizes, reviewed in diffs.

PV_WRITE_SNAPSHOTS=1 writes them again.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from difflib import unified_diff
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from textual.pilot import Pilot
from textual.screen import Screen
from textual.worker import WorkerState

from pvtool.dashboard.app import Dashboard
from pvtool.dashboard.screens import batch as batch_screen
from pvtool.dashboard.screens import renders as renders_screen
from pvtool.dashboard.widgets import headline
from pvtool.terminal import Pictures, Terminal
from pvtool_core.store.identities import IDENTITY_FILE
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import BestCheckpoint, RunFolder
from tests.support import run_files
from tests.support.batches import clip_event, make_batch, rendering_event, write_worker
from tests.support.run_files import (
    PROMPTS,
    MakeRun,
    gpu_event,
    scores_event,
    write_events,
    write_report,
)
from tests.support.sample_data import add_identity
from tests.support.screen_text import screen_text, until_seen

SNAPSHOTS = Path(__file__).parent / "snapshots"
BEGAN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC).timestamp()
SIZES = [(80, 24), (120, 40), (300, 80)]
Capture = Callable[..., Awaitable[None]]


@pytest.fixture
def fixed_clock(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Set the clock to a fixed time in UTC."""
    monkeypatch.setattr(run_files, "BEGAN", BEGAN)
    monkeypatch.setattr(headline, "time", SimpleNamespace(time=lambda: BEGAN + 181))
    for screen in (batch_screen, renders_screen):
        monkeypatch.setattr(
            screen, "time", SimpleNamespace(time=lambda: BEGAN + 181, monotonic=time.monotonic)
        )
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(
    fixed_clock: None, home: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    """Create a live run on two accelerators, three ended runs, two identities and two batches.

    Paths are short and independent of the machine.
    """
    make_run("ada-1", 300, State.FINISHED)
    make_run("ben-1", 120, State.STOPPED)
    make_run("ada-2", 250, State.FAILED)
    _add_with_drawn_photos("ada", "woman", [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)])
    _add_with_drawn_photos("ben", "man", [(1.0, 0.0)])
    _pin_paths(_with_samples(_with_host(make_run("ada-3", 180, devices=2))), home)
    _add_batches(home)
    monkeypatch.chdir(home / "data")
    return RunFolder(Path("runs/ada-3"))


def _add_with_drawn_photos(name: str, noun: str, embeddings: list[tuple[float, float]]) -> None:
    identity = add_identity(name, noun, embeddings)
    for picture in (*identity.references, *identity.faces):
        draw(picture)
    record = identity.folder / IDENTITY_FILE
    today = datetime.now(UTC).date().isoformat()
    record.write_text(record.read_text().replace(today, "2026-02-28"))


def _add_batches(home: Path) -> None:
    """Create an ended batch and a live batch on two accelerators, with still images as clips."""
    ended, live = (
        make_batch("20260228-220000-0a1b", clips=3),
        make_batch("20260301-093000-9f3e", clips=2000, workers=2),
    )
    clips = [
        clip_event(BEGAN + 2 * i, i, "failed" if i in {33, 34} else "done", files=["a.png"])
        for i in range(90)
    ]
    still = Path(clips[0]["path"]).with_name("a.png")
    still.parent.mkdir(parents=True)
    draw(still)
    write_worker(ended.worker(0), State.FINISHED, [rendering_event(BEGAN - 99), *clips[:3]])
    for number, worker in enumerate(live.workers()):
        started = [
            rendering_event(BEGAN),
            gpu_event(BEGAN, 2),
            clip_event(BEGAN, 1000 + number, "skipped"),
        ]
        write_worker(worker, State.RUNNING, [*started, *clips[number::2]])
        worker.config.write_text(
            worker.config.read_text().replace('device = "cpu"', f'device = "cuda:{number}"')
        )
    for worker in (*ended.workers(), *live.workers()):
        _pin_paths(worker, home)


def _with_host(run: RunFolder) -> RunFolder:
    """Add readings of the computer, and that the first accelerator is the run's own one."""
    gib = 2**30
    whole = {"memory_total": 128 * gib, "cores": 16, "disk_free": 812 * gib}
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    for event in events:
        if event["type"] == "gpu":
            passed = event["time"] - BEGAN
            measured = {"memory_used": (40 + passed / 20) * gib, "cpu": 25.0 + passed / 10}
            event |= {"own": 0, "host": whole | measured}
    run.events.write_text("")
    write_events(run, events)
    return run


def _with_samples(run: RunFolder) -> RunFolder:
    """Add scored samples as still images, as the frame of a clip depends on the time.

    In the last ones, the likeness rises by the reward's recogniser only.
    """
    scores = {
        0: scores_event(0),
        50: scores_event(50, 0.31, gap=0.09, motion=0.78, clip_t=25.4),
        100: scores_event(100, 0.42, gap=0.16, motion=0.71, clip_t=24.8),
        150: scores_event(150, 0.38, gap=0.37, motion=0.52, clip_t=23.1),
    }
    for step, scored in scores.items():
        path = run.path / f"samples/step-{step:06}/00.png"
        path.parent.mkdir(parents=True)
        draw(path)
        details = {"path": str(path.relative_to(run.path)), "prompt": PROMPTS[0], "seed": 7}
        sample = {"time": BEGAN + step, "type": "sample", "step": step, **details}
        own = {"prompt": PROMPTS[0], "seed": 7, "scores": scored["scores"], "base": scored["base"]}
        write_events(run, [sample, {**scored, "samples": [own]}])
    run.write_best(BestCheckpoint(step=100, likeness=0.42))
    write_report(run)
    return run


def draw(path: Path) -> None:
    """Draw a gradient without equal rows, so that all cells are half blocks on any machine."""
    Image.linear_gradient("L").convert("RGB").save(path)


def _pin_paths(run: RunFolder, home: Path) -> None:
    run.config.write_text(run.config.read_text().replace(f"{home / 'data'}/", ""))
    os.utime(run.config, (BEGAN, BEGAN + 9))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_screens_equal_their_snapshots(run: RunFolder, size: tuple[int, int]) -> None:
    terminal = Terminal(Pictures.BLOCKS, tmux=False, colours="truecolor")
    differing: list[str] = []
    async with Dashboard(terminal, Path("runs"), run).run_test(size=size) as pilot:

        async def capture(name: str, *texts: str) -> None:
            await until_seen(pilot, *texts)
            differing.extend(
                compare(SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.txt", await settled(pilot))
            )

        await capture_run_screen(pilot, capture)
        await capture_main_screens(pilot, capture)
    assert not differing, "\n".join(["PV_WRITE_SNAPSHOTS=1 accepts these changes:", *differing])


async def capture_run_screen(pilot: Pilot[None], capture: Capture) -> None:
    """Capture every pane and the help."""
    await capture("overview", "step 180/400", "ICR identity loss 0.2", PROMPTS[0].partition(",")[0])
    for pane, texts in [
        ("curves", ["SCR semantic loss 0.0"]),
        ("samples", ["step 150, newest"]),
        ("evaluation", ["+0.320 [+0.250, +0.390]"]),
        ("prompts", ["reads in a café"]),
        ("machine", ["GPU 0", "41.5 of 80.0 GiB"]),
        ("log", ["events, without", "live", "run         started"]),
        ("settings", ["model.family", "animatediff"]),
    ]:
        await pilot.press("right_square_bracket")
        await capture(pane, *texts)
    await pilot.press("question_mark")
    await capture("help", "esc closes")
    await pilot.press("escape", "escape")


async def capture_main_screens(pilot: Pilot[None], capture: Capture) -> None:
    """Capture the main screens and the new run form."""
    await capture("runs", "● running", "ben-1")
    await pilot.press("space", "space", "C")
    await capture("compare", "A ada-3  B ada-2", "likeness, latest", "ada-3 0.380 · ada-2 –")
    await pilot.press("escape", "escape", "n")
    await capture("start", "Weights: here", "model.family")
    await pilot.press("escape", "2")
    await capture("identities", "woman · 3 photos", "Photo 1 of 3")
    await pilot.press("3")
    await capture("prompts-of-banks", "tiny-unseen", "50 prompts")
    await pilot.press("4")
    await capture("renders", "90/2 000", "✓ finished")
    await pilot.press("n")
    await capture("new-clips", "New clips", "Identity     ada")
    await pilot.press("escape", "enter")
    await capture("batch", "88 rendered", "2 failed", "ada, seed 89", "newest first")


async def settled(pilot: Pilot[None]) -> str:
    """Return the text on the screen once it is stable and no clip is being read."""
    before = ""
    while before != (now := screen_text(pilot.app)) or is_reading(pilot.app.screen):
        before = now
        await pilot.pause(0.15)  # longer than the delay of a clip after a resize
    return now + "\n"


def is_reading(screen: Screen[object]) -> bool:
    """Return whether a clip is being read; other workers run while their screen exists."""
    return any(
        worker.group == "clip" and worker.state is WorkerState.RUNNING
        for worker in screen.app.workers
    )


def compare(path: Path, now: str) -> list[str]:
    """Return the differences from the snapshot, or write the snapshot."""
    if os.environ.get("PV_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
    before = path.read_text() if path.exists() else ""
    return list(
        unified_diff(before.splitlines(), now.splitlines(), path.name, "now", n=1, lineterm="")
    )
