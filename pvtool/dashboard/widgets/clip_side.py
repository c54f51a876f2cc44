"""The selected clip of a batch: playing, with its prompt, likeness and reason of failure."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from pvtool.dashboard.follow.batch_history import clip_label, playable_path
from pvtool.dashboard.marks import prompt_content
from pvtool.dashboard.widgets.picture import ClipView
from pvtool.text import plain
from pvtool_core.batches.listing import WAITING
from pvtool_core.store.events import ClipEvent

_MAX_TEXT = 2_000


class ClipSide(Vertical):
    """Player of the selected clip above its details."""

    DEFAULT_CSS = """
    ClipSide {
        #nothing { height: 1fr; content-align: center middle; color: $text-muted; display: none; }
        #about { height: auto; max-height: 9; padding: 0 1; }
        &.-nothing ClipView { display: none; }
        &.-nothing #nothing { display: block; }
    }
    """

    def compose(self) -> ComposeResult:
        """Yield the player and the details."""
        yield ClipView()
        yield Static(id="nothing", markup=False)
        yield Static(id="about")

    @property
    def player(self) -> ClipView:
        """Return the player."""
        return self.query_one(ClipView)

    def show(self, clip: ClipEvent | None) -> None:
        """Show a clip, or nothing."""
        path = playable_path(clip) if clip and clip.files else None
        self.set_class(path is None or bool(clip and clip.reason), "-nothing")
        self.query_one("#nothing", Static).update(_absence(clip))
        if clip and path and not clip.reason:
            if self.player.path != path or not self.player.frames:
                self.player.show(path, plain(clip_label(clip)))
        else:
            self.player.show(None)
        self.query_one("#about", Static).update(_about(clip) if clip else "")


def _absence(clip: ClipEvent | None) -> str:
    if clip is None:
        return "No clip selected."
    if clip.reason:
        return "Failed."
    return "Not rendered yet." if clip.status == WAITING else "This clip has no file."


def _about(clip: ClipEvent) -> Content:
    """Return likeness, reason, prompt and run, each on its line."""
    lines = [Content.styled(plain(likeness_text(clip)), "$text-muted")] if clip.likeness else []
    if clip.reason:
        lines.append(Content.styled(plain(clip.reason[:_MAX_TEXT]), "$text-error"))
    if clip.identity:
        lines.append(prompt_content(clip.prompt[:_MAX_TEXT]))
    if origin := _origin(clip):
        lines.append(Content.styled(origin, "$text-muted"))
    return Content("\n").join(lines)


def _origin(clip: ClipEvent) -> str:
    """Return run, step and strength of a clip."""
    strength = "" if clip.strength in (1.0, None) else f"strength {clip.strength:g}"
    return plain("  ".join(filter(None, (f"{clip.run}@{clip.step}" if clip.run else "", strength))))


def likeness_text(clip: ClipEvent) -> str:
    """Return the likeness of a clip in words; empty if it was not measured."""
    if not (found := clip.likeness):
        return ""
    worst = f"lowest {found.worst.value:.2f} at {found.worst.time:.2f}\N{NO-BREAK SPACE}s"
    return f"likeness {found.mean:.2f}  faces {found.faces_found:.0%}  {worst}"
