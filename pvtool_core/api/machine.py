"""This machine: its devices, checked before a job is created, and its package versions."""

import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version

from pvtool_core.errors import InputRefused, NotReady, UsageError
from pvtool_core.settings.schema import DEVICES

_ALWAYS = {"auto", "cpu"}
_PACKAGES = ("pvtool", "torch", "diffusers", "transformers", "peft", "onnxruntime")


def check_devices(names: Iterable[str]) -> None:
    """Check devices with torch in a separate process; none is started for `auto` and `cpu`.

    Raises UsageError for an invalid name, InputRefused for a missing device, NotReady.
    """
    wanted = sorted({*names} - _ALWAYS)
    for name in wanted:
        if not DEVICES.fullmatch(name):
            raise UsageError(f"Invalid device {name!r}.", "Use auto, cpu, cuda, cuda:1 or mps.")
    if not wanted:
        return
    words = [sys.executable, "-P", "-m", "pvtool_core.devices", *wanted]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise NotReady(["torch"], "See `pv doctor`.")
    problems: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    for problem in problems.values():
        raise InputRefused(
            problem, "Set model.device to auto or cpu; `pv doctor` shows the devices."
        )


def versions() -> dict[str, str]:
    """Return the versions of packages that affect pixels, without importing them."""
    return {package: version(package) for package in _PACKAGES}
