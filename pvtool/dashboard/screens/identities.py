"""Screen of the identities in the library: photos, similarities, consent and runs."""

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Label, OptionList, Static
from textual.widgets.option_list import Option

from pvtool.dashboard import keys
from pvtool.dashboard.messages import OpenRun
from pvtool.dashboard.screens.base import PollingScreen
from pvtool.dashboard.screens.identity_forms import (
    AddIdentity,
    RenameIdentity,
    confirm_identity_removal,
)
from pvtool.dashboard.screens.new_run import NewRunScreen
from pvtool.dashboard.widgets.choices import Choices
from pvtool.dashboard.widgets.fields import Note
from pvtool.dashboard.widgets.identity_list import (
    IdentityItem,
    ReferencePhoto,
    SimilarityMatrix,
    SimilarityTable,
)
from pvtool.dashboard.widgets.key_footer import KeyFooter
from pvtool.dashboard.widgets.navigation import HEIGHTS, WIDTHS, Navigation
from pvtool.dashboard.widgets.picture import ClipView
from pvtool_core.errors import PvError, from_foreign
from pvtool_core.paths import identities_dir, runs_dir
from pvtool_core.store.consent_record import Consent
from pvtool_core.store.identities import IDENTITY_FILE, Identity, Library
from pvtool_core.store.run_index import RunIndex
from pvtool_core.store.runs import RunFolder


class IdentityDetails(VerticalScroll, can_focus=True, inherit_bindings=False):
    """Details of an identity; left and right are for its photos."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "scroll_down", show=False),
        Binding("k,up", "scroll_up", show=False),
        Binding("pagedown", "page_down", show=False),
        Binding("pageup", "page_up", show=False),
        Binding("g,home", "scroll_home", show=False),
        Binding("G,end", "scroll_end", show=False),
    ]


class IdentitiesScreen(PollingScreen):
    """List of the identities and details of the selected one."""

    AUTO_FOCUS = "#identities"

    DEFAULT_CSS = """
    IdentitiesScreen #identities { width: 31; height: 100%; padding: 1 1 0 1; }
    IdentitiesScreen #identities { border-right: solid $panel; }
    IdentitiesScreen.-narrow #both { layout: vertical; }
    IdentitiesScreen.-narrow #identities { width: 100%; height: 30%; }
    IdentitiesScreen.-narrow #identities { border-right: none; border-bottom: solid $panel; }
    IdentitiesScreen.-wide #identities { width: 36; }
    IdentitiesScreen #details { padding: 1 2 0 2; scrollbar-size-vertical: 1; }
    IdentitiesScreen #summary { height: auto; }
    IdentitiesScreen #pictures { height: 18vw; }
    IdentitiesScreen #pictures ClipView { width: 1fr; height: 1fr; }
    IdentitiesScreen #reference { margin-right: 1; }
    IdentitiesScreen #caption { color: $text-muted; height: auto; }
    IdentitiesScreen #facts { height: auto; }
    IdentitiesScreen .heading { color: $text-muted; text-style: bold; margin-top: 1; }
    IdentitiesScreen #runs { height: auto; max-height: 12; }
    IdentitiesScreen.-wide #beside { layout: horizontal; height: auto; }
    IdentitiesScreen.-wide #photo { width: 1fr; max-width: 200; }
    IdentitiesScreen.-wide #facts { width: 60; margin-left: 3; }
    IdentitiesScreen.-wide #pictures { height: 17vw; }
    IdentitiesScreen.-short #pictures { height: 11; }
    IdentitiesScreen #beside, IdentitiesScreen #photo { height: auto; }
    IdentitiesScreen #empty { padding: 1 2; height: auto; display: none; }
    IdentitiesScreen #empty Button { margin-top: 1; }
    IdentitiesScreen.-empty #empty { display: block; }
    IdentitiesScreen.-empty #identities, IdentitiesScreen.-empty #details { display: none; }
    """
    BINDINGS = keys.IDENTITIES
    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self._identities: dict[str, IdentityItem] = {}
        self._file_times: object = None
        self._wanted: str | None = None
        self._shown: IdentityItem | None = None
        self._photo_index = 0
        self._similarities: SimilarityMatrix = ()

    def compose(self) -> ComposeResult:
        """Yield the list on the left and the details on the right."""
        yield Navigation("identities")
        yield Note(id="error")
        with Vertical(id="empty"):
            yield Static("No identities yet.\n\nOne photo is enough. Photos stay on this machine.")
            yield Button("Add identity (a)", "primary", action="screen.add", compact=True)
        with Horizontal(id="both"):
            yield Choices(id="identities")
            with IdentityDetails(id="details"):
                yield Static(id="summary")
                with Vertical(id="beside"):
                    yield from self._compose_photo()
                    yield from self._compose_facts()
        yield KeyFooter()

    def _compose_photo(self) -> ComposeResult:
        with Vertical(id="photo"):
            with Horizontal(id="pictures"):
                yield ClipView("Photo", id="reference")
                yield ClipView("Face", id="face")
            yield Static(id="caption")

    def _compose_facts(self) -> ComposeResult:
        with Vertical(id="facts"):
            yield Label("Similarity of the photos", classes="heading")
            yield Note(id="similarity-error")
            yield SimilarityTable()
            yield Label("Consent", classes="heading")
            yield Static(id="consent", markup=False)
            yield Label("Runs", classes="heading")
            yield Note(id="no-runs")
            yield Choices(id="runs")

    @work(exclusive=True, group="reload", exit_on_error=False)
    async def reload(self) -> None:
        try:
            file_times = await asyncio.to_thread(_read_file_times)
            if file_times == self._file_times and not self._wanted:
                self.query_one("#error", Note).show_text("")
                return
            identities = await asyncio.to_thread(_read_identities)
        except Exception as error:
            self.query_one("#error", Note).show_error(from_foreign(error))
            return
        self._file_times = file_times
        self.query_one("#error", Note).show_text("")
        self._list(identities)

    def select(self, name: str) -> None:
        """Select an identity once the list is read."""
        self._wanted = name
        self.reload()

    def _list(self, identities: list[IdentityItem]) -> None:
        self._identities = {identity.name: identity for identity in identities}
        self.set_class(not identities, "-empty")
        self.query_one("#identities", Choices).fill(
            (identity.option() for identity in identities), self._wanted
        )
        self._wanted = None
        if not identities:
            self._shown = None

    @on(OptionList.OptionHighlighted, "#identities")
    def show(self, event: OptionList.OptionHighlighted) -> None:
        """Show the highlighted identity."""
        identity = self._identities.get(event.option.id or "")
        if identity is None or identity == self._shown:  # removed meanwhile
            return
        if self._shown is None or identity.name != self._shown.name:
            self._photo_index = 0
        self._shown, self._similarities = identity, ()
        self._show_facts(identity)
        self._show_photo()
        self._compare(identity)

    def _show_facts(self, identity: IdentityItem) -> None:
        summary = f"{identity.noun} · {identity.photo_count} · added {_day(identity.created)}"
        status = (
            (f"cannot be read: {identity.problem}", "$text-error")
            if identity.problem
            else (summary, "dim")
        )
        self.query_one("#summary", Static).update(
            Content.assemble((identity.name, "bold"), "  ", status)
        )
        self.query_one("#consent", Static).update(identity.consent_content())
        self.query_one("#no-runs", Note).show_text(
            "" if identity.runs else "No runs yet. Press n to train this identity."
        )
        self.query_one("#runs", Choices).fill(Option(Content(run), id=run) for run in identity.runs)
        self.query_one("#runs").display = bool(identity.runs)
        self.query_one("#beside").display = not identity.problem

    def _show_photo(self) -> None:
        photos = self._shown.photos if self._shown else ()
        photo = photos[self._photo_index % len(photos)] if photos else None
        self.query_one("#reference", ClipView).show(photo.reference if photo else None)
        self.query_one("#face", ClipView).show(photo.face if photo else None)
        caption = ""
        if photo:
            number = f"Photo {self._photo_index + 1} of {len(photos)}"
            caption = f"{number} · {photo.name} · face {photo.score:.2f}"
        self.query_one("#caption", Static).update(Content(caption))
        if self._similarities:
            self.query_one(SimilarityTable).show(self._similarities, self._photo_index)

    @work(exclusive=True, group="compare", exit_on_error=False)
    async def _compare(self, identity: IdentityItem) -> None:
        note = self.query_one("#similarity-error", Note)
        table = self.query_one(SimilarityTable)
        table.display = False
        if identity.problem:
            return
        try:
            self._similarities = await asyncio.to_thread(
                lambda: Library().get(identity.name).similarities()
            )
        except Exception as error:
            note.show_error(from_foreign(error))
            return
        note.show_text("")
        table.display = True
        table.show(self._similarities, self._photo_index)

    @on(OptionList.OptionSelected, "#identities")
    def action_open(self) -> None:
        """Focus the runs of the identity."""
        if self._shown and self._shown.runs:
            self.query_one("#runs").focus()

    @on(OptionList.OptionSelected, "#runs")
    def open_run(self, event: OptionList.OptionSelected) -> None:
        """Request to show the selected run."""
        self.post_message(OpenRun(event.option.id or ""))

    def action_photo(self, by: int) -> None:
        """Show the next or the previous photo."""
        if self._shown and self._shown.photos:
            self._photo_index = (self._photo_index + by) % len(self._shown.photos)
            self._show_photo()

    def action_down(self) -> None:
        """Select the next identity."""
        self.query_one("#identities", Choices).action_cursor_down()

    def action_first(self) -> None:
        """Select the first identity."""
        self.query_one("#identities", Choices).action_first()

    def action_last(self) -> None:
        """Select the last identity."""
        self.query_one("#identities", Choices).action_last()

    def action_up(self) -> None:
        """Select the previous identity."""
        self.query_one("#identities", Choices).action_cursor_up()

    def action_add(self) -> None:
        """Open the form that adds an identity, and show it."""
        self.app.push_screen(AddIdentity(), self._changed)

    def action_rename(self) -> None:
        """Open the form that renames this identity."""
        if self._shown:
            self.app.push_screen(RenameIdentity(self._shown), self._changed)

    def action_remove(self) -> None:
        """Ask for confirmation and delete this identity."""
        if self._shown:
            self.app.push_screen(confirm_identity_removal(self._shown), self._changed)

    def _changed(self, name: str | None) -> None:
        self._wanted = name
        self.poll()

    def action_train(self) -> None:
        """Open the form for a new run of this identity, and request to show the run."""
        self.app.push_screen(NewRunScreen(self._shown.name if self._shown else None), self._started)

    def _started(self, run: RunFolder | None) -> None:
        if run:
            self.post_message(OpenRun(run.name))


def _day(created: str) -> str:
    return created[:10]


def _read_file_times() -> list[tuple[str, int]]:
    """Return the modification times of all identities and runs."""
    files = [
        *identities_dir().glob(f"[!.]*/{IDENTITY_FILE}"),
        *runs_dir().glob("[!.]*/config.toml"),
    ]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files)


def _read_identities() -> list[IdentityItem]:
    library, runs = Library(), RunIndex().by_identity()
    return [_read_identity(library, name, runs) for name in library.names()]


def _read_identity(library: Library, name: str, runs: dict[str, list[RunFolder]]) -> IdentityItem:
    """Return an identity for the list, with the problem if its files are broken."""
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
        consent_state=identity.consent.state(),
        consent_terms=_terms(identity.consent),
        photos=_photos(identity),
        runs=tuple(run.name for run in trained),
    )


def _terms(consent: Consent) -> tuple[str, ...]:
    """Return the terms of a consent; a refusal first."""
    terms = consent.terms
    until = f"until {terms.expires}" if terms.expires else "no expiry"
    refusal = consent.refusal.removeprefix("was ")
    first = f"{refusal[0].upper()}{refusal[1:]}" if refusal else ""
    scope = f"scope {terms.scope}" if terms.scope else "scope unknown"
    adult = "adult" if terms.adult else "age unknown"
    parts = (first, scope, adult, "" if consent.state() == "expired" else until)
    return tuple(filter(None, parts))


def _photos(identity: Identity) -> tuple[ReferencePhoto, ...]:
    files = zip(identity.references, identity.faces, identity.record.faces, strict=True)
    return tuple(
        ReferencePhoto(reference=photo, face=face, name=record.picture, score=record.score)
        for photo, face, record in files
    )
