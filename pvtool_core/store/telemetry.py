"""Telemetry of an engine: memory and load of accelerators, computer and engine process."""

import csv
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from pvtool_core.store.events import DeviceReading, HostReading, Report, TelemetryEvent

SECONDS = 5.0
_QUERY = (
    "index,name,memory.used,memory.total,"
    "utilization.gpu,temperature.gpu,power.draw,power.limit,uuid"
)
_MEBIBYTE = 1 << 20
_CUDA = re.compile(r"auto|cuda(:(?P<number>\d+))?")


class Telemetry:
    """Writes a `gpu` event every few seconds from its own thread, the first one immediately.

    `folder` is on the file system whose space is reported, `device` is the job's `model.device`.
    """

    def __init__(self, write: Report, folder: Path = Path(), device: str = "auto") -> None:
        self._write, self._folder, self._device = write, folder, device
        self._process = psutil.Process()
        self._measured = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gauges", daemon=True)

    def _watch(self) -> None:
        while True:
            with suppress(OSError):  # a full disk is reported by other writes of the engine
                self._write(self.measure())
            if self._done.wait(SECONDS):
                return

    def measure(self) -> TelemetryEvent:
        """Return gauges of accelerators, of the computer and of this process.

        Accelerators: bytes, percent, °C, W. Process: memory (bytes) and load (percent of one core).
        The first loads are unknown.
        """
        first, self._measured = not self._measured, True
        load, host_load = self._process.cpu_percent(), psutil.cpu_percent()
        found = accelerators()
        return TelemetryEvent(
            devices=tuple(device for device, _ in found),
            process_memory=self._process.memory_info().rss,
            cpu=None if first else load,
            host=host_reading(self._folder, None if first else host_load),
            own=own_index(found, self._device, os.environ),
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def host_reading(folder: Path, cpu: float | None) -> HostReading:
    """Return memory and disk of the computer, with a measured CPU load."""
    memory = psutil.virtual_memory()
    try:
        disk = shutil.disk_usage(folder)
    except OSError:  # the folder was deleted
        disk = None
    return HostReading(
        memory_used=memory.total - memory.available,
        memory_total=memory.total,
        cpu=cpu,
        cores=psutil.cpu_count(),
        disk_free=disk and disk.free,
        disk_total=disk and disk.total,
    )


def own_index(
    found: Sequence[tuple[DeviceReading, str]], device: str, environment: Mapping[str, str]
) -> int | None:
    """Return the nvidia-smi index of a torch device; None if it is unknown or no CUDA device.

    torch numbers the devices in CUDA_VISIBLE_DEVICES, the fastest first unless CUDA_DEVICE_ORDER is
    PCI_BUS_ID: the numbers of different models may differ from those of nvidia-smi.
    """
    chosen = _CUDA.fullmatch(device)
    models = {reading.name for reading, _ in found}
    if not chosen or not (len(models) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"):
        return None
    indices = [reading.index for reading, _ in found]
    uuids = {uuid: reading.index for reading, uuid in found}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        words = [word.strip() for word in visible.split(",")]
        indices = [int(word) if word.isdecimal() else uuids.get(word, -1) for word in words]
    number = int(chosen["number"] or 0)
    own = indices[number] if number < len(indices) else -1
    return own if own in uuids.values() else None


def accelerators() -> list[tuple[DeviceReading, str]]:
    """Return the NVIDIA devices and their UUIDs as nvidia-smi reports them.

    Empty without the tool or a driver.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            words, capture_output=True, text=True, timeout=SECONDS, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    return [_device(row) for row in csv.reader(answer.splitlines(), skipinitialspace=True)]


def _device(row: list[str]) -> tuple[DeviceReading, str]:
    index, name, *words, uuid = row
    used, total, utilisation, temperature, power, limit = (_number(word) for word in words)
    reading = DeviceReading(
        index=int(index),
        name=name,
        memory_used=used and used * _MEBIBYTE,
        memory_total=total and total * _MEBIBYTE,
        utilisation=utilisation,
        temperature=temperature,
        power=power,
        power_limit=limit,
    )
    return reading, uuid


def _number(word: str) -> float | None:
    """Parse a number; devices report `[N/A]` for values that they cannot measure."""
    try:
        return float(word)
    except ValueError:
        return None
