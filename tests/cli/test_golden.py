"""Keys of `--json` output by command, and exit statuses, compared with tests/golden."""

import json
from typing import Any

from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import RunEvent, ScoresEvent, StepEvent
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, BestCheckpoint, RunFolder
from tests.golden import compare, shape
from tests.support.adapter_files import small_adapter
from tests.support.batches import clip_event, likeness_record, make_batch, write_worker
from tests.support.commands import Pv

COMMANDS = (
    "identity list",
    "identity show mara",
    "identity export mara mara.tar",
    "identity import mara.tar --name nora",
    "identity rename nora rosa",
    "identity remove rosa --yes",
    "prompts list",
    "prompts show tiny",
    "presets list",
    "presets show tiny",
    "models list",
    "models show antelopev2",
    "runs list",
    "renders list",
    "runs show mara-1",
    "runs logs mara-1",
    "runs logs mara-1 --engine",
    "runs resume mara-1",
    "runs export mara-1 adapter.safetensors",
    "verify adapter.safetensors",
    "runs average mara-1@1 mara-1@800",
    "render mara <V>_runs --dry-run",
    "render mara <V>_runs --base --dry-run",
    "cache show",
    "cache clear --yes",
    "runs remove mara-1 --yes",
)

STATUSES = {
    "runs show nobody": 4,
    "identity show nobody": 4,
    "render mara": 2,
    "render mara runs": 3,
    "render mara <V>_runs --run mara-9": 4,
    "train mara --set training.iterations=0": 2,
    "train mara --preset nothing": 4,
    "identity add mara x.png --consent yes": 3,
    "identity import nothing.tar": 4,
    "presets show nothing": 4,
    "models show nothing": 4,
    "runs pause mara-1": 2,
    "eval nothing": 4,
    "nonsense": 2,
    "render mara <V>_runs --seed x": 2,
}


def words(command: str) -> list[str]:
    return [word.replace("_", " ") if word.startswith("<V>") else word for word in command.split()]


def test_keys_of_json_output(pv: Pv, run: RunFolder) -> None:
    with EventWriter(run.events) as events:
        events.write(RunEvent(state="started", step=0))
        events.write(
            StepEvent(
                step=1,
                prompt="<V> runs",
                seed=1,
                eta=1.0,
                face_found=True,
                scalars={"loss": 0.5, "icr": 0.4, "scr": 0.1},
            )
        )
        scores = {"likeness": 0.4}
        events.write(ScoresEvent(step=1, clips=1, scores=scores, base=scores))
    for step in (1, 800):
        run.write_checkpoint(step, {ADAPTER_FILE: small_adapter(step)})
    run.write_best(BestCheckpoint(step=1, likeness=0.4))
    run.log.write_text("engine\n")
    events = [clip_event(1.0, 0, run="mara-1", step=1, likeness=likeness_record(0.5))]
    write_worker(make_batch("20261128-090000-aaaa").worker(0), State.FINISHED, events)
    found: dict[str, Any] = {}
    for command in COMMANDS:
        answer = pv(*words(command), "--json")
        assert answer.status == 0, (command, answer.err)
        found[command] = [shape(json.loads(line)) for line in answer.out.splitlines()]
    compare("cli-json", found)


def test_keys_of_errors_in_json(pv: Pv, run: RunFolder) -> None:
    compare("cli-error", {"runs show nobody": shape(pv("runs", "show", "nobody", "--json").json)})


def test_exit_statuses(pv: Pv, run: RunFolder) -> None:
    assert {command: pv(*words(command)).status for command in STATUSES} == STATUSES
