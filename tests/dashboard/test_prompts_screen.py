"""Prompts screen: show, filter, create, edit and delete banks."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, TextArea

from pvtool.dashboard.screens.prompt_forms import NewBank
from pvtool.dashboard.screens.prompts import PromptsScreen
from pvtool_core.store.prompts import Banks
from tests.support.sample_data import ScreenApp
from tests.support.screen_text import until, until_found, until_screen, until_seen


def listed(pilot: Pilot[None], id: str) -> list[str | None]:
    """Return the ids of the entries of a list."""
    return [option.id for option in pilot.app.screen.query_one(f"#{id}", OptionList).options]


def mine() -> tuple[str, ...]:
    return Banks().get("mine").prompts


@pytest.fixture
def bank(home: Path) -> None:
    """Create a user's bank, which is the third, after `default` and `default-unseen`."""
    Banks().create("mine", ["<V> {noun} runs", "<V> {noun} sleeps"], "daily life")


TO_MINE = ("down", "down")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (300, 80)])
async def test_banks_are_listed_and_the_selected_one_is_shown(
    bank: None, size: tuple[int, int]
) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=size) as pilot:
        await until_seen(
            pilot, "shipped · 50 prompts", "yours · 2 prompts", "jogging along a river"
        )
        await pilot.press(*TO_MINE)
        await until_seen(pilot, "2 prompts · daily life", "sleeps")
        assert listed(pilot, "banks") == Banks().names()


async def test_keys_and_mouse_select_banks_and_prompts(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(120, 40)) as pilot:
        screen = pilot.app.screen
        await until_seen(pilot, "yours · 2 prompts")
        banks, prompts = (
            screen.query_one("#banks", OptionList),
            screen.query_one("#prompts", OptionList),
        )
        for key, place in [("j", 1), ("k", 0), ("down", 1), ("up", 0)]:
            await pilot.press(key)
            await until(pilot, lambda place=place: banks.highlighted == place)
        await pilot.press(*TO_MINE, "tab", "j")
        await until(pilot, lambda: prompts.has_focus and prompts.highlighted == 1)
        await pilot.press("tab")
        await until(pilot, lambda: banks.has_focus)
        await pilot.press("enter")
        await until(pilot, lambda: prompts.has_focus)
        await pilot.click("#banks", offset=(3, 1))
        await until_seen(pilot, "jogging along a river")
        screen.set_focus(None)
        await pilot.press("j")
        await until(pilot, lambda: banks.highlighted == 1)
        await pilot.press("k")
        await until(pilot, lambda: banks.highlighted == 0)


async def test_filter_shows_prompts_with_all_words(home: Path) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "jogging")
        await pilot.press("slash", *"WINDOW soft")
        await until_seen(pilot, "1 of 50 prompts", "soft window light")
        await pilot.press(*" zebra")
        await until_seen(pilot, "No matching prompts.")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen.query_one("#prompts").has_focus)
        await pilot.press("escape")
        await until_seen(pilot, "50 prompts", "jogging")


async def test_prompts_are_added_and_an_invalid_one_is_reported(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "a")
        area = await until_found(pilot, TextArea)
        area.insert("<V> {noun} eats\na man drinks\n")
        await pilot.press("ctrl+r")
        await until_seen(
            pilot,
            "The prompt 'a man drinks' lacks the keyword <V>.",
            "as in '<V> {noun} is dancing'",
        )
        assert area.text == "<V> {noun} eats\na man drinks\n" and len(mine()) == 2
        area.text = "<V> {noun} eats\n<V> drinks"
        await pilot.click("#submit")
        await until_seen(pilot, "yours · 4 prompts")
    assert mine()[2:] == ("<V> {noun} eats", "<V> drinks")


async def test_empty_input_is_reported(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "a")
        await until_found(pilot, TextArea)
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Empty prompt.")


async def test_enter_edits_a_prompt(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "tab", "enter")
        await until_seen(pilot, "Edit a prompt of mine")
        (await until_found(pilot, TextArea)).text = "<V> {noun} walks"
        await pilot.press("ctrl+r")
        await until(
            pilot, lambda: listed(pilot, "prompts") == ["<V> {noun} walks", "<V> {noun} sleeps"]
        )
    assert mine() == ("<V> {noun} walks", "<V> {noun} sleeps")


async def test_prompt_removed_meanwhile_is_reported(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "tab", "enter")
        await until_seen(pilot, "Edit a prompt of mine")
        Banks().exchange("mine", "<V> {noun} runs", [])
        await pilot.press("ctrl+r")
        await until_seen(pilot, "The bank was changed meanwhile")


async def test_delete_removes_the_focused_prompt_or_bank(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "tab", "delete")
        await until_seen(pilot, "Remove this prompt?", "<V> {noun} runs")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: listed(pilot, "prompts") == ["<V> {noun} sleeps"])
        await pilot.press("tab", "delete")
        await until_seen(pilot, "Delete mine?", "the bank mine with 1 prompt")
        await pilot.press("escape")
        assert mine()
        await until_screen(pilot, PromptsScreen)
        await pilot.press("delete")
        await until_seen(pilot, "Delete mine?", "the bank mine with 1 prompt")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "mine" not in listed(pilot, "banks"))


@pytest.mark.parametrize("keys", [("a",), ("delete",), ("tab", "enter")])
async def test_shipped_bank_is_copied_to_a_user_bank(home: Path, keys: tuple[str, ...]) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "shipped · 50 prompts")
        await pilot.press(*keys)
        await until_seen(pilot, "default is shipped with pv")
        await pilot.press(*"default", "ctrl+r")
        await until_seen(pilot, "A prompt bank named 'default' already exists.")
        (await until_found(pilot, Input, "#name")).value = "copied"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "yours · 50 prompts")
        await until(
            pilot, lambda: pilot.app.screen.query_one("#banks", OptionList).highlighted == 0
        )
    assert Banks().get("copied").prompts == Banks().get("default").prompts


async def test_n_creates_a_bank(bank: None) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        await pilot.press(*TO_MINE, "n")
        await until_screen(pilot, NewBank)
        await pilot.press(*"other", "tab", *"holidays", "ctrl+r")
        await until_seen(pilot, "2 prompts · holidays")
    assert Banks().get("other").prompts == mine()


async def test_changes_on_disk_and_broken_banks_are_shown(bank: None, home: Path) -> None:
    async with ScreenApp(PromptsScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "yours · 2 prompts")
        Banks().extend("mine", ["<V> flies"])
        (home / "config/prompts/abroad.toml").write_bytes(b"prompts = '\xff'")
        await until_seen(pilot, "yours · 3 prompts", "cannot be read")
        await pilot.press("home")
        await until_seen(pilot, "abroad")
        await pilot.press("a", "n", "escape")
        await until_seen(pilot, "cannot be read")


def test_every_listed_key_has_an_action() -> None:
    actions = [binding.action.partition("(")[0] for binding in PromptsScreen.BINDINGS]  # type: ignore[union-attr]
    assert all(hasattr(PromptsScreen, f"action_{action}") for action in actions)
