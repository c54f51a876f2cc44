"""Telemetry of an engine: memory and load of the accelerators and of its process."""

import csv
import shutil
import subprocess
import threading
from contextlib import suppress
from typing import Self

import psutil

from pvtool_core.store.events import DeviceReading, Report, TelemetryEvent

SECONDS = 5.0
_QUERY = "index,name,memory.used,memory.total,utilization.gpu,temperature.gpu,power.draw"
_MEBIBYTE = 1 << 20


class Telemetry:
    """Writes a `gpu` event every few seconds from its own thread, the first one immediately."""

    def __init__(self, write: Report) -> None:
        self._write = write
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
        """Return gauges of accelerators and of this process.

        Accelerators: bytes, percent, °C, W. Process: memory (bytes) and load (percent of one core).
        """
        return TelemetryEvent(
            devices=tuple(accelerators()),
            process_memory=self._process.memory_info().rss,
            cpu=self._load(),
        )

    def _load(self) -> float | None:
        """Return the load since the last call; None at the first call."""
        load = self._process.cpu_percent()
        first, self._measured = not self._measured, True
        return None if first else load

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def accelerators() -> list[DeviceReading]:
    """Return the NVIDIA devices as nvidia-smi reports them; empty without the tool or a driver."""
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


def _device(row: list[str]) -> DeviceReading:
    index, name, *words = row
    used, total, utilisation, temperature, power = (_number(word) for word in words)
    return DeviceReading(
        index=int(index),
        name=name,
        memory_used=used and used * _MEBIBYTE,
        memory_total=total and total * _MEBIBYTE,
        utilisation=utilisation,
        temperature=temperature,
        power=power,
    )


def _number(word: str) -> float | None:
    """Parse a number; devices report `[N/A]` for values that they cannot measure."""
    try:
        return float(word)
    except ValueError:
        return None
