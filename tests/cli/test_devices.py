"""Unknown or missing devices are refused before a run is created."""

import json
import sys
from pathlib import Path

import pytest

from pvtool.jobs.settings import chosen_settings
from pvtool_core.api.machine import check_devices
from pvtool_core.errors import ExitStatus, InputRefused, SettingsError, UsageError
from pvtool_core.settings.schema import DEVICES
from tests.support.commands import Pv


@pytest.mark.parametrize(
    "name", ["nonsense", "cuda:", "cuda:-1", "cuda:x", "gpu", "", "CUDA", "cpu:0\n", "meta"]
)
def test_invalid_device_name_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.device"):
        chosen_settings("tiny", [f"model.device={json.dumps(name)}"])
    with pytest.raises(UsageError, match="Invalid device"):
        check_devices([name])


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:9", "mps", "xpu:1"])
def test_valid_device_names(name: str) -> None:
    assert DEVICES.fullmatch(name)


def test_no_process_is_started_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    check_devices(["auto", "cpu"])


def test_a_device_beyond_those_that_torch_sees_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # like on a machine without a GPU
    with pytest.raises(InputRefused, match="torch sees no GPU here for cuda:9") as refusal:
        check_devices(["cuda:9"])
    assert "model.device" in refusal.value.hint


def test_a_device_is_counted_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from pvtool_core.devices import problem_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [problem_of(f"cuda{number}") for number in ("", ":0", ":1")] == [None] * 3
    assert "torch sees 2" in (problem_of("cuda:2") or "")


def test_the_working_folders_modules_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("import sys; sys.exit(0)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert sys.executable
    with pytest.raises(InputRefused, match="torch sees no GPU here for cuda"):
        check_devices(["cuda"])


def test_training_on_a_missing_device_creates_no_run(
    pv: Pv, mara: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = pv("train", mara, "--set", "model.device=cuda")
    assert answer.status == ExitStatus.REFUSED
    assert "torch sees no GPU here for cuda." in answer.err
    assert pv("train", mara, "--set", "model.device=gpu").status == ExitStatus.USAGE
    assert not [*home.rglob("config.toml")]
