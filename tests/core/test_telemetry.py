"""GPU and CPU gauges, read from the system's tools."""

import time
from pathlib import Path

import pytest

from pvtool_core.store import telemetry
from pvtool_core.store.events import DeviceReading, Event, TelemetryEvent, ignore
from pvtool_core.store.telemetry import Telemetry, accelerators, own_index

TWO_DEVICES = """\
0, NVIDIA H200, 2048, 143771, 37, 41, 122.50, 700.00, GPU-aa
1, NVIDIA GeForce RTX 3060, 512, 12288, [N/A], 55, [N/A], [N/A], GPU-bb
"""


def put_tool(folder: Path, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_each_device_has_the_values_that_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_tool(tmp_path, f"echo '{TWO_DEVICES.strip()}'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (first, _), (second, uuid) = accelerators()
    assert first == DeviceReading(
        index=0,
        name="NVIDIA H200",
        memory_used=2048 * 2**20,
        memory_total=143771 * 2**20,
        utilisation=37,
        temperature=41,
        power=122.5,
        power_limit=700,
    )
    values = (second.index, second.utilisation, second.temperature, second.power, uuid)
    assert values == (1, None, 55, None, "GPU-bb")


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found' >&2; exit 6"])
def test_a_tool_without_a_driver_means_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    put_tool(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert accelerators() == []


def reading(index: int, name: str = "NVIDIA H200") -> tuple[DeviceReading, str]:
    return DeviceReading(index=index, name=name), f"GPU-{index}"


@pytest.mark.parametrize(
    ("device", "environment", "own"),
    [
        ("auto", {}, 0),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "3,2"}, 2),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-2"}, 2),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "MIG-7"}, None),
        ("auto", {"CUDA_VISIBLE_DEVICES": ""}, None),
        ("cpu", {}, None),
    ],
)
def test_device_of_the_engine_has_the_number_of_nvidia_smi(
    device: str, environment: dict[str, str], own: int | None
) -> None:
    assert own_index([reading(i) for i in range(4)], device, environment) == own


def test_numbers_of_different_models_need_an_order() -> None:
    mixed = [reading(0), reading(1, "NVIDIA A40")]
    assert own_index(mixed, "cuda:1", {}) is None
    assert own_index(mixed, "cuda:1", {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == 1


def test_engine_reports_gauges_at_its_start_and_repeatedly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry, "SECONDS", 0.05)
    written: list[Event] = []
    with Telemetry(written.append):
        time.sleep(0.5)
    first, *_, last = written
    assert isinstance(first, TelemetryEvent) and isinstance(last, TelemetryEvent)
    assert (first.process_memory or 0) > 2**20
    assert (last.cpu or 0) >= 0
    assert last.host and last.host.memory_used and last.host.disk_free


def test_gauges_continue_after_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SECONDS", 0.01)
    tries: list[str] = []

    def write(event: Event) -> None:
        tries.append(event.type)
        raise OSError(28, "No space left on device")

    with Telemetry(write):
        time.sleep(0.3)
    assert len(tries) >= 2


def test_first_cpu_load_is_unknown() -> None:
    watch = Telemetry(ignore)
    assert watch.measure().cpu is None
    assert watch.measure().cpu is not None
