"""`pv train --plan`, with the engine that counts."""

from pathlib import Path

import pytest

from tests.support.commands import Pv


def test_a_plan_is_one_object_and_starts_nothing(pv: Pv, home: Path, mara: str) -> None:
    answer = pv(
        "train", mara, "--plan", "--tflops", "0.02", "--base-model", "models:elsewhere", "--json"
    )
    assert answer.status == 0, answer.err
    plan = answer.json
    assert plan["passes"] == {
        "iteration": 1,
        "iteration_with_gradient": 4,
        "pairs": 24,
        "cache": 384,
    }
    assert plan["peak"]["bytes"] == max(plan["phases"].values())
    assert plan["seconds"]["run"] == pytest.approx(plan["tflop"]["run"] / 0.02)
    assert (plan["assumed"], len(plan["missing"])) == (True, 1)
    assert "models:elsewhere" in answer.err
    assert not (home / "data/runs").exists()


def test_wrong_settings_are_refused_as_in_a_run(pv: Pv, mara: str) -> None:
    answer = pv("train", mara, "--plan", "--set", "training.iterations=0")
    assert (answer.status, answer.out) == (2, "")
    assert "training.iterations: is 0" in answer.err
