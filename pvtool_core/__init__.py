"""The engine of pv: the PersonalVideo method as a library.

Symbols, as in the paper and in diffusers:

    N, K                 denoising steps of a clip; those in which the adapter acts, the last N − int(start · N)
    M                    frames whose semantic scores are compared (eq. 3)
    z_T, latents         the clip inside the model, (1, channels, frames, height / 8, width / 8)
    switch               the latents that enter the adapter's first step; what comes before never sees the adapter
    original, source     the clip of the model without the adapter; target: the one with it
    ICR, SCR             identity consistency reward (eq. 2) and semantic consistency reward (eq. 3-4), both as losses

Frames are (frames, 3, height, width) in [0, 1], RGB, float32; pixels (frames, height, width, 3), uint8. Landmarks are
(5, 2), x before y, in pixels; crops are aligned faces, (faces, 3, 112, 112) in [0, 1]. Embeddings have length 1.

Importing the package itself loads no torch; its torch-free modules are errors, paths, config, library, prompts, runs,
weights and clips. It switches off the usage reports of the libraries that it is built on, unless the environment
already says otherwise: photos are biometric data, and nothing about their use leaves the machine.
"""

import os

_NO_REPORTS = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.29 and newer keep a device id and an event store
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _NO_REPORTS.items():
    os.environ.setdefault(_name, _value)
