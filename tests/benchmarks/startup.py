"""CPU seconds until an engine is ready, for each kind of job, and the large libraries it loads.

    python -m tests.benchmarks.startup [--repeats 3]

Each engine is a process of its own on the tiny preset; it is ready when its models are loaded.
Seconds are shown as multiples of a process that only imports torch, in the same round, because
machines and their load differ; medians. A first round, which is not counted, compiles modules and
fills the cache of files.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from pvtool.tables import Table
from tests.support.startup import Start, starts

MOST = {"enrol": 1.1, "train": 2.5, "render": 2.5, "evaluate": 2.0}
"""The most that each kind of job may take, in multiples of `import torch`."""

HEAVY = {
    "bitsandbytes": "bitsandbytes",
    "cv2": "cv2",
    "diffusers": "diffusers",
    "dynamo": "torch._dynamo.convert_frame",
    "inductor": "torch._inductor.utils",
    "insightface": "insightface",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "open_clip": "open_clip",
    "peft": "peft",
    "ray": "ray",
    "skimage": "skimage",
    "transformers": "transformers",
}
"""Large libraries, each with a module that is loaded whenever it is in use."""


def torch_seconds() -> float:
    """Return the CPU seconds of a process that imports torch and exits."""
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-P", "-c", "import torch"], os.environ
    )
    _, status, used = os.wait4(process, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime


def measure() -> tuple[float, dict[str, Start]]:
    """Return the seconds of `import torch`, and the start of each kind of job."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = torch_seconds()
        return seconds, starts(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    measure()
    rounds = [measure() for _ in range(words.repeats)]
    rows = [["import torch", f"{statistics.median(unit for unit, _ in rounds):.2f}", "1", "", ""]]
    for kind, most in MOST.items():
        seconds = statistics.median(found[kind].seconds for _, found in rounds)
        times = statistics.median(found[kind].seconds / unit for unit, found in rounds)
        modules = rounds[0][1][kind].modules
        loaded = [name for name, module in HEAVY.items() if module in modules]
        rows.append([kind, f"{seconds:.2f}", f"{times:.2f}", f"{most}", " ".join(loaded)])
    print(Table(["engine", "cpu_seconds", "times", "at_most", "loads"], rows))


if __name__ == "__main__":
    main()
