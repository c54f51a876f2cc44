"""The forms that add a person to the library, give them another name, and remove them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Select
from textual.widgets.option_list import Option

from pvtool.dashboard.screens.forms import Confirm, FormScreen
from pvtool.dashboard.widgets.fields import Field, LinesField
from pvtool.dashboard.widgets.identity_list import IdentityItem
from pvtool.jobs.prepare import CONSENT_EXAMPLE, add_identity, rename_identity
from pvtool_core.errors import Interrupted, UsageError
from pvtool_core.settings.jobs import Noun
from pvtool_core.store.events import Event
from pvtool_core.store.identities import Library

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MOST_OFFERED = 200


class AddPerson(FormScreen[str]):
    """Takes photos by their paths into the library; gives the person's name."""

    HEADING = "Add a person"
    VERB = "Add"
    DOING = "Starting…"

    def fields(self) -> ComposeResult:
        """Everything that `pv identity add` can be told."""
        nouns = Select.from_values(
            Noun.__args__, value="person", allow_blank=False, compact=True, id="noun"
        )
        yield Field(
            "Name", Input(compact=True, id="name", placeholder="what to call the person here")
        )
        yield Field("Class", nouns, "What prompts call the person.")
        yield Field(
            "Face",
            Input(
                type="integer",
                compact=True,
                id="face",
                placeholder="which, from the left from 1, of several",
            ),
        )
        yield Field(
            "Consent",
            Input(compact=True, id="consent", placeholder=CONSENT_EXAMPLE),
            "Required: who agreed, when, and to what. Kept with the photos.",
        )
        yield Field(
            "Photos",
            LinesField("path of a photo, one a line; one is enough", next_line=True, id="photos"),
        )

    def on_mount(self) -> None:
        """Begin with what is here."""
        self._look("", [])

    @on(LinesField.Changed)
    def look(self, event: LinesField.Changed) -> None:
        """Say which photos are not there, and what the path under the cursor may become."""
        self._look(event.line, event.lines.written)

    @work(exclusive=True, group="look", exit_on_error=False)
    async def _look(self, line: str, written: list[str]) -> None:
        options, problems = await asyncio.to_thread(
            lambda: (_completions(line), _problems(written, line))
        )
        self.query_one(LinesField).offer(options)
        self.query_one(LinesField).complain(problems)

    def job(self) -> Callable[[], str]:
        """Look at the photos in an engine, and take them in."""
        name, face = (
            self.query_one("#name", Input).value.strip(),
            self.query_one("#face", Input).value,
        )
        noun, consent = (
            str(self.query_one("#noun", Select).value),
            self.query_one("#consent", Input).value,
        )
        photos = [_path(line) for line in self.query_one(LinesField).written]
        if not photos:
            raise UsageError(
                "There is no photo.", "Give the path of at least one, each on a line of its own."
            )
        if face and not face.isdecimal():
            raise UsageError(
                f"The face {face!r} is no number.", "Count from the left from 1, or leave it empty."
            )
        return lambda: (
            add_identity(name, photos, noun, int(face or 0), consent, None, self._on_event).name
        )

    def _on_event(self, event: Event) -> None:
        """In the job's thread: show how it goes, or break it off if the form was left."""
        if self.left.is_set():
            raise Interrupted("The form was left.")
        if event["type"] == "stage":
            self.app.call_from_thread(self.outcome.say, _progress(event))


def _progress(event: Event) -> str:
    if event["stage"] == "looking":
        return f"Looking at photo {event['done'] + 1} of {event['total']}…"
    return "Loading the face models…"


def _path(line: str) -> Path:
    """A line as a path; quoted as files dropped on a terminal are, or with a tilde."""
    return Path(line.strip().strip("'\"")).expanduser()


def _problems(written: list[str], line: str) -> list[str]:
    """What is wrong with the paths, but for the one that is being typed."""
    wrong = [path for path in written if path != line.strip() and not _path(path).is_file()]
    return [f"{path} is {'no file' if _path(path).exists() else 'not there'}." for path in wrong]


def _completions(line: str) -> list[Option]:
    """Folders and pictures that begin as the line does."""
    typed = line.strip().strip("'\"")
    folder, beginning = (
        (Path(typed).expanduser(), "")
        if typed.endswith("/")
        else (_path(typed).parent, _path(typed).name)
    )
    try:
        found = sorted(
            path for path in folder.iterdir() if path.name.lower().startswith(beginning.lower())
        )
    except OSError:
        return []
    wanted = [path for path in found if beginning.startswith(".") or not path.name.startswith(".")]
    return [
        _completion(path) for path in wanted if path.is_dir() or path.suffix.lower() in PICTURES
    ][:MOST_OFFERED]


def _completion(path: Path) -> Option:
    name = f"{path.name}/" if path.is_dir() else path.name
    return Option(
        Content.styled(name, "dim" if path.is_dir() else ""),
        id=f"{path}/" if path.is_dir() else str(path),
    )


class RenamePerson(FormScreen[str]):
    """Gives a person another name."""

    VERB = "Rename"

    def __init__(self, person: IdentityItem) -> None:
        super().__init__()
        self._person = person
        self.HEADING = f"Rename {person.name}"

    def fields(self) -> ComposeResult:
        """The new name."""
        about = (
            "Runs go on under the new name, and keep their own names." if self._person.runs else ""
        )
        yield Field("New name", Input(self._person.name, compact=True, id="name"), about)

    def on_input_submitted(self) -> None:
        """Enter does it: there is nothing else to fill in."""
        self.action_go()

    def job(self) -> Callable[[], str]:
        """Rename the person, and in their runs."""
        new = self.query_one("#name", Input).value.strip()
        return lambda: rename_identity(self._person.name, new).name


def remove_person(person: IdentityItem) -> Confirm:
    """Deletes a person, once it was said what goes and what stays."""
    gone = f"{person.photos_in_words}, the face in each, and what was computed from them"
    words = [
        f"This deletes what is kept of {person.name} for good: {gone}.",
        f"It lies in {person.folder}.",
    ]
    if person.runs:
        words.append(f"What was trained on them stays: {', '.join(person.runs)}.")
    return Confirm(
        f"Delete {person.name}?",
        words,
        "Delete",
        lambda: Library().remove(person.name),
        person.name,
    )
