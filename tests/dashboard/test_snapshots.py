"""Every screen at three sizes as text, for a person to review in a diff. PV_WRITE_SNAPSHOTS=1 writes it anew."""

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
from pvtool_core.store.runs import RunFolder
from tests.support import run_files
from tests.support.batches import clip_event, make_batch, rendering_event, tell
from tests.support.run_files import PROMPTS, MakeRun, gpu_event, write_events
from tests.support.sample_data import add_person
from tests.support.screen_text import seen, until_seen

SNAPSHOTS = Path(__file__).parent / "snapshots"
BEGAN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC).timestamp()
SIZES = [(80, 24), (120, 40), (300, 80)]
Look = Callable[..., Awaitable[None]]


@pytest.fixture
def same_everywhere(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A clock that stands in UTC."""
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
    same_everywhere: None, home: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> RunFolder:
    """A live run on two accelerators among three that ended, and two people; all by paths that are short here."""
    make_run("ada-1", 300, State.FINISHED)
    make_run("ben-1", 120, State.STOPPED)
    make_run("ada-2", 250, State.FAILED)
    _add("ada", "woman", [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)])
    _add("ben", "man", [(1.0, 0.0)])
    _pin_paths(_with_samples(make_run("ada-3", 180, devices=2)), home)
    _add_batches(home)
    monkeypatch.chdir(home / "data")
    return RunFolder(Path("runs/ada-3"))


def _add(name: str, noun: str, embeddings: list[tuple[float, float]]) -> None:
    person = add_person(name, noun, embeddings)
    for picture in (*person.references, *person.faces):
        draw(picture)
    record = person.folder / IDENTITY_FILE
    today = datetime.now(UTC).date().isoformat()
    record.write_text(record.read_text().replace(today, "2026-02-28"))


def _add_batches(home: Path) -> None:
    """One that has ended, and a live one on two accelerators; the newest clips of both are stills."""
    ended, live = (
        make_batch("20260228-2200-0a1b", clips=3),
        make_batch("20260301-0930-9f3e", clips=2000, workers=2),
    )
    clips = [
        clip_event(BEGAN + 2 * i, i, "failed" if i in {33, 34} else "done", files=["a.png"])
        for i in range(90)
    ]
    still = Path(clips[0]["path"]).with_name("a.png")
    still.parent.mkdir(parents=True)
    draw(still)
    tell(ended.worker(0), State.FINISHED, [rendering_event(BEGAN - 99), *clips[:3]])
    for number, worker in enumerate(live.workers()):
        begun = [
            rendering_event(BEGAN),
            gpu_event(BEGAN, 2),
            clip_event(BEGAN, 1000 + number, "skipped"),
        ]
        tell(worker, State.RUNNING, [*begun, *clips[number::2]])
        worker.config.write_text(
            worker.config.read_text().replace('device = "cpu"', f'device = "cuda:{number}"')
        )
    for worker in (*ended.workers(), *live.workers()):
        _pin_paths(worker, home)


def _with_samples(run: RunFolder) -> RunFolder:
    """Stills: which frame a clip is at depends on when one looks."""
    for step in (0, 100):
        path = run.path / f"samples/step-{step:06}/00.png"
        path.parent.mkdir(parents=True)
        draw(path)
        about = {"path": str(path.relative_to(run.path)), "prompt": PROMPTS[0], "seed": 7}
        write_events(run, [{"time": BEGAN + step, "type": "sample", "step": step, **about}])
    return run


def draw(path: Path) -> None:
    """No pixel is like the one below it, so that every cell of the picture is the same half block on any machine."""
    Image.linear_gradient("L").convert("RGB").save(path)


def _pin_paths(run: RunFolder, home: Path) -> None:
    run.config.write_text(run.config.read_text().replace(f"{home / 'data'}/", ""))
    os.utime(run.config, (BEGAN, BEGAN + 9))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_every_screen_looks_as_it_did_when_a_person_last_looked(
    run: RunFolder, size: tuple[int, int]
) -> None:
    terminal = Terminal(Pictures.BLOCKS, tmux=False, colours="truecolor")
    differing: list[str] = []
    async with Dashboard(terminal, Path("runs"), run).run_test(size=size) as pilot:

        async def look(name: str, *words: str) -> None:
            await until_seen(pilot, *words)
            differing.extend(
                compare(SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.txt", await settled(pilot))
            )

        await walk_through_a_run(pilot, look)
        await walk_through_the_places(pilot, look)
    assert not differing, "\n".join(
        ["PV_WRITE_SNAPSHOTS=1 takes these over, once you like them:", *differing]
    )


async def walk_through_a_run(pilot: Pilot[None], look: Look) -> None:
    """Every pane, and the help."""
    await look("overview", "step 180/400", "ICR identity loss 0.2", PROMPTS[0].partition(",")[0])
    for pane, words in [
        ("curves", ["SCR semantic loss 0.0"]),
        ("samples", ["step 100, newest"]),
        ("prompts", ["reads in a café"]),
        ("machine", ["GPU 0", "41.5 of 80.0 GiB"]),
        ("log", ["events, without", "live", "state=started"]),
        ("settings", ["model.family", "animatediff"]),
    ]:
        await pilot.press("right_square_bracket")
        await look(pane, *words)
    await pilot.press("question_mark")
    await look("help", "esc closes")
    await pilot.press("escape", "escape")


async def walk_through_the_places(pilot: Pilot[None], look: Look) -> None:
    """The list of runs, the form of a new one, people and prompts."""
    await look("runs", "● running", "ben-1")
    await pilot.press("n")
    await look("start", "Weights: here", "model.family")
    await pilot.press("escape", "2")
    await look("identities", "woman · 3 photos", "Photo 1 of 3")
    await pilot.press("3")
    await look("prompts-of-banks", "tiny-unseen", "50 prompts")
    await pilot.press("4")
    await look("renders", "90/2 000", "✓ finished")
    await pilot.press("enter")
    await look("batch", "88 made", "2 failed; enter", "seed 89: <V> woman")


async def settled(pilot: Pilot[None]) -> str:
    """What is on the screen once nothing is being read and it stays as it is."""
    before = ""
    while before != (now := seen(pilot.app)) or reading(pilot.app.screen):
        before = now
        await pilot.pause(0.15)  # longer than a clip waits for its size to settle
    return now + "\n"


def reading(screen: Screen[object]) -> bool:
    """Whether a clip is being read: the other workers go on for as long as their screen is there."""
    return any(
        worker.group == "clip" and worker.state is WorkerState.RUNNING
        for worker in screen.app.workers
    )


def compare(path: Path, now: str) -> list[str]:
    """How the screen differs from its snapshot, line by line; or the snapshot is written."""
    if os.environ.get("PV_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
    before = path.read_text() if path.exists() else ""
    return list(
        unified_diff(before.splitlines(), now.splitlines(), path.name, "now", n=1, lineterm="")
    )
