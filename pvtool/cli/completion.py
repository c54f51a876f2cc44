"""Completion of values in the shell: settings, runs with a step, and lists with commas."""

import io
import os
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import redirect_stdout, suppress
from dataclasses import fields

import typer

from pvtool.jobs.settings import chosen_settings
from pvtool.text import plain
from pvtool_core.errors import PvError
from pvtool_core.evaluation.metric_names import metric_names
from pvtool_core.paths import runs_dir
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.overrides import setting_keys
from pvtool_core.settings.schema import Settings
from pvtool_core.store.runs import checkpoint_step, find_run, list_runs


def setting_words(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys of settings with `=`, and values of a single one."""
    name, equals, _ = incomplete.partition("=")
    known = setting_keys()
    keys = [key for key in known if key == name or (not equals and key.startswith(name))]
    preset = ctx.params.get("preset")
    found = [] if equals else [f"{key}=" for key in keys]
    if len(keys) == 1:
        found += [f"{keys[0]}={value}" for value in _values(keys[0], preset)]
    return beginning(found, incomplete)


def _values(key: str, preset: str | None) -> list[str]:
    """Return values of a setting: its choices, or the one of the preset."""
    section, _, name = key.partition(".")
    try:
        settings = getattr(chosen_settings(preset)[1], section)
    except PvError:
        settings = getattr(Settings, section, None)
    metadata = {each.name: each.metadata for each in fields(settings)} if settings else {}
    if choices := metadata.get(name, {}).get("choices"):
        return list(choices)
    value = getattr(settings, name, None)
    if isinstance(value, bool):
        return ["true", "false"]
    return [str(value)] if isinstance(value, int | float) else []


def run_steps(incomplete: str) -> list[str]:
    """Return names of runs, and for `RUN@` its checkpoints and the best one."""
    name, at, _ = incomplete.partition("@")
    if not at:
        return beginning([run.name for run in list_runs(runs_dir())], incomplete)
    try:
        folder = find_run(runs_dir(), name)
        best = ["best"] if folder.read_best() else []
    except PvError:
        return []
    steps = [str(checkpoint_step(path)) for path in folder.checkpoint_folders()]
    return beginning([f"{name}@{step}" for step in best + steps], incomplete)


def method_names(incomplete: str) -> list[str]:
    """Return names of encoder methods."""
    return beginning([*METHODS], incomplete)


def format_words(incomplete: str) -> list[str]:
    """Return output formats after those of a list."""
    return _listed(FORMATS, incomplete)


def metric_words(incomplete: str) -> list[str]:
    """Return metrics after those of a list."""
    return _listed(metric_names(), incomplete)


def beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin so and that a terminal can show."""
    return [name for name in names if name.startswith(incomplete) and name == plain(name)]


def _listed(names: Iterable[str], incomplete: str) -> list[str]:
    """Complete the last item of a list with commas; items are not offered twice."""
    before, comma, _ = incomplete.rpartition(",")
    rest = [name for name in names if name not in before.split(",")]
    return beginning([f"{before}{comma}{name}" for name in rest], incomplete)


def complete_in_bash(app: Callable[..., object]) -> None:
    """Print completions for bash, which splits words at `@`, `=` and `:`."""
    missing = _join_words(os.environ)
    found = io.StringIO()
    with suppress(SystemExit), redirect_stdout(found):
        app(prog_name="pv")
    for line in filter(None, found.getvalue().splitlines()):  # an empty line without any
        typer.echo(line.removeprefix(missing))


def _join_words(environ: MutableMapping[str, str]) -> str:
    """Join split words of COMP_WORDS, and return the part of the last one that bash keeps.

    Bash replaces what follows a `=` or `:`, and `@` with what follows.
    """
    place = int(environ["COMP_CWORD"])
    words = environ["COMP_WORDS"].split("\n")[: place + 1]
    if len(words) <= place:  # one line, not of the script that pv installs
        return ""
    joined, kept, was_break = words[:1], "", False
    for word in words[1:]:
        is_break = bool(word) and not word.strip("@=:")
        if is_break:
            joined[-1] += word
            kept = joined[-1].removesuffix("@")
        elif was_break:
            joined[-1] += word
        else:
            joined.append(word)
            kept = ""
        was_break = is_break
    environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))
    return kept
