"""Identities screen: show, add, rename, remove and train identities."""

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Checkbox, Input, OptionList, Select, TextArea

from pvtool.dashboard.screens.identities import IdentitiesScreen
from pvtool.dashboard.screens.identity_forms import AddIdentity
from pvtool.dashboard.screens.new_run import NewRunScreen
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import Navigation
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.jobs.prepare import choose, prepare
from pvtool_core.store.consent_checks import revoke_consent
from pvtool_core.store.identities import EMBEDDINGS_FILE, IDENTITY_FILE, Library
from pvtool_core.store.summary import job_of
from tests.support.sample_data import SAMPLES, ScreenApp, add_identity
from tests.support.screen_text import screen_text, until, until_found, until_screen, until_seen

SIZES = [(80, 24), (120, 40), (300, 80)]
EMBEDDINGS = [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)]


def shown_file(pilot: Pilot[None], id: str) -> str:
    """Return the file of an identity that an image view shows."""
    path = pilot.app.screen.query_one(f"#{id}", ClipView).path
    return "" if path is None else str(path.relative_to(path.parents[2]))


@pytest.mark.parametrize("size", SIZES)
async def test_identity_is_shown_with_photos_similarity_consent_and_runs(
    home: Path, size: tuple[int, int]
) -> None:
    add_identity("ada", embeddings=EMBEDDINGS)
    prepare(choose("ada", "tiny"))
    async with ScreenApp(IdentitiesScreen).run_test(size=size) as pilot:
        await until_seen(pilot, "woman · 3 photos · 1 run", "Photo 1 of 3 · holiday-0.jpg", "0.80")
        await pilot.press("tab", "G")
        await until_seen(pilot, "ada agreed.", "ada-1")


async def test_revoked_consent_is_shown_with_its_terms(home: Path) -> None:
    add_identity("ada")
    revoke_consent("ada")
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "ada  revoked")
        await pilot.press("tab", "G")
        await until_seen(pilot, "Revoked on 2", "scope private · adult")


async def test_empty_library_offers_to_add_an_identity(home: Path) -> None:
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "No identities yet", "Add identity (a)")
        await pilot.click("#empty Button")
        await until_screen(pilot, AddIdentity)


async def test_arrow_and_vim_keys_select_identities_and_photos(home: Path) -> None:
    add_identity("ada", embeddings=EMBEDDINGS)
    add_identity("ben", "man")
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: shown_file(pilot, "reference") == "ada/references/000.png")
        for keys, place in [("l", 1), ("right", 2), ("l", 0), ("h", 2), ("left", 1)]:
            await pilot.press(keys)
            await until(
                pilot,
                lambda place=place: (
                    shown_file(pilot, "reference") == f"ada/references/00{place}.png"
                ),
            )
            await until(
                pilot, lambda place=place: shown_file(pilot, "face") == f"ada/faces/00{place}.png"
            )
        for key, name in [("j", "ben"), ("k", "ada"), ("down", "ben"), ("up", "ada")]:
            await pilot.press(key)
            await until(
                pilot,
                lambda name=name: shown_file(pilot, "reference") == f"{name}/references/000.png",
            )
        pilot.app.set_focus(None)
        await pilot.press("j")
        await until(pilot, lambda: shown_file(pilot, "reference").startswith("ben"))


async def test_mouse_selects_identities_runs_and_modes(home: Path) -> None:
    add_identity("ada")
    add_identity("ben", "man")
    prepare(choose("ben", "tiny"))
    app = ScreenApp(IdentitiesScreen)
    async with app.run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "ben")
        await pilot.click("#identities", offset=(3, 3))
        await until_seen(pilot, "ben-1")
        await pilot.click("#runs", offset=(2, 0))
        await pilot.click(Navigation, offset=(8, 0))
        await until(pilot, lambda: app.destinations == ["ben-1", "runs"])


async def test_enter_focuses_the_runs_and_opens_one(home: Path) -> None:
    add_identity("ada")
    for _ in range(2):
        prepare(choose("ada", "tiny"))
    app = ScreenApp(IdentitiesScreen)
    async with app.run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "2 runs")
        await pilot.press("enter", "j", "enter")
        await until(pilot, lambda: app.destinations == ["ada-2"])


async def test_identities_added_or_removed_on_disk_are_shown(home: Path) -> None:
    add_identity("ada")
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "ada")
        add_identity("ben", "man")
        await until_seen(pilot, "ben")
        Library().remove("ben")
        await until(pilot, lambda: "ben" not in screen_text(pilot.app))


async def test_broken_identity_shows_its_problem_and_hides_no_other(home: Path) -> None:
    (add_identity("ada").folder / EMBEDDINGS_FILE).write_bytes(b"rubbish")
    (add_identity("ben").folder / IDENTITY_FILE).write_text("rubbish")
    (add_identity("cleo").folder / EMBEDDINGS_FILE).unlink()
    add_identity("dan", "man")
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(
            pilot, "embeddings.safetensors of ada is damaged.", "Restore it from a copy"
        )
        await pilot.press("j")
        await until_seen(pilot, "identity.toml")
        await pilot.press("j")
        await until_seen(pilot, "embeddings.safetensors")
        await pilot.press("j")
        await until_seen(pilot, "Only one photo: nothing to compare.", "dan agreed.")


async def test_dissimilar_photo_shows_its_value(home: Path) -> None:
    add_identity("ada", embeddings=[(1.0, 0.0), (0.1, 0.995)])
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "0.10")


async def test_similarities_without_space_for_numbers_are_shades(home: Path) -> None:
    add_identity("ada", embeddings=[(1.0, number / 10) for number in range(14)])
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "██")
        await pilot.resize_terminal(120, 40)
        await until_seen(pilot, "0.61")


async def test_rename_updates_the_runs(home: Path) -> None:
    add_identity("ada")
    run = prepare(choose("ada", "tiny"))
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
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


async def test_removal_lists_deleted_files_and_kept_runs(home: Path) -> None:
    folder = add_identity("ada").folder
    prepare(choose("ada", "tiny"))
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "1 run")
        await pilot.press("delete")
        await until_seen(
            pilot, "Delete ada?", "permanently deletes 1 photo", "Runs of this identity are kept"
        )
        await pilot.press("enter")
        assert folder.exists(), "enter must not confirm the deletion"
        await until_screen(pilot, IdentitiesScreen)
        await pilot.press("delete")
        await until_seen(pilot, "Delete ada?")
        await pilot.click("#submit")
        await until_seen(pilot, "No identities yet")
    assert not folder.exists()


async def test_n_opens_the_new_run_form_for_the_selected_identity(home: Path) -> None:
    add_identity("ada")
    add_identity("ben")
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "ben")
        await pilot.press("j", "n")
        await until_screen(pilot, NewRunScreen)
        await until(pilot, lambda: pilot.app.screen.query_one("#identity").value == "ben")  # type: ignore[attr-defined]
        await pilot.press("escape")
        await until_screen(pilot, IdentitiesScreen)


async def test_form_completes_paths_and_reports_missing_files(
    home: Path,
) -> None:
    async with ScreenApp(AddIdentity).run_test(size=(120, 40)) as pilot:
        area = await until_found(pilot, TextArea)
        suggestions = await until_found(pilot, OptionList, "LinesField OptionList")
        area.focus()
        area.insert(f"{SAMPLES}/be")
        await until(
            pilot,
            lambda: [option.id for option in suggestions.options] == [f"{SAMPLES}/ben-man.png"],
        )
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "," not in area.text and area.text.endswith("\n"))
        assert area.text == f"{SAMPLES}/ben-man.png\n"
        area.insert("nobody.jpg\n.\n")
        await until_seen(pilot, "Not found: nobody.jpg", "Not a file: .")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Invalid name '' for an identity.")
        assert area.text.endswith("nobody.jpg\n.\n"), "entered text is kept"


@pytest.mark.slow
async def test_identity_is_added_and_a_rejected_photo_is_explained(home: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save("blank.png")
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "No identities yet")
        await pilot.press("a")
        form = await until_screen(pilot, AddIdentity)
        await until_found(pilot, Input, "#name")
        await pilot.press(*"ada")
        form.query_one(TextArea).insert("blank.png")
        await pilot.press("ctrl+r")
        await until_seen(pilot, "A consent statement is required: who agreed, when, and to what.")
        form.query_one("#consent", Input).value = "a cartoon person"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "A statement that the person is an adult is required.")
        form.query_one("#adult", Checkbox).value = True
        form.query_one("#scope", Select).value = "tests"
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Loading the face models…", seconds=60)
        await until_seen(pilot, "No face found in blank.png.", "Use a photo that shows", seconds=60)
        assert form.query_one("#name", Input).value == "ada", "entered text is kept"
        form.query_one(TextArea).text = f"'{SAMPLES}/ada-woman.png'"
        await pilot.click("#submit")
        await until_seen(
            pilot, "person · 1 photo · no runs", "Photo 1 of 1 · ada-woman.png", seconds=60
        )
    assert [face.picture for face in Library().get("ada").record.faces] == ["ada-woman.png"]
    consent = Library().get("ada").consent
    assert (consent.statement, consent.terms.scope) == ("a cartoon person", "tests")


@pytest.mark.slow
async def test_cancelled_form_adds_no_identity(home: Path) -> None:
    async with ScreenApp(IdentitiesScreen).run_test(size=(120, 40)) as pilot:
        await until_seen(pilot, "No identities yet")
        await pilot.press("a")
        await until_found(pilot, Input, "#name")
        await pilot.press(*"ada")
        (await until_found(pilot, TextArea)).insert(f"{SAMPLES}/ada-woman.png")
        pilot.app.screen.query_one("#consent", Input).value = "a cartoon person"
        pilot.app.screen.query_one("#adult", Checkbox).value = True
        await pilot.press("ctrl+r")
        await until_seen(pilot, "Loading the face models…", seconds=60)
        await pilot.press("escape")
        await until(pilot, lambda: not list((home / "cache/jobs").iterdir()), seconds=60)
        await until(pilot, lambda: not list((home / "data/identities").iterdir()), seconds=60)


def test_every_listed_key_has_an_action() -> None:
    actions = [binding.action.partition("(")[0] for binding in IdentitiesScreen.BINDINGS]  # type: ignore[union-attr]
    assert all(hasattr(IdentitiesScreen, f"action_{action}") for action in actions)


async def test_footer_lists_the_actions(home: Path) -> None:
    add_identity("ada")
    async with ScreenApp(IdentitiesScreen).run_test(size=(80, 24)) as pilot:
        await until_seen(pilot, "a Add", "n Train", "R Rename", "q Close")
        await pilot.click(KeyFooter, offset=(2, 0))
        await until(pilot, lambda: isinstance(pilot.app.screen, AddIdentity))
