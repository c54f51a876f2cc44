"""Report devices that torch cannot use: `python -m pvtool_core.devices NAME...` prints JSON."""

import json
import sys
from typing import TYPE_CHECKING

from pvtool_core.errors import InputRefused
from pvtool_core.settings.schema import DEVICES

if TYPE_CHECKING:
    import torch


def problem_of(name: str) -> str | None:
    """Return why torch cannot use a device, as a sentence; None if it can."""
    import torch

    kind, _, number = name.partition(":")
    if kind in {"auto", "cpu"}:
        return None
    if kind == "mps":
        return (
            None
            if torch.backends.mps.is_available()
            else f"torch finds no Metal GPU here for {name}."
        )
    module = torch.cuda if kind == "cuda" else torch.xpu
    count = module.device_count() if module.is_available() else 0
    if not count:
        return f"torch sees no GPU here for {name}."
    if int(number or 0) >= count:
        return f"Device {name} not found: torch sees {count}, numbered from 0."
    return None


def resolve_device(name: str) -> "torch.device":
    """Return the device of a setting; `auto` is the accelerator, if any. Raises InputRefused."""
    import torch

    if name == "meta":  # shapes alone, for counting
        return torch.device(name)
    if name != "auto":
        problem = problem_of(name) if DEVICES.fullmatch(name) else f"Invalid device {name!r}."
        if problem:
            raise InputRefused(
                problem, "Set model.device to auto or cpu; `pv doctor` shows the devices."
            )
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


if __name__ == "__main__":
    found = {name: problem_of(name) for name in sys.argv[1:]}
    sys.stdout.write(
        json.dumps({name: problem for name, problem in found.items() if problem}) + "\n"
    )
