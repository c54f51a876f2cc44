"""`pv train --plan`, with the engine that counts."""

import json
from pathlib import Path

import pytest

from pvtool_core.library import EMBEDDINGS_FILE, FACES_FILE, Library
from tests.cli.conftest import Pv


@pytest.fixture
def mara(home: Path) -> str:
    """An identity whose pictures nobody looks at."""
    library = Library()
    with library.staging() as staging:
        face = {"picture": "a.jpg", "reference": "references/000.png", "face": "faces/000.png"}
        found = {**face, "score": 0.9, "bbox": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5}
        for file in (face["reference"], face["face"], EMBEDDINGS_FILE):
            (staging / file).parent.mkdir(exist_ok=True)
            (staging / file).write_bytes(b"x")
        (staging / FACES_FILE).write_text(json.dumps([found]))
        library.adopt(staging, "mara", "woman", "yes")
    return "mara"


def test_a_plan_is_one_object_and_starts_nothing(pv: Pv, home: Path, mara: str) -> None:
    answer = pv("train", mara, "--plan", "--tflops", "0.02", "--base-model", "models:elsewhere", "--json")
    assert answer.status == 0, answer.err
    plan = answer.json
    assert plan["passes"] == {"iteration": 1, "iteration_with_gradient": 4, "pairs": 24, "cache": 384}
    assert plan["peak"]["bytes"] == max(plan["phases"].values())
    assert plan["seconds"]["run"] == pytest.approx(plan["tflop"]["run"] / 0.02)
    assert (plan["assumed"], len(plan["missing"])) == (True, 1)
    assert "models:elsewhere" in answer.err
    assert not (home / "data/runs").exists()


def test_wrong_settings_are_refused_as_in_a_run(pv: Pv, mara: str) -> None:
    answer = pv("train", mara, "--plan", "--set", "training.iterations=0")
    assert (answer.status, answer.out) == (2, "")
    assert "training.iterations: is 0" in answer.err
