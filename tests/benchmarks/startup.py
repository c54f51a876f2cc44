"""CPU seconds until an engine is ready, for each kind of job, and the large libraries it loads.

    python -m tests.benchmarks.startup [--repeats 3]

On the tiny preset; an engine is ready when its models are loaded. First each engine is a process of
its own; then one server forks them one after the other, as for `pv demo`, and each start includes
what the server imports for it. Seconds are shown as multiples of a process that only imports torch,
in the same round, because machines and their load differ; medians. A first round, which is not
counted, compiles modules and fills the cache of files.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pvtool.tables import Table
from tests.support.startup import Start, shared_starts, starts

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


def measure() -> tuple[float, dict[str, Start], dict[str, Start]]:
    """Return the seconds of `import torch`, and the start of each kind of job, own and forked."""
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as shared:
        return torch_seconds(), starts(Path(own)), shared_starts(Path(shared))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    measure()
    rounds = [measure() for _ in range(words.repeats)]
    unit = statistics.median(unit for unit, _, _ in rounds)
    rows = [["import torch", f"{unit:.2f}", "1", "", ""]]
    for kind, most in MOST.items():
        own = median([(unit, started[kind]) for unit, started, _ in rounds])
        modules = rounds[0][1][kind].modules
        loaded = [name for name, module in HEAVY.items() if module in modules]
        rows.append([kind, *own, f"{most}", " ".join(loaded)])
    for kind in MOST:
        forked = median([(unit, started[kind]) for unit, _, started in rounds])
        rows.append([f"{kind}, forked", *forked, "", ""])
    print(Table(["engine", "cpu_seconds", "times", "at_most", "loads"], rows))


def median(rounds: Sequence[tuple[float, Start]]) -> tuple[str, str]:
    """Return the medians of seconds, and of seconds as multiples of the unit of their round."""
    seconds = statistics.median(start.seconds for _, start in rounds)
    return (
        f"{seconds:.2f}",
        f"{statistics.median(start.seconds / unit for unit, start in rounds):.2f}",
    )


if __name__ == "__main__":
    main()
