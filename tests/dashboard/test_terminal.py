"""Query of the terminal before the dashboard starts."""

import io
import json
import os
import sys
from pathlib import Path
from time import sleep

import pytest

from pvtool.cli import doctor
from pvtool.terminal import Pictures, Terminal, prepare, probe
from pvtool_core.errors import UsageError
from tests.support.terminal import KITTY, XTERM, SimulatedTerminal

PROBE = """
import json, select, sys, time
from dataclasses import asdict
from pvtool.terminal import probe
started = time.perf_counter()
found = asdict(probe())
took = time.perf_counter() - started
left = bool(select.select([0], [], [], 0.3)[0])
print(json.dumps({**found, "took": took, "textual": "textual" in sys.modules, "left": left}))
"""
TYPING = """
import sys, time
from pvtool.terminal import prepare, probe
terminal = probe()
prepare(terminal)
from textual.app import App
from textual.widgets import Input
from pvtool.dashboard.driver import make_driver_class

class Typing(App):
    BINDINGS = [("ctrl+t", "quit", "End")]
    def compose(self):
        yield Input()
    def on_mount(self):
        self.exit_at = None
    def action_quit(self):
        self.exit(self.query_one(Input).value)
print(repr(Typing(driver_class=make_driver_class(terminal)).run()))
"""


def probed(terminal: SimulatedTerminal) -> dict[str, object]:
    with terminal:
        return json.loads(terminal.result())


def test_kitty_is_detected_immediately_with_cell_size_and_colours() -> None:
    found = probed(SimulatedTerminal(PROBE))
    assert (found["pictures"], found["colours"], found["cell"]) == ("kitty", "truecolor", [9, 18])
    assert found["replied"] and not found["left"] and not found["textual"]
    assert float(str(found["took"])) < 0.2


@pytest.mark.parametrize("delay", [0.15, 0.8])
def test_replies_on_a_slow_link_are_awaited_and_consumed(delay: float) -> None:
    found = probed(SimulatedTerminal(PROBE, delay=delay))
    assert found["pictures"] == "kitty" and found["replied"] and not found["left"]
    assert delay <= float(str(found["took"])) < delay + 0.4


def test_terminal_without_replies_uses_half_blocks_after_a_timeout() -> None:
    found = probed(SimulatedTerminal(PROBE, delay=None))
    assert (found["pictures"], found["colours"], found["replied"]) == ("blocks", "256", False)
    assert 1.4 < float(str(found["took"])) < 2.2


def test_kitty_graphics_without_placeholders_are_not_used() -> None:
    wezterm = {**KITTY, "\x1b[>0q": "\x1bP>|WezTerm 20240203\x1b\\"}
    old_kitty = {**KITTY, "\x1b[>0q": "\x1bP>|kitty(0.21.2)\x1b\\"}
    assert probed(SimulatedTerminal(PROBE, answers=wezterm))["pictures"] == "iterm2"
    assert probed(SimulatedTerminal(PROBE, answers=old_kitty))["pictures"] == "blocks"


SIXEL = {**XTERM, "\x1b[16t": "\x1b[6;18;9t"}


@pytest.mark.parametrize(
    ("changes", "pictures"),
    [
        ({}, "sixel"),
        ({"\x1b[?1;1;0S": "\x1b[?1;0;256S"}, "sixel"),
        ({"\x1b[?1;1;0S": "\x1b[?1;0;16S"}, "blocks"),  # too few colour registers
        ({"\x1b[16t": ""}, "blocks"),  # unknown cell size
        ({"\x1b[c": "\x1b[?64;1;14;42c"}, "blocks"),  # no attribute 4
        ({"\x1b[>0q": "\x1bP>|iTerm2 3.5.10\x1b\\"}, "iterm2"),
        ({**KITTY, "\x1b[c": "\x1b[?62;4c"}, "kitty"),
    ],
)
def test_sixel_is_used_where_the_terminal_reports_it(
    changes: dict[str, str], pictures: str
) -> None:
    found = probed(SimulatedTerminal(PROBE, answers={**SIXEL, **changes}))
    assert found["pictures"] == pictures and not found["left"]


def test_iterm2_named_by_a_variable_needs_graphics_in_the_reply() -> None:
    environ = {"LC_TERMINAL": "iTerm2"}
    for attributes, pictures in (("?62;4c", "iterm2"), ("?62c", "blocks")):  # mosh has the second
        answers = {"\x1b[c": f"\x1b[{attributes}"}
        found = probed(SimulatedTerminal(PROBE, answers=answers, environ=environ))
        assert found["pictures"] == pictures


@pytest.mark.parametrize(
    ("chosen", "cell", "pictures"),
    [("iterm2", "", "iterm2"), ("sixel", "", "blocks"), ("sixel", "\x1b[6;18;9t", "sixel")],
)
def test_chosen_protocol_needs_true_colour_and_sixel_the_cell_size(
    chosen: str, cell: str, pictures: str
) -> None:
    answers = {"\x1b[16t": cell, "\x1b[c": "\x1b[?62c"}
    found = probed(SimulatedTerminal(PROBE, answers=answers, environ={"PV_IMAGES": chosen}))
    assert found["pictures"] == pictures and found["colours"] == "truecolor"


def test_true_colour_is_detected_from_replies_and_names() -> None:
    def colours(**environ: str) -> object:
        return probed(
            SimulatedTerminal(PROBE, delay=0.0, answers={"\x1b[c": "\x1b[?62c"}, environ=environ)
        )["colours"]

    assert probed(SimulatedTerminal(PROBE, answers=XTERM))["colours"] == "truecolor"
    assert (
        probed(SimulatedTerminal(PROBE, answers={k: KITTY[k] for k in ("\x1bP$qm", "\x1b[c")}))[
            "colours"
        ]
        == "truecolor"
    )
    assert colours(TERM="alacritty") == "truecolor"
    assert colours(LC_TERMINAL="iTerm2") == "truecolor"
    assert colours(COLORTERM="24bit") == "truecolor"
    assert colours(TERM="xterm-256color") == "256"
    assert colours(TERM="xterm") == "16"


def test_no_color_is_respected_unless_it_is_empty() -> None:
    found = probed(SimulatedTerminal(PROBE, environ={"NO_COLOR": "1"}))
    assert (found["colours"], found["pictures"]) == ("none", "blocks")
    assert probed(SimulatedTerminal(PROBE, environ={"NO_COLOR": ""}))["colours"] == "truecolor"


def test_multiplexers_and_the_console_are_not_queried() -> None:
    for term in ("screen-256color", "tmux-256color", "linux"):
        with SimulatedTerminal(PROBE, environ={"TERM": term}) as terminal:
            found = json.loads(terminal.result())
            assert terminal.written == "" and found["pictures"] == "blocks"


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.8, 3.0, None])
def test_late_replies_never_reach_an_input(delay: float | None) -> None:
    with SimulatedTerminal(TYPING, answers=XTERM, delay=delay) as terminal:
        terminal.wait_for(r"\x1b\[\?1049h[\s\S]*\x1b\[\d+;\d+H")
        for character in "ab cd":
            terminal.type(character)
            if delay == 3.0:
                sleep(0.5)  # so that the reply arrives among the keys
        terminal.type("\x14")
        assert terminal.result() == "'ab cd'\n"
        assert "\x1b[?1049l" in terminal.written


def test_images_are_selected_by_argument_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PV_IMAGES", "off")
    assert probe().pictures is Pictures.OFF
    assert probe("blocks").pictures is Pictures.BLOCKS
    with pytest.raises(UsageError, match="Invalid --images 'jpeg'"):
        probe("jpeg")
    monkeypatch.setenv("PV_IMAGES", "lots")
    with pytest.raises(UsageError, match="Invalid PV_IMAGES 'lots'"):
        probe()


def test_byte_rate_depends_on_the_link_and_can_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rate(**environ: str) -> object:
        return probed(SimulatedTerminal(PROBE, environ=environ))["bytes_per_second"]

    assert rate() == 200_000
    assert rate(PV_IMAGES="sixel") == 2_000_000  # all pixels are sent with each frame
    assert rate(PV_IMAGES="sixel", SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22") == 60_000
    assert rate(SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22") == 60_000
    assert rate(SSH_CONNECTION="10.0.0.1 1 10.0.0.2 22", PV_BYTES_PER_SECOND="9000") == 9000
    monkeypatch.setenv("PV_BYTES_PER_SECOND", "0")
    with pytest.raises(UsageError, match="Invalid PV_BYTES_PER_SECOND '0'"):
        probe()


def test_images_are_off_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PV_IMAGES", raising=False)
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "__stdin__", stream)
        assert probe() == Terminal(Pictures.OFF, False, "none")


def test_prepare_sets_the_colours_and_removes_an_empty_no_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TEXTUAL_COLOR_SYSTEM", "auto")
    prepare(Terminal(Pictures.BLOCKS, False, "16"))
    assert os.environ["TEXTUAL_COLOR_SYSTEM"] == "standard" and "NO_COLOR" not in os.environ


def test_tmux_is_queried_by_its_command(tmp_path: Path) -> None:
    def found(answer: str, pixels: tuple[int, int] = (0, 0)) -> dict[str, object]:
        (tmp_path / "tmux").write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / "tmux").chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        environ = {"TMUX": f"{tmp_path}/socket,1,0", "TERM": "tmux-256color", "PATH": path}
        with SimulatedTerminal(PROBE, environ=environ, pixels=pixels) as terminal:
            result = json.loads(terminal.result())
            assert terminal.written == ""
            return result

    kitty = found("on|xterm-kitty kitty(0.42.1)|256,RGB,title")
    assert (kitty["pictures"], kitty["colours"], kitty["tmux"]) == ("kitty", "truecolor", True)
    assert found("1|xterm-ghostty ghostty 1.2.0|256,RGB")["pictures"] == "kitty"
    assert found("off|xterm-kitty kitty(0.42.1)|256,RGB")["pictures"] == "blocks"
    assert found("on|xterm-256color XTerm(390)|256,RGB")["pictures"] == "blocks"
    assert found("on|xterm-256color |256")["colours"] == "256"
    foot = found("off|foot foot(1.23.1)|256,RGB,sixel,title", pixels=(720, 432))
    assert (foot["pictures"], foot["cell"]) == ("sixel", [9, 18])
    assert found("off|foot foot(1.23.1)|256,RGB,sixel")["pictures"] == "blocks"
    assert found("")["colours"] == "256"


def test_doctor_shows_the_capabilities_of_the_terminal() -> None:
    script = "import json; from pvtool.cli import doctor; print(json.dumps(doctor.terminal()))"
    with SimulatedTerminal(script) as terminal:
        result = json.loads(terminal.result())
    assert (
        result["pictures"] == "kitty"
        and result["colours"] == "truecolor"
        and result["cell"] == "9 × 18 pixels"
    )
    assert doctor.terminal()["terminal"] in (True, False)
