"""New run form: preview, invalid values, and the start of a real engine."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Select, TextArea

from pvtool.dashboard.screens import new_run
from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.screens.new_run import NewRunScreen
from pvtool_core import supervisor
from pvtool_core.paths import runs_dir
from pvtool_core.settings.schema import Settings
from pvtool_core.store.consent_checks import revoke_consent
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder, list_runs
from pvtool_core.store.summary import job_of
from tests.support.sample_data import ScreenApp, add_identity
from tests.support.screen_text import until, until_seen


@pytest.fixture(autouse=True)
def _without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no engine for estimates, which takes seconds."""
    monkeypatch.setattr(new_run, "PAUSE_SECONDS", 600)


def select(pilot: Pilot[None], id: str, value: str) -> None:
    field: Any = pilot.app.screen.query_one(f"#{id}", Select)
    field.value = value


def settings(pilot: Pilot[None]) -> TextArea:
    return pilot.app.screen.query_one("LinesField TextArea", TextArea)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (300, 80)])
async def test_preset_shows_its_settings_and_its_weights(home: Path, size: tuple[int, int]) -> None:
    add_identity("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=size) as pilot:
        await until_seen(
            pilot, "ada", "tiny", "animatediff · 140 iterations · 64×64, 8 frames", "Weights: here"
        )
        select(pilot, "preset", "wan")
        await until_seen(pilot, "wan · ", "`pv models fetch")


async def test_revoked_identity_is_refused_with_the_reason(home: Path) -> None:
    add_identity("ada")
    revoke_consent("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "The consent of ada was revoked on")
        assert pilot.app.screen.query_one("#identity-field Note").has_class("-error")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "record their statement with `pv identity consent ada")
    assert not (home / "data/runs").exists()


async def test_invalid_settings_are_reported_while_typing(home: Path) -> None:
    add_identity("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        settings(pilot).insert("training.iteration=5\nadapter.rank=x\nmodel.width=65\n")
        await until_seen(
            pilot,
            "training.iteration: unknown setting; did you mean",
            "adapter.rank: is 'x', not a whole number",
            "model.width: is 65, not a multiple of 8",
        )
        settings(pilot).text = "training.iterations=5\nmodel.width=128"
        await until_seen(pilot, "5 iterations · 128×64")


async def test_settings_are_suggested_with_their_help(home: Path) -> None:
    add_identity("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "model.family")
        settings(pilot).focus()
        await pilot.press(*"warm")
        suggestions = pilot.app.screen.query_one("LinesField OptionList", OptionList)
        await until(
            pilot, lambda: [option.id for option in suggestions.options] == ["training.warmup=10"]
        )
        await until_seen(pilot, "iterations over which the learning rate rises from zero")
        await pilot.press("tab", *"25")
        await until(
            pilot,
            lambda: settings(pilot).text == "training.warmup=25" and settings(pilot).has_focus,
        )
        await pilot.press("tab")
        await until(pilot, lambda: not settings(pilot).has_focus)


async def test_only_identity_is_selected_and_memory_and_time_are_estimated(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_identity("ada")
    planned: list[int] = []

    def plan(settings: Settings, prompts: int, *, stop: Callable[[], bool]) -> str:
        planned.append(settings.training.iterations)
        while settings.training.iterations == 4 and not stop():
            time.sleep(0.01)
        return "≈ 11 GiB of 80 GiB, 40:00" if not stop() else "cancelled"

    monkeypatch.setattr(new_run, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(new_run, "plan_of", plan)
    monkeypatch.setattr(new_run, "short_estimate", str)
    async with ScreenApp(NewRunScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "ada", "≈ 11 GiB of 80 GiB, 40:00")
        settings(pilot).text = "training.iterations=4"
        await until_seen(pilot, "Estimating memory and time…")
        await until(pilot, lambda: planned == [140, 4])
        settings(pilot).text = "training.iterations=8"
        await until_seen(pilot, "≈ 11 GiB of 80 GiB, 40:00")
    assert planned == [140, 4, 8]


@pytest.mark.parametrize(
    ("id", "typed", "message", "hint"),
    [
        ("seed", "-4", "training.seed: is -4, not between", "pv presets show"),
        (
            "base",
            "no/where",
            "Weights not found: no/where.",
            "pv models fetch no/where",
        ),
    ],
)
async def test_invalid_values_are_reported_and_kept(
    home: Path, id: str, typed: str, message: str, hint: str
) -> None:
    add_identity("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        field = pilot.app.screen.query_one(f"#{id}", Input)
        field.value = typed
        await pilot.press("ctrl+r")
        await until_seen(pilot, message, hint)
        assert field.value == typed
    assert not list_runs(runs_dir())


async def test_missing_lora_is_reported(home: Path) -> None:
    add_identity("ada")
    async with ScreenApp(lambda: NewRunScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        pilot.app.screen.query_one("#loras", TextArea).insert("ink.safetensors:0.8")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Weights not found: ink.safetensors.")
    assert not list(runs_dir().glob("*"))


async def test_form_without_identities_shows_how_to_add_one(home: Path) -> None:
    async with ScreenApp(NewRunScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "No identities yet")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Select the identity to train.")


@pytest.mark.parametrize("close", ["escape", "click"])
async def test_cancelled_form_creates_no_run(home: Path, close: str) -> None:
    add_identity("ada")
    app = ScreenApp(lambda: NewRunScreen("ada"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Weights: here")
        await (pilot.click("#cancel") if close == "click" else pilot.press("escape"))
        await until(pilot, lambda: app.results == [None])
    assert not list(runs_dir().glob("*"))


async def test_form_closed_while_checking_weights_starts_no_run(home: Path) -> None:
    add_identity("ada")
    app = ScreenApp(lambda: NewRunScreen("ada"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Weights: here")
        form = pilot.app.screen
        assert isinstance(form, FormScreen)
        job = form.job()
        await pilot.press("escape")
        job()
    assert not list(runs_dir().glob("*"))


@pytest.mark.slow
async def test_form_creates_and_starts_a_run(home: Path) -> None:
    add_identity("ada")
    app = ScreenApp(lambda: NewRunScreen("ada"))
    async with app.run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        select(pilot, "bank", "tiny-unseen")
        pilot.app.screen.query_one("#seed", Input).value = "7"
        settings(pilot).insert("training.iterations=3\ntraining.cached_pairs=1")
        await until_seen(pilot, "3 iterations")
        await pilot.click("#submit")
        await until(pilot, lambda: app.results, seconds=60)
    folder = app.results[0]
    assert isinstance(folder, RunFolder)
    job = job_of(folder)
    assert (job.identity.name, job.training.seed, job.training.iterations, len(job.prompts)) == (
        "ada",
        7,
        3,
        8,
    )
    while folder.state() is State.NEW:
        await asyncio.sleep(0.1)
    folder.request(Request.STOP)
    supervisor.follow(folder, lambda _: None)
    assert folder.state() in {State.STOPPED, State.FINISHED}
