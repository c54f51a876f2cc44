"""Form for the note and the tags of a run."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.widgets import Input

from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.widgets.fields import Field
from pvtool_core.store.runs import RunFolder, RunNotes


class NotesForm(FormScreen[str]):
    """Form that edits the notes of a run; returns the name of the run."""

    VERB = "Save"

    def __init__(self, folder: RunFolder, notes: RunNotes) -> None:
        super().__init__()
        self._folder, self._notes = folder, notes
        self.HEADING = f"Notes of {folder.name}"

    def fields(self) -> ComposeResult:
        """Yield the note and the tags."""
        yield Field("Note", Input(self._notes.note, id="note", compact=True))
        tags = Input(" ".join(self._notes.tags), id="tags", compact=True)
        yield Field("Tags", tags, "Separated by spaces; the filter tag:WORD finds them.")

    def on_input_submitted(self, _: Input.Submitted) -> None:
        self.action_submit()

    def job(self) -> Callable[[], str]:
        """Return the job that writes the notes."""
        note = self.query_one("#note", Input).value.strip()
        tags = dict.fromkeys(self.query_one("#tags", Input).value.replace("#", " ").split())

        def write() -> str:
            self._folder.write_notes(RunNotes(note=note, tags=tuple(tags)))
            return self._folder.name

        return write
