"""Run jobs like an engine."""

from pathlib import Path

import pytest

from tests.support.render_jobs import Engine


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> Engine:
    monkeypatch.setenv(
        "PV_HOME", str(models / "home")
    )  # one trajectory cache for all tests, like that of a user's jobs
    return Engine(tmp_path / "jobs")
