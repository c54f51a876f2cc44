"""Send notices to the user's command and webhook, with a timeout; failures are messages."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress

from pvtool_core.batches.folder import BatchFolder
from pvtool_core.errors import PvError
from pvtool_core.notifications.notice import Notice, notice_of_batch, notice_of_run
from pvtool_core.paths import batches_dir, runs_dir
from pvtool_core.settings.notify import NotifyConfig, read_notify_config
from pvtool_core.store.runs import RunFolder
from pvtool_core.web import NETWORK_ERRORS, describe_network_error, host_of, post_json

TIMEOUT = 10.0  # seconds for the command, and for the webhook
_SENT = "notified"  # file in a batch folder: the last of several engines notifies once


def notify_of_end(folder: RunFolder) -> list[str]:
    """Notify the user that the job in a folder has ended; return a message for each failure.

    Only runs and batches of the data folder are reported; of a batch, the engine that ends last
    does it.
    """
    try:
        config = read_notify_config()
        notice = _notice_of(folder) if config.command or config.webhook else None
        return send(notice, config) if notice else []
    except PvError as error:
        return [f"Not notified: {error.message}"]
    except OSError as error:
        return [f"Not notified: {error.strerror}."]


def send(notice: Notice, config: NotifyConfig) -> list[str]:
    """Send a notice as `config` says; return a message for each failure."""
    if notice.state not in config.on:
        return []
    problems = [
        _run_command(config.command, notice) if config.command else "",
        _call_webhook(config.webhook, notice) if config.webhook else "",
    ]
    return [f"Not notified: {problem}." for problem in problems if problem]


def _notice_of(folder: RunFolder) -> Notice | None:
    parent = folder.path.resolve().parent
    if parent == runs_dir().resolve():
        return notice_of_run(folder)
    if parent.parent == batches_dir().resolve():
        batch = BatchFolder(parent)
        notice = notice_of_batch(batch)
        if notice and _claim(batch):
            return notice
    return None


def _claim(batch: BatchFolder) -> bool:
    """Return whether this process is the first to notify of the end of a batch."""
    with suppress(FileExistsError):
        (batch.path / _SENT).touch(exist_ok=False)
        return True
    return False


def _run_command(command: tuple[str, ...], notice: Notice) -> str:
    """Run the user's command, with the notice as JSON on stdin and in PV_ variables.

    Returns the problem, or "".
    """
    payload = notice.payload()
    names = {f"PV_{key.upper()}": str(payload[key]) for key in (notice.kind, "state", "text")}
    program = shutil.which(command[0])
    if program is None:
        return f"command {command[0]!r} not found"
    try:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **names},
        )
    except OSError as error:
        return f"command {command[0]!r} cannot be started: {error.strerror}"
    try:
        process.communicate(json.dumps(payload).encode(), TIMEOUT)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"command {command[0]!r} was killed after {TIMEOUT:g} seconds"
    status = process.returncode
    return f"command {command[0]!r} ended with status {status}" if status else ""


def _call_webhook(address: str, notice: Notice) -> str:
    """Post the notice as JSON; return the problem, or "". The address may contain a secret."""
    try:
        answer = post_json(address, notice.payload(), TIMEOUT)
    except NETWORK_ERRORS as error:
        return f"cannot reach {host_of(address)}: {describe_network_error(error)}"
    except ValueError:
        return f"{host_of(address)} sent an invalid answer"
    return "" if answer.status < 300 else f"{host_of(address)} answered {answer.status}"
