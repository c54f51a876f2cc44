"""Forms that add, rename and remove identities."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Checkbox, Input, Select
from textual.widgets.option_list import Option

from pvtool.dashboard.screens.forms import Confirm, FormScreen
from pvtool.dashboard.widgets.fields import Field, LinesField
from pvtool.dashboard.widgets.identity_list import IdentityItem
from pvtool.jobs.prepare import add_identity, rename_identity
from pvtool_core.errors import Interrupted, UsageError
from pvtool_core.paths import user_path
from pvtool_core.settings.jobs import Noun
from pvtool_core.store.consent_record import CONSENT_EXAMPLE, SCOPES, Statement
from pvtool_core.store.events import Event, StageEvent
from pvtool_core.store.identities import Library

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_SUGGESTIONS = 200


class AddIdentity(FormScreen[str]):
    """Form that adds an identity from the paths of photos; returns its name."""

    HEADING = "Add identity"
    VERB = "Add"
    PROGRESS = "Starting…"

    def fields(self) -> ComposeResult:
        """Yield the options of `pv identity add`."""
        nouns = Select.from_values(
            Noun.__args__, value="person", allow_blank=False, compact=True, id="noun"
        )
        yield Field("Name", Input(compact=True, id="name", placeholder="name in the library"))
        yield Field("Class noun", nouns, "Word for the identity in prompts.")
        yield Field(
            "Face",
            Input(
                type="integer",
                compact=True,
                id="face",
                placeholder="position from the left, if a photo has several faces",
            ),
        )
        yield Field(
            "Consent",
            Input(compact=True, id="consent", placeholder=CONSENT_EXAMPLE),
            "Required: who agreed, when, and to what. Stored with the photos.",
        )
        scopes = Select.from_values(
            SCOPES, value="private", allow_blank=False, compact=True, id="scope"
        )
        yield Field(
            "Scope",
            scopes,
            "Clips are shown to nobody else (private), in evaluations (tests), or published.",
        )
        yield Field("Adult", Checkbox("The person is an adult", compact=True, id="adult"))
        yield Field(
            "Expires",
            Input(compact=True, id="expires", placeholder="never; or the last day, as 2027-05-03"),
        )
        yield Field(
            "Photos",
            LinesField("path of a photo, one per line", next_line=True, id="photos"),
        )

    def on_mount(self) -> None:
        """Suggest the files of the current folder."""
        self._check("", [])

    @on(LinesField.Changed)
    def check(self, event: LinesField.Changed) -> None:
        """Show missing files, and completions of the path at the cursor."""
        self._check(event.line, event.lines.entered)

    @work(exclusive=True, group="check", exit_on_error=False)
    async def _check(self, line: str, entered: list[str]) -> None:
        options, problems = await asyncio.to_thread(
            lambda: (_completions(line), _problems(entered, line))
        )
        self.query_one(LinesField).suggest(options)
        self.query_one(LinesField).show_problems(problems)

    def job(self) -> Callable[[], str]:
        """Return the job that enrolls the identity from the entered photos."""
        name, face = (
            self.query_one("#name", Input).value.strip(),
            self.query_one("#face", Input).value,
        )
        noun = str(self.query_one("#noun", Select).value)
        consent = Statement(
            text=self.query_one("#consent", Input).value,
            adult=self.query_one("#adult", Checkbox).value,
            scope=str(self.query_one("#scope", Select).value),
            expires=self.query_one("#expires", Input).value.strip(),
        )
        photos = [_path(line) for line in self.query_one(LinesField).entered]
        if not photos:
            raise UsageError("No photo given.", "Enter at least one path, one per line.")
        if face and not face.isdecimal():
            raise UsageError(
                f"Invalid face {face!r}.",
                "Enter its position from the left, starting at 1, or leave the field empty.",
            )
        return lambda: (
            add_identity(name, photos, noun, int(face or 0), consent, None, self._on_event).name
        )

    def _on_event(self, event: Event) -> None:
        """Show the progress, or interrupt the job if the form is closed.

        Called in the job's thread.
        """
        if self.closed.is_set():
            raise Interrupted("The form was closed.")
        if isinstance(event, StageEvent):
            self.app.call_from_thread(self.outcome.show_text, _progress(event))


def _progress(event: StageEvent) -> str:
    if event.done is not None:
        return f"Detecting the face in photo {event.done + 1} of {event.total}…"
    return "Loading the face models…"


def _path(line: str) -> Path:
    """Return the path in a line, without quotes and with `~` expanded.

    Terminals quote the paths of dropped files.
    """
    return user_path(line.strip().strip("'\""))


def _problems(entered: list[str], line: str) -> list[str]:
    """Return the problems of all paths except the one at the cursor."""
    wrong = [path for path in entered if path != line.strip() and not _path(path).is_file()]
    return [f"{'Not a file' if _path(path).exists() else 'Not found'}: {path}" for path in wrong]


def _completions(line: str) -> list[Option]:
    """Return the folders and images that start with the line."""
    typed = line.strip().strip("'\"")
    folder, prefix = (
        (user_path(typed), "") if typed.endswith("/") else (_path(typed).parent, _path(typed).name)
    )
    try:
        found = sorted(
            path for path in folder.iterdir() if path.name.lower().startswith(prefix.lower())
        )
    except OSError:
        return []
    wanted = [path for path in found if prefix.startswith(".") or not path.name.startswith(".")]
    return [
        _completion(path)
        for path in wanted
        if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    ][:MAX_SUGGESTIONS]


def _completion(path: Path) -> Option:
    name = f"{path.name}/" if path.is_dir() else path.name
    return Option(
        Content.styled(name, "dim" if path.is_dir() else ""),
        id=f"{path}/" if path.is_dir() else str(path),
    )


class RenameIdentity(FormScreen[str]):
    """Form that renames an identity; returns the new name."""

    VERB = "Rename"

    def __init__(self, identity: IdentityItem) -> None:
        super().__init__()
        self._identity = identity
        self.HEADING = f"Rename {identity.name}"

    def fields(self) -> ComposeResult:
        """Yield the field for the new name."""
        note = (
            "Its runs refer to the new name; names of runs do not change."
            if self._identity.runs
            else ""
        )
        yield Field("New name", Input(self._identity.name, compact=True, id="name"), note)

    def on_input_submitted(self) -> None:
        """Submit the form on enter: it has a single field."""
        self.action_submit()

    def job(self) -> Callable[[], str]:
        """Return the job that renames the identity, also in its runs."""
        new = self.query_one("#name", Input).value.strip()
        return lambda: rename_identity(self._identity.name, new).name


def confirm_identity_removal(identity: IdentityItem) -> Confirm:
    """Return the dialog that deletes an identity after confirmation."""
    lines = [
        f"This permanently deletes {identity.photo_count}, face crops and embeddings of "
        f"{identity.name}.",
        f"Folder: {identity.folder}",
    ]
    if identity.runs:
        lines.append(f"Runs of this identity are kept: {', '.join(identity.runs)}.")
    return Confirm(
        f"Delete {identity.name}?",
        lines,
        "Delete",
        lambda: Library().remove(identity.name),
        identity.name,
    )
