"""The public API: the example script of the documentation, and handles of engine processes."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import pvtool_core
from pvtool_core import Presets, render, supervisor, train
from pvtool_core.errors import Interrupted, Missing, SettingsError, UsageError
from pvtool_core.paths import runs_dir
from pvtool_core.store.events import ClipEvent, StepEvent
from pvtool_core.store.liveness import State
from pvtool_core.store.prompts import Banks
from tests.support.in_process import start_engine

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/example.py"
PHOTO = ROOT / "presets/tiny/samples/ada-woman.png"


def test_example_has_at_most_20_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 20


def test_every_public_name_exists() -> None:
    for name in pvtool_core.__all__:
        assert getattr(pvtool_core, name).__doc__, name
    with pytest.raises(AttributeError, match="unknown"):
        _ = pvtool_core.unknown


def test_importing_the_api_loads_neither_torch_nor_the_front_end() -> None:
    code = (
        "import sys; from pvtool_core import *; "
        "heavy = ('torch', 'numpy', 'typer', 'textual', 'pvtool'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.fixture
def short_preset(home: Path) -> None:
    """Hide the shipped preset by a shorter one of the user, with the same models."""
    about = '[preset]\nextends = "tiny"\ndescription = "short"\nprompts = "two"\n'
    short = "[training]\nseeds_per_prompt = 1\nsample_every = 0\n"
    Presets().own.mkdir(parents=True)
    (Presets().own / "tiny.toml").write_text(about + short + "[sampler]\nnum_inference_steps = 4\n")
    Banks().create("two", ["<V> {noun} runs", "<V> {noun} dances"])


@pytest.mark.slow
@pytest.mark.usefixtures("short_preset")
def test_example_runs_and_engines_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The models are real. The engines of the example run in this process, the others do not."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(PHOTO), "1"])
    with monkeypatch.context() as during_the_example:
        during_the_example.setattr(supervisor, "start", start_engine)
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("step 1: loss ")
    clips = [Path(line) for line in lines if line.endswith(".mp4")]
    assert len(clips) == 4 and all(clip.stat().st_size for clip in clips)
    assert [line.split()[0] for line in lines[-2:]] == ["base", "adapter"]
    assert (runs_dir() / "ada-1/evaluation/report.json").is_file()

    run = train("ada", prompts=["<V> {noun} runs"])
    for event in run.events():
        if isinstance(event, StepEvent):
            run.stop()
    assert run.wait() == State.STOPPED
    assert run.adapter.is_file()
    with pytest.raises(Missing, match="nobody"):
        render("nobody", ["<V> runs"], "clips")
    with pytest.raises(SettingsError):
        render(run, ["<V> runs"], "clips", overrides={"sampler": {"step": 3}})
    rendering = render(run, ["<V> {noun} runs"], "clips", seeds=range(9))
    for event in rendering.events():
        if isinstance(event, ClipEvent):
            rendering.stop()
    with pytest.raises(Interrupted):
        rendering.wait()


def test_invalid_arguments_are_refused_before_a_run_exists(mara: str) -> None:
    with pytest.raises(Missing):
        train("nobody")
    with pytest.raises(SettingsError):
        train(mara, overrides={"training": {"iteration": 3}})
    with pytest.raises(UsageError, match="none is left for training"):
        train(mara, overrides={"identity_reward": {"held_out_photos": 1}})
    assert not runs_dir().exists()
