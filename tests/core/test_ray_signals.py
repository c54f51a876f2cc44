"""An engine that drives a Ray cluster handles SIGTERM like any other."""

import signal
from typing import Any

import pytest
import ray

from pvtool_core.ray_session import connect


def test_ray_does_not_replace_the_handler_of_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: Any, **__: Any) -> None:
        signal.signal(
            signal.SIGTERM, signal.SIG_DFL
        )  # like ray.init, which sets a handler that exits

    def ours(*_: Any) -> None:
        pass

    monkeypatch.setattr(ray, "init", init)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        session = connect("")
        assert signal.getsignal(signal.SIGTERM) is ours
        assert session is not None
        session.rmdir()
    finally:
        signal.signal(signal.SIGTERM, before)
