"""Completion of values in the shell, through the protocol of the shells."""

from collections.abc import Callable

import pytest

from pvtool_core.evaluation.metrics import METRICS, SET_METRICS
from pvtool_core.store.runs import BestCheckpoint, RunFolder
from tests.support.commands import Pv

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(pv: Pv, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """Return what bash is offered for words, of which the last one is incomplete."""

    def offered(*words: str) -> list[str]:
        monkeypatch.setenv("_PV_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["pv", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return pv().out.splitlines()

    return offered


def test_settings_are_offered_with_their_values(complete: Complete) -> None:
    keys = complete("train", "ann", "--set", "training.gradient")
    assert keys == ["training.gradient=", "training.gradient_steps="]
    assert complete("train", "ann", "--set", "training.iter") == [
        "training.iterations=",
        "training.iterations=140",
    ]
    assert complete("train", "ann", "--set", "training.gradient", "=", "re") == ["replay"]
    assert complete("train", "ann", "--set", "model.vae_tiling", "=") == ["true", "false"]
    assert complete("train", "ann", "--set", "nothing") == []
    assert complete("train", "ann", "--objective", "dr") == ["dreambooth"]


def test_steps_of_a_run_are_offered(complete: Complete, run: RunFolder) -> None:
    run.write_best(BestCheckpoint(step=800, likeness=0.4))
    assert complete("render", "ann", "--run", "ma") == ["mara-1"]
    assert complete("render", "ann", "--run", "mara-1", "@") == ["@best", "@800"]
    assert complete("render", "ann", "--run", "mara-1", "@", "8") == ["@800"]
    assert complete("render", "ann", "--run", "mara-9", "@") == []


def test_items_of_lists_are_offered_once(complete: Complete) -> None:
    assert complete("render", "ann", "--format", "mp4,g") == ["mp4,gif"]
    assert complete("render", "ann", "--format", "gif,g") == []
    assert complete("eval", "ann-1", "--metrics", "likeness,mo") == ["likeness,motion"]


def test_all_metrics_are_offered(complete: Complete) -> None:
    offered = complete("eval", "ann-1", "--metrics", "")
    assert offered == sorted(metric.name for metric in (*METRICS, *SET_METRICS))
