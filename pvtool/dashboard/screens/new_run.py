"""The form of a new run: whom, on what, with which prompts and settings."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Select, TextArea
from textual.widgets.option_list import Option

from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.widgets.fields import Field, LinesField
from pvtool.jobs.prepare import choose, prepare
from pvtool.jobs.settings import chosen_settings, option_table, style_table
from pvtool_core import supervisor
from pvtool_core.errors import PvError, SettingsError, UsageError, from_foreign
from pvtool_core.models.locate import HERE, weights_here
from pvtool_core.settings.overrides import setting_help
from pvtool_core.settings.presets import Preset, Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import merge, to_table
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import Banks
from pvtool_core.store.runs import RunFolder


@dataclass(frozen=True)
class FormInput:
    """What the form holds. None leaves it to the preset."""

    identity: str | None
    preset: str | None
    bank: str | None
    seed: int | None
    sets: list[str]
    base_model: str | None
    loras: list[str]

    def choice(self) -> tuple[str | None, str | None, list[str], int | None, dict[str, Any]]:
        """As `choose` takes it, but for the identity."""
        return self.base_model, self.bank, self.sets, self.seed, style_table(self.loras, None, None)


@dataclass(frozen=True)
class FormCheck:
    """What is known of a choice before it is made."""

    preset: Preset
    settings: Settings
    weights: str
    mistakes: tuple[str, ...] = ()


class StartScreen(FormScreen[RunFolder]):
    """Chooses a run, makes its folder and starts its engine; gives the folder."""

    HEADING = "Train somebody"
    VERB = "Start"
    DOING = "Reading the weights and making the run…"
    DEFAULT_CSS = """
    StartScreen #fields { height: 1fr; }
    StartScreen #form { height: 100%; max-height: 44; }
    StartScreen TextArea#loras { height: auto; max-height: 4; }
    """

    def __init__(self, identity: str | None = None) -> None:
        super().__init__()
        self._identity = identity
        self._options: list[tuple[str, Content]] = []

    def fields(self) -> ComposeResult:
        """Everything that `pv train` can be told."""
        yield Field("Person", Select[str]([], prompt="Choose", compact=True, id="identity"))
        yield Field(
            "Preset",
            Select[str]([], prompt="By the base model", compact=True, id="preset"),
            id="of-preset",
        )
        yield Field("Prompts", Select[str]([], prompt="The preset's bank", compact=True, id="bank"))
        yield Field(
            "Seed", Input(type="integer", compact=True, id="seed", placeholder="the preset's")
        )
        yield Field(
            "Base model",
            Input(compact=True, id="base", placeholder="the preset's; or a folder, a file, a name"),
        )
        yield Field(
            "Style LoRAs",
            TextArea(compact=True, id="loras", placeholder="none; or FILE:WEIGHT, one a line"),
        )
        lines = LinesField("none; or KEY=VALUE, one a line", next_line=False, id="sets")
        yield Field("Settings", lines)

    async def on_mount(self) -> None:
        """Offer what there is."""
        people, presets, banks, usual = await asyncio.to_thread(_offers)
        self._offer("identity", people, self._identity)
        self._offer("preset", presets, usual)
        self._offer("bank", banks, None)
        if not people:
            self.outcome.say(
                "Nobody is in the library yet: add a person first, with `a` among the identities."
            )
        self.query_one("#preset" if self._identity else "#identity").focus()

    def _offer(self, name: str, words: list[str], chosen: str | None) -> None:
        select = self.query_one(f"#{name}", Select)
        select.set_options((word, word) for word in words)
        if chosen in words:
            select.value = chosen

    @on(Select.Changed)
    @on(Input.Changed)
    @on(TextArea.Changed)
    def foresee(self) -> None:
        """See anew what the choice comes to."""
        self._foresee()

    @work(exclusive=True, group="foresee", exit_on_error=False)
    async def _foresee(self) -> None:
        try:
            outlook = await asyncio.to_thread(_outlook, self.typed())
        except Exception as error:
            self.query_one("#of-preset", Field).note.complain(from_foreign(error))
            return
        self.query_one("#of-preset", Field).note.say(_words(outlook))
        self.query_one(LinesField).complain(outlook.mistakes)
        self._options = _settings(outlook.settings)
        self.narrow()

    @on(LinesField.Changed)
    def narrow(self) -> None:
        """Offer the settings that the line under the cursor may mean."""
        lines = self.query_one(LinesField)
        key = lines.line.partition("=")[0].strip()
        lines.offer(
            [
                Option(words, id=line)
                for line, words in self._options
                if key in line.partition("=")[0]
            ]
        )

    def typed(self) -> FormInput:
        """What the form holds now. Raises UsageError for a seed that is no number."""
        seed = self.query_one("#seed", Input).value
        if seed and not seed.lstrip("-").isdecimal():
            raise UsageError(f"The seed {seed!r} is no number.", "Give a whole number.")
        return FormInput(
            identity=self._chosen("identity"),
            preset=self._chosen("preset"),
            bank=self._chosen("bank"),
            seed=int(seed) if seed else None,
            sets=self.query_one(LinesField).written,
            base_model=self.query_one("#base", Input).value.strip() or None,
            loras=[
                line.strip()
                for line in self.query_one("#loras", TextArea).text.splitlines()
                if line.strip()
            ],
        )

    def _chosen(self, name: str) -> str | None:
        select = self.query_one(f"#{name}", Select)
        return None if select.is_blank() else str(select.value)

    def job(self) -> Callable[[], RunFolder]:
        """Make the run and start its engine."""
        typed = self.typed()
        name = typed.identity
        if name is None:
            raise UsageError("Nobody is chosen.", "Choose who is to be trained.")
        return lambda: self._begin(name, typed)

    def _begin(self, name: str, typed: FormInput) -> RunFolder:
        folder = prepare(choose(name, typed.preset, *typed.choice()))
        if self.left.is_set():
            shutil.rmtree(folder.path)
        else:
            supervisor.start(folder)
        return folder


def _offers() -> tuple[list[str], list[str], list[str], str | None]:
    presets = Presets().names()
    try:
        usual = chosen_settings()[0].name
    except (
        PvError
    ):  # the user's own settings are wrong: what they are is said once a preset is chosen
        usual = None
    return Library().names(), presets, Banks().names(), usual


def _outlook(typed: FormInput) -> FormCheck:
    """Raises PvErrors that are not about the settings: those are its `mistakes`."""
    base, _, sets, seed, style = typed.choice()
    options = merge(option_table(model__base_model=base, training__seed=seed), style)
    try:
        preset, settings = chosen_settings(typed.preset, sets, options)
        return FormCheck(preset, settings, weights_here(settings))
    except SettingsError as error:
        preset, settings = chosen_settings(typed.preset)
        return FormCheck(preset, settings, weights_here(settings), tuple(map(str, error.mistakes)))


def _words(outlook: FormCheck) -> Content:
    model, training = outlook.settings.model, outlook.settings.training
    size = f"{model.width}×{model.height}, {model.num_frames} frames"
    weights = Content.styled(
        f"Weights: {outlook.weights}",
        "$text-success" if outlook.weights == HERE else "$text-warning",
    )
    lines = [
        outlook.preset.description,
        f"{model.family} · {training.iterations} iterations · {size}",
        weights,
    ]
    return Content("\n").join(Content(line) if isinstance(line, str) else line for line in lines)


def _settings(settings: Settings) -> list[tuple[str, Content]]:
    """Every setting as the line that would set it, and as words about it; not tables, which have no such line."""
    meanings = setting_help()
    flat = {
        f"{section}.{key}": value
        for section, keys in to_table(settings).items()
        for key, value in keys.items()
    }
    return [
        (f"{key}={_text(value)}", _about(key, _text(value), meanings[key]))
        for key, value in flat.items()
        if not isinstance(value, dict)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(key: str, value: str, meaning: str) -> Content:
    return Content.assemble((key, "bold"), f" = {value}\n", (f"  {meaning}", "dim"))
