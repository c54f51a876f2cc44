"""`pv runs tensorboard` and `pv runs wandb`: curves and samples for other programs."""

import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from pvtool_core.media.encode import write_clip
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, RunFolder
from tests.support.commands import Pv
from tests.support.run_files import gpu_event, scores_event, step_event, write_events, write_status


@pytest.fixture
def logged(run: RunFolder) -> RunFolder:
    """Add two steps, one of them reported again after a resume, scores, gauges and a sample."""
    (run.samples / "step-000002").mkdir(parents=True, exist_ok=True)
    pictures = np.zeros((2, 16, 32, 3), np.uint8)
    pictures[1] = 255
    (sample,) = write_clip(run.samples / "step-000002/00", pictures, 8, {"prompt": "x"})
    relative = str(sample.relative_to(run.path))
    steps = [step_event(1, icr=0.5), step_event(2, icr=0.25, scr=None), step_event(2, icr=0.25)]
    sampled = {"time": 3.0, "type": "sample", "step": 2, "prompt": "<V> runs", "seed": 7}
    outside = {**sampled, "path": "samples/link/secret.mp4"}
    (run.samples / "link").symlink_to(run.path.parent.parent)
    (run.path.parent.parent / "secret.mp4").write_bytes(sample.read_bytes())
    write_events(
        run,
        [*steps, {**sampled, "path": relative}, outside, scores_event(2, 0.4), gpu_event(3.0, 1)],
    )
    return run


def test_tensorboard_reads_the_curves_and_clips(pv: Pv, logged: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert pv("runs", "tensorboard", "mara-1", "--out", "logs").status == 0
    answer = pv("runs", "tensorboard", "mara-1", "--out", "logs", "--json")  # replaces the first
    assert answer.json["clips"] == 1
    assert answer.json["path"] == str(Path("logs/mara-1").absolute())
    log = accumulator.EventAccumulator("logs/mara-1")
    log.Reload()
    assert [(each.step, each.value) for each in log.Scalars("train/icr")] == [(1, 0.5), (2, 0.25)]
    assert [each.step for each in log.Scalars("train/scr")] == [1, 2]
    assert log.Scalars("scores/likeness")[0].value == pytest.approx(0.4)
    assert log.Scalars("base/likeness")[0].value == pytest.approx(0.1)
    assert log.Scalars("machine/gpu0_memory_gib")[0].step == 2
    (image,) = log.Images("samples/00")
    assert (image.width, image.height, image.step) == (32, 16, 2)
    assert image.encoded_image_string.startswith(b"GIF89a")
    count = sum(len(log.Scalars(name)) for name in log.Tags()["scalars"])
    assert count == answer.json["points"]


class FakeWandb:
    """Records the calls of the wandb package that pv makes."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.first = threading.Event()
        self.finish = Mock()

    def init(self, **options: Any) -> "FakeWandb":
        self.begun = options
        return self

    def Video(self, path: str, **_: str) -> str:
        return Path(path).name

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))
        self.first.set()


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_receives_values_and_no_person(pv: Pv, logged: RunFolder, wandb: FakeWandb) -> None:
    answer = pv("runs", "wandb", "mara-1", "--project", "faces")
    assert answer.status == 0
    assert "0 sample clips of mara-1 to the project faces." in answer.out
    assert (wandb.begun["project"], wandb.begun["name"]) == ("faces", "mara-1")
    config = wandb.begun["config"]
    assert config["training"]["iterations"] == 800
    assert "identity" not in config
    assert str(logged.path.parent) not in str(config)
    assert (1, {"train/icr": 0.5}) in wandb.logged
    steps = [step for step, _ in wandb.logged]
    assert steps == sorted(steps)
    wandb.finish.assert_called_once_with()
    assert pv("runs", "wandb", "mara-1", "--project", "faces", "--samples").status == 0
    assert (2, {"samples/00": "00.mp4"}) in wandb.logged
    assert "secret.mp4" not in str(wandb.logged)


def test_follow_exports_new_events_until_the_run_ends(
    pv: Pv, logged: RunFolder, wandb: FakeWandb
) -> None:
    logged.exit.unlink()
    write_status(logged, State.RUNNING, 2)

    def train_on() -> None:
        assert wandb.first.wait(60)
        write_events(logged, [step_event(3, icr=0.125)])
        logged.write_exit(ExitRecord(status=0, state=State.FINISHED))

    engine = threading.Thread(target=train_on)
    engine.start()
    assert pv("runs", "wandb", "mara-1", "--project", "faces", "--follow").status == 0
    engine.join()
    assert (3, {"train/icr": 0.125}) in wandb.logged


@pytest.mark.parametrize(
    ("words", "package"),
    [("tensorboard mara-1", "tensorboard"), ("wandb mara-1 --project p", "wandb")],
)
def test_a_missing_package_is_named_with_its_command(
    pv: Pv, run: RunFolder, monkeypatch: pytest.MonkeyPatch, words: str, package: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    answer = pv("runs", *words.split())
    assert answer.status == 4
    assert f"Missing on this machine: {package}." in answer.err
    assert f"Run `pip install pvtool[{package}]`." in answer.err
    assert list(Path.cwd().iterdir()) == []


def test_wandb_that_refuses_is_one_sentence(pv: Pv, run: RunFolder, wandb: FakeWandb) -> None:
    wandb.init = Mock(side_effect=RuntimeError("no login"))
    answer = pv("runs", "wandb", "mara-1", "--project", "p")
    assert answer.status == 4
    assert "Cannot start a run of wandb: no login." in answer.err
