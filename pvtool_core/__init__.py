"""The engine of pv: the PersonalVideo method as a library.

Symbols, as in the paper and in diffusers:

    N, K        denoising steps of a clip; active steps of the adapter, the last N − int(start · N)
    M           frames whose semantic scores are compared (eq. 3)
    latents     a clip inside the model, (1, channels, latent frames, height / 8, width / 8)
    z_T         the initial latents: Gaussian noise
    switch      the latents at the first active step; they do not depend on the adapter
    source      the clip of the base model (the original); target: the clip with the adapter
    ICR, SCR    identity consistency reward (eq. 2), semantic consistency reward (eq. 3-4): losses

Tensors and arrays:

    frames      (frames, 3, height, width) in [0, 1], RGB, float32
    pixels      (frames, height, width, 3), RGB, uint8
    landmarks   (5, 2), x before y, in pixels
    crops       aligned faces, (faces, 3, 112, 112) in [0, 1]
    embeddings  (faces, dimensions), of length 1

The public API is in `__all__`. It imports no torch: training, rendering and evaluation run in
engine processes. Usage reports of other libraries are disabled unless the environment enables them:
photos are biometric data, and nothing about their use leaves the machine.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvtool_core.api.batch import Rendering, render, render_by_method
    from pvtool_core.api.enrollment import enroll
    from pvtool_core.api.evaluate import evaluate
    from pvtool_core.api.sweep import SweepWatcher, sweep
    from pvtool_core.api.training import TrainingRun, train
    from pvtool_core.errors import PvError
    from pvtool_core.settings.presets import Preset, Presets
    from pvtool_core.store.events import (
        CheckpointEvent,
        ClipEvent,
        Event,
        RunEvent,
        SampleEvent,
        StageEvent,
        StepEvent,
        TelemetryEvent,
        WarningEvent,
    )
    from pvtool_core.store.identities import Identity, Library
    from pvtool_core.supervisor import shared_engines

__all__ = [
    "CheckpointEvent",
    "ClipEvent",
    "Event",
    "Identity",
    "Library",
    "Preset",
    "Presets",
    "PvError",
    "Rendering",
    "RunEvent",
    "SampleEvent",
    "StageEvent",
    "StepEvent",
    "SweepWatcher",
    "TelemetryEvent",
    "TrainingRun",
    "WarningEvent",
    "enroll",
    "evaluate",
    "render",
    "render_by_method",
    "shared_engines",
    "sweep",
    "train",
]

_MODULES = {
    "CheckpointEvent": "store.events",
    "ClipEvent": "store.events",
    "Event": "store.events",
    "Identity": "store.identities",
    "Library": "store.identities",
    "Preset": "settings.presets",
    "Presets": "settings.presets",
    "PvError": "errors",
    "Rendering": "api.batch",
    "RunEvent": "store.events",
    "SampleEvent": "store.events",
    "StageEvent": "store.events",
    "StepEvent": "store.events",
    "SweepWatcher": "api.sweep",
    "TelemetryEvent": "store.events",
    "TrainingRun": "api.training",
    "WarningEvent": "store.events",
    "enroll": "api.enrollment",
    "evaluate": "api.evaluate",
    "render": "api.batch",
    "render_by_method": "api.batch",
    "shared_engines": "supervisor",
    "sweep": "api.sweep",
    "train": "api.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: an engine process needs few of them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


_NO_REPORTS = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.29 and newer store a device id and events
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _NO_REPORTS.items():
    os.environ.setdefault(_name, _value)
