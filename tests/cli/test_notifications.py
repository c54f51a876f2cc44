"""Notifications when a run or a batch ends: command, webhook and terminal."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from pvtool.cli.end_notice import announce_run
from pvtool.notices import terminal_signals
from pvtool.output import Output
from pvtool_core import __main__ as engine
from pvtool_core.batches.folder import BatchFolder, write_items
from pvtool_core.notifications import sending
from pvtool_core.notifications.sending import notify_of_end
from pvtool_core.settings.jobs import RenderItem
from pvtool_core.store.event_log import EventWriter, records_of
from pvtool_core.store.events import ClipEvent
from pvtool_core.store.liveness import Heartbeat, State
from pvtool_core.store.runs import ExitRecord, RunFolder
from tests.support.chat_server import ChatServer, Scripted, serve_chat
from tests.support.commands import Pv

_SAVE = 'printf "%s\\n" "$PV_TEXT" >> "$0"; cat >> "$0"; echo >> "$0"'


@pytest.fixture
def hook() -> Generator[ChatServer]:
    """Run a server for the webhook."""
    with serve_chat() as server:
        server.answers = [Scripted(b"ok")]
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "TIMEOUT", 60.0)


def configure(home: Path, **settings: Any) -> None:
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config/config.toml").write_text(tomli_w.dumps({"notify": settings}))


def saving(home: Path) -> list[str]:
    """Return a command that saves what it receives."""
    return ["sh", "-c", _SAVE, str(home / "calls")]


def calls(home: Path) -> list[tuple[str, Any]]:
    """Return text and JSON of each call of the command."""
    path = home / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(text, json.loads(sent)) for text, sent in zip(lines[::2], lines[1::2], strict=True)]


def warnings_of(folder: RunFolder) -> list[str]:
    return [record["message"] for record in records_of(folder.events, "warning")]


def address(hook: ChatServer) -> str:
    return f"{hook.endpoint}/chat/completions?token=secret"


def test_the_engine_calls_command_and_webhook_without_a_front_end(
    home: Path, run: RunFolder, hook: ChatServer
) -> None:
    configure(home, command=saving(home), webhook=address(hook))
    assert engine.main([str(run.path)]) == 4
    ((text, sent),) = calls(home)
    sent.pop("time")
    assert sent == {
        "run": "mara-1",
        "state": "failed",
        "step": 800,
        "total": 800,
        "reason": "Weights not found: base.",
        "likeness": None,
        "text": "mara-1 failed at step 800 of 800. Weights not found: base.",
    }
    assert text == sent["text"]
    (request,) = hook.requests
    assert {key: request[key] for key in sent} == sent
    assert warnings_of(run) == []


def test_reasons_with_paths_are_replaced_by_the_kind_of_error(home: Path, run: RunFolder) -> None:
    configure(home, command=saving(home))
    reason = "The disk is full while writing /home/ann/x."
    run.write_exit(ExitRecord(status=5, state=State.FAILED, reason=reason, kind="DiskFull"))
    assert notify_of_end(run) == []
    assert calls(home)[0][1]["reason"] == "DiskFull"


def test_failures_to_notify_become_warnings_without_the_secret(
    home: Path, run: RunFolder, hook: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.answers = [Scripted(b"gone", 410)]
    configure(home, command=["no-such-program"], webhook=address(hook))
    assert engine.main([str(run.path)]) == 4
    host = hook.endpoint.removesuffix("/v1")
    assert warnings_of(run) == [
        "Not notified: command 'no-such-program' not found.",
        f"Not notified: {host} answered 410.",
    ]
    monkeypatch.setattr(sending, "TIMEOUT", 0.2)
    configure(home, command=["sleep", "60"], webhook="http://127.0.0.1:9/secret")
    assert notify_of_end(run) == [
        "Not notified: command 'sleep' was killed after 0.2 seconds.",
        "Not notified: cannot reach http://127.0.0.1:9: Connection refused.",
    ]
    configure(home, command=["false"])
    assert notify_of_end(run) == ["Not notified: command 'false' ended with status 1."]


def test_only_states_and_folders_of_the_user_are_reported(
    home: Path, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home, command=saving(home), on=["stopped"])
    assert notify_of_end(run) == []
    configure(home, command=saving(home), on=["finished"])
    monkeypatch.setenv("PV_NOTIFY", "off")
    assert notify_of_end(run) == []
    monkeypatch.delenv("PV_NOTIFY")
    copy = RunFolder(tmp_path / "stranger/mara-1")
    copy.path.mkdir(parents=True)
    notify = tomli_w.dumps({"notify": {"command": saving(home)}})
    copy.config.write_text(run.config.read_text() + notify)
    assert engine.main([str(copy.path)]) == 2
    (home / "config/config.toml").unlink()
    run.config.write_text(run.config.read_text() + notify)
    assert engine.main([str(run.path)]) == 2
    assert calls(home) == []


def test_the_last_engine_of_a_batch_notifies_once(home: Path, run: RunFolder) -> None:
    configure(home, command=saving(home))
    batch = BatchFolder(home / "data/batches/20260101-000000-abcd")
    items = [
        RenderItem(identity="mara", prompt="<V> runs", seed=seed, setup=0, clip=f"/out/{seed}")
        for seed in range(2)
    ]
    for number in range(2):
        worker = batch.worker(number)
        worker.path.mkdir(parents=True)
        worker.config.write_text(run.config.read_text())
        with EventWriter(worker.events) as events:
            events.write(ClipEvent(path=f"/out/{number}", status="done"))
    write_items(batch.items, items)
    ended = ExitRecord(status=0, state=State.FINISHED)
    batch.worker(0).write_exit(ended)
    with Heartbeat(batch.worker(1).status):
        assert notify_of_end(batch.worker(0)) == []
        assert calls(home) == []
        batch.worker(1).write_exit(ended)
        for number in range(2):
            assert notify_of_end(batch.worker(number)) == []
    ((text, sent),) = calls(home)
    assert text == f"{batch.name} finished at clip 2 of 2."
    assert sent["batch"] == batch.name


def test_a_killed_engine_is_reported_by_the_command_that_started_it(
    home: Path, run: RunFolder
) -> None:
    configure(home, command=saving(home))
    run.exit.unlink()
    dead = {"state": "running", "step": 7, "total": 800, "time": 1.0, "pid": 2**22 + 1}
    dead |= {"started": 1.0, "boot": "another", "host": "nowhere"}
    run.status.write_text(json.dumps(dead))
    announce_run(run, Output(), started_here=False)
    assert calls(home) == []
    announce_run(run, Output())
    assert calls(home)[0][0] == "mara-1 lost its engine process at step 7 of 800."


def test_terminal_signals_are_escaped_and_pass_through_tmux(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    assert terminal_signals(["bell", "osc9", "osc777"], "a\x1b]0;x\a") == [
        "\a",
        "\x1b]9;a\\x1b]0,x\\x07\x1b\\",
        "\x1b]777;notify;pv;a\\x1b]0,x\\x07\x1b\\",
    ]
    monkeypatch.setenv("TMUX", "x")
    assert terminal_signals(["osc9"], "a") == ["\x1bPtmux;\x1b\x1b]9;a\x1b\x1b\\\x1b\\"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"terminal": ["gong"]}, "notify.terminal[0]: is 'gong', not one of bell, osc9, osc777"),
        ({"webhook": "file:///etc"}, "notify.webhook: is not a valid http or https address"),
        ({"comand": ["x"]}, "notify.comand: unknown setting; did you mean 'command'?"),
    ],
)
def test_invalid_settings_are_reported_before_training(
    pv: Pv, home: Path, mara: str, settings: dict[str, Any], problem: str
) -> None:
    configure(home, **settings)
    answer = pv("train", mara)
    assert answer.status == 2
    assert problem in answer.err
