"""The people of the library on the screen: seen, added, renamed, removed, and trained."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer, Input, OptionList, TextArea

from pvtool.dashboard.screens.identities import IdentitiesScreen
from pvtool.dashboard.screens.identity_forms import AddPerson
from pvtool.dashboard.screens.new_run import StartScreen
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.jobs.prepare import choose, prepare
from pvtool_core.store.identities import EMBEDDINGS_FILE, IDENTITY_FILE, Library
from pvtool_core.store.summary import job_of
from tests.support.sample_data import SAMPLES, House, add_person
from tests.support.screen_text import seen, until, until_found, until_screen, until_seen

SIZES = [(80, 24), (120, 40), (300, 80)]
ALIKE = [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)]


def clip(pilot: Pilot[None], id: str) -> str:
    """Which file of a person a picture shows."""
    path = pilot.app.screen.query_one(f"#{id}", ClipView).path
    return "" if path is None else str(path.relative_to(path.parents[2]))


@pytest.mark.parametrize("size", SIZES)
async def test_a_person_is_shown_with_photos_likeness_consent_and_runs(
    home: Path, size: tuple[int, int]
) -> None:
    add_person("ada", embeddings=ALIKE)
    prepare(choose("ada", "tiny"))
    async with House(IdentitiesScreen).run_test(size=size) as pilot:
        await until_seen(pilot, "woman · 3 photos · 1 run", "Photo 1 of 3 · holiday-0.jpg", "0.80")
        await pilot.press("tab", "G")
        await until_seen(pilot, "ada said yes.", "ada-1")


async def test_an_empty_library_says_what_to_do_and_the_button_does_it(home: Path) -> None:
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "Nobody is in the library yet", "Add a person (a)")
        await pilot.click("#nobody Button")
        await until_screen(pilot, AddPerson)


async def test_arrows_and_vim_keys_go_through_people_and_their_photos(home: Path) -> None:
    add_person("ada", embeddings=ALIKE)
    add_person("ben", "man")
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: clip(pilot, "reference") == "ada/references/000.png")
        for keys, place in [("l", 1), ("right", 2), ("l", 0), ("h", 2), ("left", 1)]:
            await pilot.press(keys)
            await until(
                pilot,
                lambda place=place: clip(pilot, "reference") == f"ada/references/00{place}.png",
            )
            await until(
                pilot, lambda place=place: clip(pilot, "face") == f"ada/faces/00{place}.png"
            )
        for key, name in [("j", "ben"), ("k", "ada"), ("down", "ben"), ("up", "ada")]:
            await pilot.press(key)
            await until(
                pilot, lambda name=name: clip(pilot, "reference") == f"{name}/references/000.png"
            )
        pilot.app.set_focus(None)
        await pilot.press("j")
        await until(pilot, lambda: clip(pilot, "reference").startswith("ben"))


async def test_the_mouse_chooses_people_runs_and_places(home: Path) -> None:
    add_person("ada")
    add_person("ben", "man")
    prepare(choose("ben", "tiny"))
    app = House(IdentitiesScreen)
    async with app.run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "ben")
        await pilot.click("#people", offset=(3, 3))
        await until_seen(pilot, "ben-1")
        await pilot.click("#runs", offset=(2, 0))
        await pilot.click(Navigation, offset=(8, 0))
        await until(pilot, lambda: app.went == ["ben-1", "runs"])


async def test_enter_goes_to_the_runs_and_opens_one(home: Path) -> None:
    add_person("ada")
    for _ in range(2):
        prepare(choose("ada", "tiny"))
    app = House(IdentitiesScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "2 runs")
        await pilot.press("enter", "j", "enter")
        await until(pilot, lambda: app.went == ["ada-2"])


async def test_a_person_who_comes_or_goes_on_disk_is_seen(home: Path) -> None:
    add_person("ada")
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "ada")
        add_person("ben", "man")
        await until_seen(pilot, "ben")
        Library().remove("ben")
        await until(pilot, lambda: "ben" not in seen(pilot.app))


async def test_broken_files_of_a_person_are_said_and_others_are_still_shown(home: Path) -> None:
    (add_person("ada").folder / EMBEDDINGS_FILE).write_bytes(b"rubbish")
    (add_person("ben").folder / IDENTITY_FILE).write_text("rubbish")
    (add_person("cleo").folder / EMBEDDINGS_FILE).unlink()
    add_person("dan", "man")
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(
            pilot, "embeddings.safetensors of ada is damaged.", "Restore it from a copy"
        )
        await pilot.press("j")
        await until_seen(pilot, "identity.toml")
        await pilot.press("j")
        await until_seen(pilot, "embeddings.safetensors")
        await pilot.press("j")
        await until_seen(pilot, "One photo: there is nothing to compare it with.", "dan said yes.")


async def test_a_photo_unlike_the_others_stands_out(home: Path) -> None:
    add_person("ada", embeddings=[(1.0, 0.0), (0.1, 0.995)])
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "0.10")


async def test_more_photos_than_there_is_room_for_numbers_are_shades(home: Path) -> None:
    add_person("ada", embeddings=[(1.0, number / 10) for number in range(14)])
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "██")
        await pilot.resize_terminal(120, 40)
        await until_seen(pilot, "0.61")


async def test_a_person_gets_another_name_and_so_do_their_runs(home: Path) -> None:
    add_person("ada")
    run = prepare(choose("ada", "tiny"))
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "1 run")
        await pilot.press("R")
        await until_seen(pilot, "Rename ada")
        pilot.app.screen.query_one(Input).value = "a/b"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Invalid name 'a/b' for an identity.", "Use 1 to 64 letters")
        pilot.app.screen.query_one(Input).value = "nora"
        await pilot.press("enter")
        await until_seen(pilot, "nora", "woman · 1 photo · 1 run")
    assert job_of(run).identity.name == "nora"


async def test_removing_a_person_names_what_goes_and_what_stays(home: Path) -> None:
    folder = add_person("ada").folder
    prepare(choose("ada", "tiny"))
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "1 run")
        await pilot.press("delete")
        await until_seen(
            pilot, "Delete ada?", "for good: 1 photo", "What was trained on them stays: ada-1."
        )
        await pilot.press("enter")
        assert folder.exists(), "enter, pressed too early, must delete nobody"
        await until_screen(pilot, IdentitiesScreen)
        await pilot.press("delete")
        await until_seen(pilot, "Delete ada?")
        await pilot.click("#go")
        await until_seen(pilot, "Nobody is in the library yet")
    assert not folder.exists()


async def test_n_opens_the_form_of_a_new_run_for_this_person(home: Path) -> None:
    add_person("ada")
    add_person("ben")
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "ben")
        await pilot.press("j", "n")
        await until_screen(pilot, StartScreen)
        await until(pilot, lambda: pilot.app.screen.query_one("#identity").value == "ben")  # type: ignore[attr-defined]
        await pilot.press("escape")
        await until_screen(pilot, IdentitiesScreen)


async def test_the_form_offers_pictures_as_a_path_is_typed_and_names_those_that_are_not_there(
    home: Path,
) -> None:
    async with House(AddPerson).run_test(size=(120, 40)) as pilot:
        area = await until_found(pilot, TextArea)
        offered = await until_found(pilot, OptionList, "LinesField OptionList")
        area.focus()
        area.insert(f"{SAMPLES}/be")
        await until(
            pilot, lambda: [each.id for each in offered.options] == [f"{SAMPLES}/ben-man.png"]
        )
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "," not in area.text and area.text.endswith("\n"))
        assert area.text == f"{SAMPLES}/ben-man.png\n"
        area.insert("nobody.jpg\n.\n")
        await until_seen(pilot, "nobody.jpg is not there.", ". is no file.")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Invalid name '' for an identity.")
        assert area.text.endswith("nobody.jpg\n.\n"), "what was typed is kept"


@pytest.mark.slow
async def test_a_person_is_added_by_path_and_a_refused_photo_is_explained(home: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save("blank.png")
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Nobody is in the library yet")
        await pilot.press("a")
        form = await until_screen(pilot, AddPerson)
        await until_found(pilot, Input, "#name")
        await pilot.press(*"ada")
        form.query_one(TextArea).insert("blank.png")
        await pilot.press("ctrl+r")
        await until_seen(
            pilot, "A statement of consent is required: who agreed, when, and to what."
        )
        form.query_one("#consent", Input).value = "a cartoon person"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Loading the face models…", seconds=60)
        await until_seen(pilot, "No face found in blank.png.", "Use a photo that shows", seconds=60)
        assert form.query_one("#name", Input).value == "ada", "what was typed is kept"
        form.query_one(TextArea).text = f"'{SAMPLES}/ada-woman.png'"
        await pilot.click("#go")
        await until_seen(
            pilot, "person · 1 photo · no runs", "Photo 1 of 1 · ada-woman.png", seconds=60
        )
    assert [face.picture for face in Library().get("ada").record.faces] == ["ada-woman.png"]
    assert Library().get("ada").record.consent == "a cartoon person"


@pytest.mark.slow
async def test_a_form_that_is_left_adds_nobody(home: Path) -> None:
    async with House(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "Nobody is in the library yet")
        await pilot.press("a")
        await until_found(pilot, Input, "#name")
        await pilot.press(*"ada")
        (await until_found(pilot, TextArea)).insert(f"{SAMPLES}/ada-woman.png")
        pilot.app.screen.query_one("#consent", Input).value = "a cartoon person"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Loading the face models…", seconds=60)
        await pilot.press("escape")
        await until(pilot, lambda: not list((home / "cache/jobs").iterdir()), seconds=60)
        await until(pilot, lambda: not list((home / "data/identities").iterdir()), seconds=60)


def test_keys_that_are_listed_are_those_that_work() -> None:
    actions = [binding.action.partition("(")[0] for binding in IdentitiesScreen.BINDINGS]  # type: ignore[union-attr]
    assert all(hasattr(IdentitiesScreen, f"action_{action}") for action in actions)


async def test_the_footer_tells_what_can_be_done(home: Path) -> None:
    add_person("ada")
    async with House(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "a Add", "n Train", "R Rename", "q Close")
        await pilot.click(Footer, offset=(2, 0))
        await until(pilot, lambda: isinstance(pilot.app.screen, AddPerson))
