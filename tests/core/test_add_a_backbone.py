"""Tests of docs/add-a-backbone.md: a model family is one file and one row of the table."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors import safe_open
from textual.widgets import Select

from pvtool.cli.doctor import weights
from pvtool.cli.main import main
from pvtool.dashboard.screens.new_run import NewRunScreen
from pvtool_core.errors import SettingsError
from pvtool_core.media.decode import frames_of
from pvtool_core.models.locate import HERE, family_of
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.toml import to_table
from tests.support import extended_engine
from tests.support.sample_data import ScreenApp, add_identity_of_noise
from tests.support.screen_text import until_seen
from tests.support.small_flipbook import FLIPBOOK
from tests.support.small_models import with_settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/add-a-backbone.md"


@pytest.fixture
def base(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines_in_process: None
) -> Path:
    """Return a model of the new family, which is in the table of this process and its engines."""
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(FAMILIES, "flipbook", FAMILIES["animatediff"])  # removed afterwards
    extended_engine.add_family()
    return Path(FLIPBOOK.job(models).model.base_model)


@pytest.fixture
def preset(base: Path, job: TrainJob) -> str:
    """Write the preset of the family, and an identity with one photo of noise."""
    short = {"iterations": 1, "checkpoint_every": 1, "sample_every": 0, "seeds_per_prompt": 1}
    job = with_settings(job, "training", **short)
    job = with_settings(job, "model", family="flipbook", base_model=str(base))
    table: dict[str, Any] = {name: to_table(part) for name, part in job.sections().items()}
    about = {"description": "a flip book", "prompts": "tiny"}
    own = Presets().own
    own.mkdir(parents=True)
    (own / "flipbook.toml").write_text(tomli_w.dumps({"preset": about, **table}))
    add_identity_of_noise("ann")
    return "flipbook"


def pv(capfd: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run a command in this process and return its JSON output."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main((*words, "--json"))
    shown = capfd.readouterr()
    assert not ended.value.code, shown.err
    return json.loads(shown.out.splitlines()[-1])


@pytest.mark.slow
def test_new_family_is_planned_trained_and_rendered(
    base: Path, preset: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert family_of(base) == preset
    assert weights()[preset] == HERE

    plan = pv(capfd, "train", "ann", "--base-model", str(base), "--plan")
    assert not plan["assumed"] and plan["missing"] == []
    assert plan["peak"]["bytes"] > 0

    trained = pv(capfd, "train", "ann", "--base-model", str(base))
    assert trained["state"] == "finished"
    pv(capfd, "render", "ann", "<V> woman waits", "--run", trained["run"], "--base", "--out", "out")
    clips = {path.parts[1]: frames_of(path) for path in Path("out").glob("*/*/*.mp4")}
    assert clips.keys() == {"ann", "base"}
    assert all(len(frames) == FLIPBOOK.size["num_frames"] for frames in clips.values())

    pv(capfd, "runs", "export", trained["run"], "ann.safetensors")
    layers = [f"unet.{layer}.to_{each}" for layer in FLIPBOOK.adapted for each in "qkv"]
    with safe_open("ann.safetensors", "np") as file:
        assert set(file.keys()) == {f"{layer}.lora_{ab}.weight" for layer in layers for ab in "AB"}


async def test_form_of_the_dashboard_offers_the_new_family(preset: str) -> None:
    async with ScreenApp(lambda: NewRunScreen("ann")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        field: Any = pilot.app.screen.query_one("#preset", Select)
        field.value = preset
        await until_seen(pilot, "flipbook · 1 iterations · 32×32, 4 frames", "Weights: here")


def test_option_that_the_new_family_does_not_support_is_refused(preset: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Presets().get(preset).settings({"sampler": {"shift": 3.0}})
    assert "sampler.shift: is not supported by flipbook, only by hunyuan-video, wan" in str(
        refused.value
    )


def test_example_and_all_backbones_are_independent_of_each_other() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (held,) = (
        contract["modules"]
        for contract in contracts["contracts"]
        if contract["name"].startswith("Backbones are independent of each other")
    )
    backbones = {family.backbone.partition(":")[0] for family in FAMILIES.values()}
    assert {*held, ""} == {*backbones, ""}  # families of encoder methods have none
    example = (ROOT / "tests/support/flipbook.py").read_text()
    assert not [module for module in held if module in example]


def test_guide_shows_the_tested_family() -> None:
    page = PAGE.read_text()
    assert (ROOT / "tests/support/flipbook.py").read_text() in page
    source = Path(extended_engine.__file__).read_text()
    row = source[source.index("Family(\n") : source.index("\n\n\ndef add_format")]
    row = row.replace("tests.support", "pvtool_core.backbones").replace("\n    ", "\n")
    assert row in page
