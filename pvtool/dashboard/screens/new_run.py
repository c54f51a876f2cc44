"""Form for a new run: identity, preset, prompts and settings."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Select, TextArea
from textual.widgets.option_list import Option

from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.widgets.fields import Field, LinesField, Note
from pvtool.jobs.planning import plan_of, short_estimate
from pvtool.jobs.prepare import choose, prepare
from pvtool.jobs.settings import chosen_settings, option_table, style_table
from pvtool_core import supervisor
from pvtool_core.errors import PvError, SettingsError, UsageError, from_foreign
from pvtool_core.models.locate import HERE, weights_here
from pvtool_core.settings.overrides import setting_help
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import merge, to_table
from pvtool_core.store.consent_checks import require_consent
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder

PAUSE_SECONDS = 1.0
_FIELDS = {
    "identity": ("The consent of ",),
    "seed": ("training.seed", "Invalid seed"),
    "base": ("model.base_model", "model.family", "Weights not found"),
    "loras": ("model.loras", "Invalid style LoRA"),
}
"""Fields, and the beginnings of messages about them."""


@dataclass(frozen=True)
class FormInput:
    """Values of the form; None means the value of the preset."""

    identity: str | None
    preset: str | None
    bank: str | None
    seed: int | None
    sets: list[str]
    base_model: str | None
    loras: list[str]

    def options(self) -> tuple[str | None, str | None, list[str], int | None, dict[str, Any]]:
        """Return the arguments of `choose` after identity and preset."""
        return self.base_model, self.bank, self.sets, self.seed, style_table(self.loras, None, None)


@dataclass(frozen=True)
class FormCheck:
    """Preview of a run: preset, settings, weights and invalid settings."""

    preset: Preset
    settings: Settings
    weights: str
    mistakes: tuple[str, ...] = ()


class NewRunScreen(FormScreen[RunFolder]):
    """Form that creates and starts a run; returns its folder."""

    HEADING = "New run"
    VERB = "Start"
    PROGRESS = "Checking the weights and creating the run…"
    DEFAULT_CSS = """
    NewRunScreen #fields { height: 1fr; }
    NewRunScreen #form { height: 100%; max-height: 44; }
    NewRunScreen TextArea#loras { height: auto; max-height: 4; }
    NewRunScreen #estimate { display: block; height: 1; }
    """

    def __init__(self, identity: str | None = None) -> None:
        super().__init__()
        self._identity = identity
        self._suggestions: list[tuple[str, Content]] = []
        self._cancel_estimate = threading.Event()
        self._estimates: dict[tuple[Settings, int], str] = {}

    def fields(self) -> ComposeResult:
        """Yield the options of `pv train`."""
        yield Field(
            "Identity",
            Select[str]([], prompt="Select", compact=True, id="identity"),
            id="identity-field",
        )
        yield Field(
            "Preset",
            Select[str]([], prompt="default of the base model", compact=True, id="preset"),
            id="preset-field",
        )
        yield Field(
            "Prompts", Select[str]([], prompt="bank of the preset", compact=True, id="bank")
        )
        yield Field(
            "Seed",
            Input(type="integer", compact=True, id="seed", placeholder="seed of the preset"),
            id="seed-field",
        )
        yield Field(
            "Base model",
            Input(
                compact=True,
                id="base",
                placeholder="model of the preset; or a folder, file or name",
            ),
            id="base-field",
        )
        yield Field(
            "Style LoRAs",
            TextArea(compact=True, id="loras", placeholder="none; or FILE:WEIGHT, one per line"),
            id="loras-field",
        )
        lines = LinesField(
            "none; or KEY=VALUE, one per line; tab completes", next_line=False, id="sets"
        )
        yield Field("Settings", lines)

    def compose_end(self) -> ComposeResult:
        """Yield the estimate, above the buttons."""
        yield Note(id="estimate")

    async def on_mount(self) -> None:
        """Fill the selection lists."""
        identities, presets, banks, default = await asyncio.to_thread(_read_names)
        only = identities[0] if len(identities) == 1 else None
        self._fill("identity", identities, self._identity or only)
        self._fill("preset", presets, default)
        self._fill("bank", banks, None)
        if not identities:
            self.outcome.show_text("No identities yet. Add one first: press escape, 2, a.")
        self.query_one("#preset" if self._identity or only else "#identity").focus()

    def _fill(self, name: str, values: list[str], selected: str | None) -> None:
        select = self.query_one(f"#{name}", Select)
        select.set_options((value, value) for value in values)
        if selected in values:
            select.value = selected

    @on(Select.Changed)
    @on(Input.Changed)
    @on(TextArea.Changed)
    def check(self) -> None:
        """Update the preview."""
        self._cancel_estimate.set()
        self._check()

    @work(exclusive=True, group="check", exit_on_error=False)
    async def _check(self) -> None:
        try:
            entered = self.entered()
            check = await asyncio.to_thread(_check_input, entered)
        except Exception as error:
            self._show_errors([str(from_foreign(error))])
            return
        self.query_one("#preset-field", Field).note.show_text(_preview(check))
        self._show_errors(check.mistakes)
        self._estimate(entered, bool(check.mistakes))
        self._suggestions = _setting_lines(check.settings)
        self.suggest()

    def _show_errors(self, messages: Sequence[str]) -> None:
        """Show each message at its field; other settings are in the field of settings."""
        left = list(messages)
        for field, names in _FIELDS.items():
            own = [message for message in left if message.startswith(names)]
            note = self.query_one(f"#{field}-field", Field).note
            if own:
                note.show_error(PvError("\n".join(own)))
            else:
                note.show_text("")
            left = [message for message in left if message not in own]
        self.query_one(LinesField).show_problems(left)

    @work(exclusive=True, group="estimate", exit_on_error=False)
    async def _estimate(self, entered: FormInput, invalid: bool) -> None:
        """Estimate memory and time once the form has not changed for a moment."""
        note = self.query_one("#estimate", Note)
        if invalid or entered.identity is None:
            note.show_text("")
            return
        self._cancel_estimate = cancelled = threading.Event()
        note.show_text("Estimating memory and time…")
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            text = await asyncio.to_thread(self._estimated, entered.identity, entered, cancelled)
        except Exception as error:
            text = f"No estimate: {from_foreign(error).message}"
        if not cancelled.is_set():
            note.show_text(text)

    def _estimated(self, name: str, entered: FormInput, cancelled: threading.Event) -> str:
        """Return the estimate, or the kept one of the same settings. Raises PvError."""
        *_, prompts, settings = choose(name, entered.preset, *entered.options(), only_planned=True)
        key = settings, len(prompts)
        if key not in self._estimates:
            stop = lambda: cancelled.is_set() or self.closed.is_set()  # noqa: E731 - two events
            self._estimates[key] = short_estimate(plan_of(*key, stop=stop))
        return self._estimates[key]

    @on(LinesField.Changed)
    def suggest(self) -> None:
        """Suggest the settings that match the line at the cursor."""
        lines = self.query_one(LinesField)
        key = lines.line.partition("=")[0].strip()
        lines.suggest(
            [
                Option(content, id=line)
                for line, content in self._suggestions
                if key in line.partition("=")[0]
            ]
        )

    def entered(self) -> FormInput:
        """Return the values of the form. Raises UsageError for an invalid seed."""
        seed = self.query_one("#seed", Input).value
        if seed and not seed.lstrip("-").isdecimal():
            raise UsageError(f"Invalid seed {seed!r}.", "Enter a whole number.")
        return FormInput(
            identity=self._selected("identity"),
            preset=self._selected("preset"),
            bank=self._selected("bank"),
            seed=int(seed) if seed else None,
            sets=self.query_one(LinesField).entered,
            base_model=self.query_one("#base", Input).value.strip() or None,
            loras=[
                line.strip()
                for line in self.query_one("#loras", TextArea).text.splitlines()
                if line.strip()
            ],
        )

    def _selected(self, name: str) -> str | None:
        select = self.query_one(f"#{name}", Select)
        return None if select.is_blank() else str(select.value)

    def job(self) -> Callable[[], RunFolder]:
        """Return the job that creates and starts the run."""
        entered = self.entered()
        name = entered.identity
        if name is None:
            raise UsageError("No identity selected.", "Select the identity to train.")
        return lambda: self._start(name, entered)

    def _start(self, name: str, entered: FormInput) -> RunFolder:
        folder = prepare(choose(name, entered.preset, *entered.options()))
        if self.closed.is_set():
            shutil.rmtree(folder.path)
        else:
            supervisor.start(folder)
        return folder


def _read_names() -> tuple[list[str], list[str], list[str], str | None]:
    presets = Presets().names()
    try:
        default = chosen_settings()[0].name
    except PvError:  # invalid user settings: reported once a preset is selected
        default = None
    return Library().names(), presets, Banks().names(), default


def _check_input(entered: FormInput) -> FormCheck:
    """Check the values of the form. Raises PvError except for invalid settings (`mistakes`)."""
    base, _, sets, seed, style = entered.options()
    if entered.identity:
        require_consent(Library().get(entered.identity).ref)
    options = merge(option_table(model__base_model=base, training__seed=seed), style)
    try:
        preset, settings = chosen_settings(entered.preset, sets, options)
        return FormCheck(preset, settings, weights_here(settings))
    except SettingsError as error:
        preset, settings = chosen_settings(entered.preset)
        return FormCheck(preset, settings, weights_here(settings), tuple(map(str, error.mistakes)))


def _preview(check: FormCheck) -> Content:
    model, training = check.settings.model, check.settings.training
    size = f"{model.width}×{model.height}, {model.num_frames} frames"
    weights = Content.styled(
        f"Weights: {check.weights}",
        "$text-success" if check.weights == HERE else "$text-warning",
    )
    lines = [
        check.preset.description,
        f"{model.family} · {training.iterations} iterations · {size}",
        weights,
    ]
    return Content("\n").join(Content(line) if isinstance(line, str) else line for line in lines)


def _setting_lines(settings: Settings) -> list[tuple[str, Content]]:
    """Return every setting as the line that sets it and as its description; tables have no line."""
    descriptions = setting_help()
    flat = {
        f"{section}.{key}": value
        for section, keys in to_table(settings).items()
        for key, value in keys.items()
    }
    return [
        (f"{key}={_text(value)}", _describe(key, _text(value), descriptions[key]))
        for key, value in flat.items()
        if not isinstance(value, dict)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _describe(key: str, value: str, description: str) -> Content:
    return Content.assemble((key, "bold"), f" = {value}\n", (f"  {description}", "dim"))
