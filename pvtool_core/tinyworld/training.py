"""Training loop of all models of the tiny world: seeded by the step, resumable at any time."""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

log = logging.getLogger(__name__)

SAVE_EVERY = 60.0
"""Seconds between two checkpoints."""

Losses = Mapping[str, Tensor]


def fit(
    name: str,
    work: Path,
    model: nn.Module,
    losses_of: Callable[[Generator], Losses],
    *,
    steps: int,
    learning_rate: float,
    ema: float = 0.0,
    weight_decay: float = 1e-2,
) -> None:
    """Train `model` with AdamW on the sum of `losses_of` for `steps` steps.

    Each step draws from a generator seeded by its number, so a resumed run equals an uninterrupted
    one. The learning rate warms up, then follows a half cosine to 0. `ema` is the decay of the
    averaged weights, which replace the trained ones at the end. `work/NAME.pt` is the checkpoint,
    `work/NAME.jsonl` the log.
    """
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, learning_rate, (0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    average = AveragedModel(model, avg_fn=_averaging(ema), use_buffers=True) if ema else None
    state = _load(work / f"{name}.pt", model, optimizer, average)
    started, saved, means = (
        time.monotonic() - state["seconds"],
        time.monotonic(),
        dict[str, float](),
    )
    for step in range(state["step"], steps):
        rate = learning_rate * min(
            (step + 1) / (0.02 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps) + 1e-3
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = losses_of(Generator().manual_seed(_seed(name, step)))
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average:
            average.update_parameters(model)
        for key, value in losses.items():
            means[key] = 0.98 * means.get(key, float(value.detach())) + 0.02 * float(value.detach())
        if time.monotonic() - saved > SAVE_EVERY or step + 1 == steps:
            saved = time.monotonic()
            state = {"step": step + 1, "seconds": saved - started}
            _save(work / f"{name}.pt", state, model, optimizer, average)
            _note(work / f"{name}.jsonl", name, {**state, "of": steps, **means})
    if average:
        model.load_state_dict(average.module.state_dict())
    model.eval()


def _averaging(decay: float) -> Callable[[Any, Any, Any], Any]:
    """Return an average whose window is a ninth of the steps so far, limited by `decay`.

    It therefore does not include the random initial weights.
    """
    return lambda average, current, count: (
        average + (current - average) * max(1 - decay, 9 / (10 + int(count)))
    )


def _seed(name: str, step: int) -> int:
    return int.from_bytes(name.encode()[:6].ljust(6, b"."), "big") % 1_000_003 * 1_000_000 + step


def _load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel | None
) -> dict[str, Any]:
    if not path.is_file():
        return {"step": 0, "seconds": 0.0}
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    if average:
        average.load_state_dict(kept["average"])
    return {"step": kept["step"], "seconds": kept["seconds"]}


def _save(
    path: Path,
    state: Mapping[str, float],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
) -> None:
    partial = path.with_suffix(".partial")
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, **parts, "average": average.state_dict() if average else {}}, partial)
    partial.replace(path)


def _note(path: Path, name: str, values: Mapping[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
    shown = " ".join(f"{key} {value:.4g}" for key, value in values.items())
    log.info("%s %s", name, shown)
