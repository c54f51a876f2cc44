"""`pv renders list`: batches of the data folder, newest first."""

from pvtool_core.store.liveness import State
from tests.support.batches import PROMPT, clip_event, make_batch, rendering_event, write_worker
from tests.support.commands import Pv


def test_batches_are_listed_newest_first(pv: Pv) -> None:
    old, new = make_batch("20261127-101500-aaaa"), make_batch("20261128-090000-bbbb", clips=2)
    events = [rendering_event(1.0), clip_event(2.0, 1), clip_event(3.0, 2, "failed")]
    write_worker(new.worker(0), State.FAILED, events, "The adapter of ada-1 is gone.")
    write_worker(old.worker(0), State.STOPPED, events[:2])
    first, second = pv("renders", "list", "--json").json["batches"]
    assert (first["batch"], first["state"], first["problem"]) == (
        new.name,
        "failed",
        "The adapter of ada-1 is gone.",
    )
    assert (first["done"], first["failed"], first["total"]) == (1, 1, 2)
    assert (first["identities"], first["prompts"], first["runs"]) == (["ada"], [PROMPT], [])
    assert (second["done"], second["total"]) == (1, 9)
    assert second["started"].startswith("2026-11-27T10:15:00")
    shown = pv("renders", "list", "--limit", "1")
    assert new.name in shown.out and old.name not in shown.out
    assert "1 older batch:" in shown.err


def test_corrupt_batch_does_not_hide_others(pv: Pv) -> None:
    make_batch("20261127-101500-aaaa")
    broken = make_batch("20261128-090000-bbbb")
    broken.items.write_text("no json\n")
    first, second = pv("renders", "list", "--json").json["batches"]
    assert (first["total"], second["total"]) == (1, 9)
    assert "items.jsonl" in first["problem"]
