"""Runs of a sweep in the dashboard: the filter of the list, and the tables."""

import dataclasses
import json
from typing import Any

from pvtool.dashboard.screens.sweep import SweepScreen
from pvtool_core.paths import sweeps_dir
from pvtool_core.settings.jobs import write_job
from pvtool_core.store.liveness import State
from pvtool_core.store.summary import job_of
from tests.support.run_files import MakeRun
from tests.support.screen_text import dashboard, until_screen, until_seen


def row(name: str, likeness: float) -> dict[str, Any]:
    mean = {"mean": likeness, "low": likeness - 0.1, "high": likeness + 0.1, "clips": 8}
    return {"name": name, "means": {"likeness": mean}, "differences": {}, "paper": {}}


def write_results(name: str) -> None:
    results = {
        "description": "A small sweep",
        "reference": "base model",
        "cells": {"done": 1, "total": 2},
        "missing": ["w/o SCR · ada · seed 0"],
        "metrics": {"likeness": {"label": "Likeness", "better": "higher"}},
        "skipped": {},
        "alarms": {},
        "rows": [row("base model", 0.1), row("w/ SCR", 0.42)],
        "paper": {"source": "A paper", "columns": {}, "other_rows": {}, "order": {}},
    }
    folder = sweeps_dir() / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))


async def test_a_sweep_is_a_group_of_runs_with_its_tables(make_run: MakeRun) -> None:
    for name in ("ada-1", "ben-1"):
        folder = make_run(name, 60, State.STOPPED)
    write_job(folder.config, dataclasses.replace(job_of(folder), sweeps=("mine", "other")))
    async with dashboard().run_test(size=(240, 40), notifications=True) as pilot:
        await until_seen(pilot, "2 runs", "ada-1")
        await pilot.press("slash", *"sweep:mine", "enter")
        await until_seen(pilot, "1 of 2 runs", "ben-1")
        await pilot.press("W")
        await until_screen(pilot, SweepScreen)
        await until_seen(pilot, "Sweep mine  ·  1 of 2", "No results yet.")
        write_results("mine")
        await pilot.press("l", "h")
        await until_seen(pilot, "0.420 [0.320, 0.520]", "1 of 2 cells are complete", "A paper")
        (sweeps_dir() / "mine/results.json").write_text('{"description": 3}')
        await pilot.press("l", "h")
        await until_seen(pilot, "results.json cannot be read")
        await pilot.press("escape", "escape", "g", "j", "W")
        await until_seen(pilot, "The run is of no sweep.")
