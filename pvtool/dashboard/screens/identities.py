"""The people of the library: their photos, how alike these are, consent, and the runs trained on them."""

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Footer, Label, OptionList, Static
from textual.widgets.option_list import Option

from pvtool.dashboard import keys
from pvtool.dashboard.messages import OpenRun
from pvtool.dashboard.screens.base import PollingScreen
from pvtool.dashboard.screens.identity_forms import AddPerson, RenamePerson, remove_person
from pvtool.dashboard.screens.new_run import StartScreen
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.fields import Note
from pvtool.dashboard.widgets.identity_list import (
    IdentityItem,
    ReferencePhoto,
    SimilarityMatrix,
    SimilarityTable,
)
from pvtool.dashboard.widgets.navigation import HEIGHTS, WIDTHS, Navigation
from pvtool.dashboard.widgets.picture import ClipView
from pvtool_core.errors import PvError, from_foreign
from pvtool_core.paths import identities_dir, runs_dir
from pvtool_core.store.identities import IDENTITY_FILE, Identity, Library
from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import RunFolder


class About(VerticalScroll, can_focus=True, inherit_bindings=False):
    """All about one person; left and right are for their photos."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", show=False),
        Binding("k,up", "scroll_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("g,home", "scroll_home", show=False),
        Binding("G,end", "scroll_end", show=False),
    ]


class IdentitiesScreen(PollingScreen):
    """Everybody in the library, and all about one of them."""

    AUTO_FOCUS = "#people"

    DEFAULT_CSS = """
    IdentitiesScreen #people { width: 31; height: 100%; padding: 1 1 0 1; border-right: solid $panel; }
    IdentitiesScreen.-narrow #both { layout: vertical; }
    IdentitiesScreen.-narrow #people { width: 100%; height: 30%; border-right: none; border-bottom: solid $panel; }
    IdentitiesScreen.-wide #people { width: 36; }
    IdentitiesScreen #about { padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    IdentitiesScreen #who { height: auto; }
    IdentitiesScreen #pictures { height: 18vw; }
    IdentitiesScreen #pictures ClipView { width: 1fr; height: 1fr; }
    IdentitiesScreen #reference { margin-right: 1; }
    IdentitiesScreen #caption { color: $text-muted; height: auto; }
    IdentitiesScreen #words { height: auto; }
    IdentitiesScreen .heading { color: $text-muted; text-style: bold; margin-top: 1; }
    IdentitiesScreen #runs { height: auto; max-height: 12; }
    IdentitiesScreen.-wide #beside { layout: horizontal; height: auto; }
    IdentitiesScreen.-wide #seen { width: 1fr; max-width: 200; }
    IdentitiesScreen.-wide #words { width: 60; margin-left: 3; }
    IdentitiesScreen.-wide #pictures { height: 17vw; }
    IdentitiesScreen.-short #pictures { height: 11; }
    IdentitiesScreen #beside, IdentitiesScreen #seen { height: auto; }
    IdentitiesScreen #nobody { padding: 1 2; height: auto; display: none; }
    IdentitiesScreen #nobody Button { margin-top: 1; }
    IdentitiesScreen.-empty #nobody { display: block; }
    IdentitiesScreen.-empty #people, IdentitiesScreen.-empty #about { display: none; }
    """
    BINDINGS = keys.IDENTITIES
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self._people: dict[str, IdentityItem] = {}
        self._seen: object = None
        self._wanted: str | None = None
        self._shown: IdentityItem | None = None
        self._place = 0
        self._likeness: SimilarityMatrix = ()

    def compose(self) -> ComposeResult:
        """The list at the left, the person at the right."""
        yield Navigation("identities")
        yield Note(id="trouble")
        with Vertical(id="nobody"):
            yield Static(
                "Nobody is in the library yet.\n\nOne photo is enough: it stays on this machine."
            )
            yield Button("Add a person (a)", "primary", action="screen.add", compact=True)
        with Horizontal(id="both"):
            yield Choices(id="people")
            with About(id="about"):
                yield Static(id="who")
                with Vertical(id="beside"):
                    yield from self._compose_pictures()
                    yield from self._compose_words()
        yield Footer(show_command_palette=False, compact=True)

    def _compose_pictures(self) -> ComposeResult:
        with Vertical(id="seen"):
            with Horizontal(id="pictures"):
                yield ClipView("Photo", id="reference")
                yield ClipView("Face", id="face")
            yield Static(id="caption")

    def _compose_words(self) -> ComposeResult:
        with Vertical(id="words"):
            yield Label("Likeness of the photos", classes="heading")
            yield Note(id="unlike")
            yield SimilarityTable()
            yield Label("Consent", classes="heading")
            yield Static(id="consent", markup=False)
            yield Label("Runs", classes="heading")
            yield Note(id="no-runs")
            yield Choices(id="runs")

    @work(exclusive=True, group="look", exit_on_error=False)
    async def read_again(self) -> None:
        try:
            seen = await asyncio.to_thread(_traces)
            if seen == self._seen and not self._wanted:
                self.query_one("#trouble", Note).say("")
                return
            people = await asyncio.to_thread(_read_people)
        except Exception as error:
            self.query_one("#trouble", Note).complain(from_foreign(error))
            return
        self._seen = seen
        self.query_one("#trouble", Note).say("")
        self._list(people)

    def _list(self, people: list[IdentityItem]) -> None:
        self._people = {person.name: person for person in people}
        self.set_class(not people, "-empty")
        self.query_one("#people", Choices).fill(
            (person.option() for person in people), self._wanted
        )
        self._wanted = None
        if not people:
            self._shown = None

    @on(OptionList.OptionHighlighted, "#people")
    def show(self, event: OptionList.OptionHighlighted) -> None:
        """Show whom the list points at."""
        person = self._people.get(event.option.id or "")
        if person is None or person == self._shown:  # it may have gone since it was listed
            return
        if self._shown is None or person.name != self._shown.name:
            self._place = 0
        self._shown, self._likeness = person, ()
        self._show_words(person)
        self._show_photo()
        self._compare(person)

    def _show_words(self, person: IdentityItem) -> None:
        about = f"{person.noun} · {person.photos_in_words} · added {_day(person.created)}"
        who = (
            (f"cannot be read: {person.problem}", "$text-error")
            if person.problem
            else (about, "dim")
        )
        self.query_one("#who", Static).update(Content.assemble((person.name, "bold"), "  ", who))
        self.query_one("#consent", Static).update(person.consent or "Nothing was written down.")
        self.query_one("#no-runs", Note).say(
            "" if person.runs else "None yet: `n` trains this person."
        )
        self.query_one("#runs", Choices).fill(Option(Content(run), id=run) for run in person.runs)
        self.query_one("#runs").display = bool(person.runs)
        self.query_one("#beside").display = not person.problem

    def _show_photo(self) -> None:
        photos = self._shown.photos if self._shown else ()
        photo = photos[self._place % len(photos)] if photos else None
        self.query_one("#reference", ClipView).show(photo.reference if photo else None)
        self.query_one("#face", ClipView).show(photo.face if photo else None)
        words = (
            f"Photo {self._place + 1} of {len(photos)} · {photo.name} · face {photo.score:.2f}"
            if photo
            else ""
        )
        self.query_one("#caption", Static).update(Content(words))
        if self._likeness:
            self.query_one(SimilarityTable).show(self._likeness, self._place)

    @work(exclusive=True, group="compare", exit_on_error=False)
    async def _compare(self, person: IdentityItem) -> None:
        note, likeness = self.query_one("#unlike", Note), self.query_one(SimilarityTable)
        likeness.display = False
        if person.problem:
            return
        try:
            self._likeness = await asyncio.to_thread(
                lambda: Library().get(person.name).similarities()
            )
        except Exception as error:
            note.complain(from_foreign(error))
            return
        note.say("")
        likeness.display = True
        likeness.show(self._likeness, self._place)

    @on(OptionList.OptionSelected, "#people")
    def action_open(self) -> None:
        """From the person to their runs."""
        if self._shown and self._shown.runs:
            self.query_one("#runs").focus()

    @on(OptionList.OptionSelected, "#runs")
    def open_run(self, event: OptionList.OptionSelected) -> None:
        """Ask for this run to be shown."""
        self.post_message(OpenRun(event.option.id or ""))

    def action_photo(self, by: int) -> None:
        """The next photo, or the one before."""
        if self._shown and self._shown.photos:
            self._place = (self._place + by) % len(self._shown.photos)
            self._show_photo()

    def action_down(self) -> None:
        """The next person."""
        self.query_one("#people", Choices).action_cursor_down()

    def action_first(self) -> None:
        """The first one."""
        self.query_one("#people", Choices).action_first()

    def action_last(self) -> None:
        """The last one."""
        self.query_one("#people", Choices).action_last()

    def action_up(self) -> None:
        """The person before."""
        self.query_one("#people", Choices).action_cursor_up()

    def action_add(self) -> None:
        """Add a person, and show them."""
        self.app.push_screen(AddPerson(), self._changed)

    def action_rename(self) -> None:
        """Give this person another name."""
        if self._shown:
            self.app.push_screen(RenamePerson(self._shown), self._changed)

    def action_remove(self) -> None:
        """Delete this person, once that is confirmed."""
        if self._shown:
            self.app.push_screen(remove_person(self._shown), self._changed)

    def _changed(self, name: str | None) -> None:
        self._wanted = name
        self.look()

    def action_train(self) -> None:
        """Start a run of this person, and ask for it to be shown."""
        self.app.push_screen(StartScreen(self._shown.name if self._shown else None), self._started)

    def _started(self, run: RunFolder | None) -> None:
        if run:
            self.post_message(OpenRun(run.name))


def _day(created: str) -> str:
    return created[:10]


def _traces() -> list[tuple[str, int]]:
    """What changes when anybody comes, goes or is trained."""
    files = [
        *identities_dir().glob(f"[!.]*/{IDENTITY_FILE}"),
        *runs_dir().glob("[!.]*/config.toml"),
    ]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files)


def _read_people() -> list[IdentityItem]:
    library, runs = Library(), RunIndex().by_identity()
    return [_read_person(library, name, runs) for name in library.names()]


def _read_person(library: Library, name: str, runs: dict[str, list[RunFolder]]) -> IdentityItem:
    """Somebody whose files are broken is listed too, with what is wrong."""
    try:
        identity = library.get(name)
        trained = runs.get(identity.ref.fingerprint, [])
    except PvError as error:
        return IdentityItem(
            name=name, folder=library.root / name, problem=f"{error.message} {error.hint}"
        )
    except OSError as error:
        return IdentityItem(
            name=name, folder=library.root / name, problem=from_foreign(error).message
        )
    return IdentityItem(
        name=name,
        folder=identity.folder,
        noun=identity.noun,
        created=identity.record.created,
        consent=identity.record.consent,
        photos=_photos(identity),
        runs=tuple(run.name for run in trained),
    )


def _photos(identity: Identity) -> tuple[ReferencePhoto, ...]:
    files = zip(identity.references, identity.faces, identity.record.faces, strict=True)
    return tuple(
        ReferencePhoto(reference=one, face=face, name=each.picture, score=each.score)
        for one, face, each in files
    )
