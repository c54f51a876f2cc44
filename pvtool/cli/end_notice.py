"""Notify the user when a followed job ends, as `[notify]` of config.toml says."""

from pvtool.notices import terminal_signals
from pvtool.output import Output
from pvtool_core.errors import Interrupted, PvError
from pvtool_core.notifications.notice import Notice, notice_of_run
from pvtool_core.notifications.sending import notify_of_end, send
from pvtool_core.rendering.results import Outcome
from pvtool_core.settings.notify import NotifyConfig, read_notify_config
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import RunFolder


def announce_run(folder: RunFolder, output: Output, started_here: bool = True) -> None:
    """Signal the end of a run to the terminal.

    The engine itself calls command and webhook. If it was killed, the process that started it does.
    """
    notice, config = notice_of_run(folder), _config(output)
    _signal(notice, config, output)
    if notice.state == State.LOST and started_here:
        _warn(send(notice, config), output)


def announce_batch(name: str, worker: RunFolder, outcome: Outcome, output: Output) -> None:
    """Signal the end of a batch to the terminal; the name is that of its output folder.

    Command and webhook are called if no engine has done it, because the last one was killed.
    """
    error = outcome.error
    ended = State.STOPPED if isinstance(error, Interrupted) else State.FAILED
    notice = Notice(
        kind="batch",
        name=name,
        state=ended if error else State.FINISHED,
        step=outcome.total - len(outcome.failed),
        total=outcome.total,
    )
    _signal(notice, _config(output), output)
    _warn(notify_of_end(worker), output)


def _config(output: Output) -> NotifyConfig:
    try:
        return read_notify_config()
    except PvError as error:
        output.say(f"Warning: {error.message}")
        return NotifyConfig(on=())


def _signal(notice: Notice, config: NotifyConfig, output: Output) -> None:
    if notice.state in config.on:
        output.signal(terminal_signals(config.terminal, notice.text))


def _warn(problems: list[str], output: Output) -> None:
    for problem in problems:
        output.say(f"Warning: {problem}")
