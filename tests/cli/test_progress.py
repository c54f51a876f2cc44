"""Progress and hints on the terminal."""

from pathlib import Path

import pytest

from pvtool.cli.main import main
from pvtool.cli.progress import JobProgress
from pvtool.output import BarProgress
from pvtool_core.errors import UsageError
from pvtool_core.store.events import (
    DeviceReading,
    RunEvent,
    ScoresEvent,
    StageEvent,
    StepEvent,
    TelemetryEvent,
)
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ExitRecord, Request, RunFolder
from pvtool_core.supervisor import ask


def test_training_counts_iterations_before_its_first_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with JobProgress(400) as progress:
        progress.on_event(StageEvent(stage="caching", done=24, total=24))
        progress.on_event(StageEvent(stage="training"))
    assert "training 0/400" in capsys.readouterr().err


def test_iterations_show_their_time_and_the_memory_of_the_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus = tuple(
        DeviceReading(index=index, name="GPU", memory_used=used * 2**30)
        for index, used in enumerate((70.0, 12.34))
    )
    with JobProgress(400, ["icr"], "cuda:1") as progress:
        progress.on_event(TelemetryEvent(devices=gpus))
        scalars = {"loss": 2.0, "icr": 0.4126, "seconds": 1.234}
        progress.on_event(StepEvent(step=40, eta=443.0, scalars=scalars))
    assert "40/400  7:23 left  1.2 s/it  GPU 12 GiB  icr 0.413" in capsys.readouterr().err


def test_scores_of_samples_and_an_early_end_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    base = {"likeness": 0.1, "motion": 0.8, "clip_t": 25.0}
    scores = {"likeness": 0.412, "motion": 0.72, "clip_t": 24.5, "faces_found": 1.0}
    with JobProgress(400) as progress:
        progress.on_event(ScoresEvent(step=50, clips=2, scores=scores, base=base))
        progress.on_event(RunEvent(state="finished", reason="No higher likeness."))
    told = capsys.readouterr().err
    assert (
        "Scores at step 50: likeness 0.412 (base 0.100)  faces 1.000  motion 0.90 of base  "
        "CLIP-T -0.50 from base" in told
    )
    assert "Training ended early. No higher likeness." in told


def test_progress_bar_resets_its_total_between_stages() -> None:
    bar = BarProgress()
    bar.update("caching", 24, 24)
    bar.update("training", 0, 0)
    (task,) = bar._bar.tasks  # pyright: ignore[reportPrivateUsage]
    assert (task.description, task.total) == ("training", None)


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "train"), ("run", "runs"), ("rendr", "render")]
)
def test_error_for_unknown_command_suggests_the_nearest(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([typed])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"No such command '{typed}'." in said and f"`pv {meant}`" in said


def test_hint_for_a_finished_run_is_not_to_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "ada-1").create()
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    with pytest.raises(UsageError) as refused:
        ask(folder, Request.PAUSE)
    assert "resume" not in refused.value.hint
