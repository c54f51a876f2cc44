"""The form of a new run: what is known beforehand, what is wrong, and a real engine at its end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Select, TextArea

from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.screens.new_run import StartScreen
from pvtool_core import supervisor
from pvtool_core.paths import runs_dir
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import Request, RunFolder, list_runs
from pvtool_core.store.summary import job_of
from tests.support.sample_data import House, add_person
from tests.support.screen_text import until, until_seen


def choose(pilot: Pilot[None], id: str, word: str) -> None:
    select: Any = pilot.app.screen.query_one(f"#{id}", Select)
    select.value = word


def settings(pilot: Pilot[None]) -> TextArea:
    return pilot.app.screen.query_one("LinesField TextArea", TextArea)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (300, 80)])
async def test_a_preset_says_what_it_takes_and_whether_its_weights_are_here(
    home: Path, size: tuple[int, int]
) -> None:
    add_person("ada")
    async with House(lambda: StartScreen("ada")).run_test(size=size) as pilot:
        await until_seen(
            pilot, "ada", "tiny", "animatediff · 140 iterations · 64×64, 8 frames", "Weights: here"
        )
        choose(pilot, "preset", "wan")
        await until_seen(pilot, "wan · ", "`pv models fetch")


async def test_every_wrong_setting_is_named_near_the_field_as_it_is_typed(home: Path) -> None:
    add_person("ada")
    async with House(lambda: StartScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        settings(pilot).insert("training.iteration=5\nadapter.rank=x\nmodel.width=65\n")
        await until_seen(
            pilot,
            "training.iteration: is no setting; did you mean",
            "adapter.rank: is 'x', not a whole number",
            "model.width: is 65, not a multiple of 8",
        )
        settings(pilot).text = "training.iterations=5\nmodel.width=128"
        await until_seen(pilot, "5 iterations · 128×64")


async def test_settings_are_offered_with_their_meaning_and_taken_from_the_list(home: Path) -> None:
    add_person("ada")
    async with House(lambda: StartScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "model.family")
        settings(pilot).focus()
        await pilot.press(*"warm")
        offered = pilot.app.screen.query_one("LinesField OptionList", OptionList)
        await until(
            pilot, lambda: [option.id for option in offered.options] == ["training.warmup=10"]
        )
        await until_seen(pilot, "iterations over which the learning rate rises from zero")
        await pilot.press("tab", "enter")
        await until(
            pilot,
            lambda: settings(pilot).text == "training.warmup=10" and settings(pilot).has_focus,
        )


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
async def test_what_is_refused_is_said_and_nothing_typed_is_lost(
    home: Path, id: str, typed: str, message: str, hint: str
) -> None:
    add_person("ada")
    async with House(lambda: StartScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        field = pilot.app.screen.query_one(f"#{id}", Input)
        field.value = typed
        await pilot.press("ctrl+r")
        await until_seen(pilot, message, hint)
        assert field.value == typed
    assert not list_runs(runs_dir())


async def test_a_lora_that_is_not_there_is_named(home: Path) -> None:
    add_person("ada")
    async with House(lambda: StartScreen("ada")).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        pilot.app.screen.query_one("#loras", TextArea).insert("ink.safetensors:0.8")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Weights not found: ink.safetensors.")
    assert not list(runs_dir().glob("*"))


async def test_without_anybody_the_form_says_what_to_do(home: Path) -> None:
    async with House(StartScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Nobody is in the library yet")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Choose who is to be trained.")


@pytest.mark.parametrize("leave", ["escape", "click"])
async def test_leaving_the_form_makes_nothing(home: Path, leave: str) -> None:
    add_person("ada")
    app = House(lambda: StartScreen("ada"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Weights: here")
        await (pilot.click("#cancel") if leave == "click" else pilot.press("escape"))
        await until(pilot, lambda: app.given == [None])
    assert not list(runs_dir().glob("*"))


async def test_a_form_left_while_its_weights_are_read_starts_nothing(home: Path) -> None:
    add_person("ada")
    app = House(lambda: StartScreen("ada"))
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Weights: here")
        form = pilot.app.screen
        assert isinstance(form, FormScreen)
        job = form.job()
        await pilot.press("escape")
        job()
    assert not list(runs_dir().glob("*"))


@pytest.mark.slow
async def test_the_form_makes_the_run_and_starts_its_engine(home: Path) -> None:
    add_person("ada")
    app = House(lambda: StartScreen("ada"))
    async with app.run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Weights: here")
        choose(pilot, "bank", "tiny-unseen")
        pilot.app.screen.query_one("#seed", Input).value = "7"
        settings(pilot).insert("training.iterations=3\ntraining.cached_pairs=1")
        await until_seen(pilot, "3 iterations")
        await pilot.click("#go")
        await until(pilot, lambda: app.given, seconds=60)
    folder = app.given[0]
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
