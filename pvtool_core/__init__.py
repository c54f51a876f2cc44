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

Importing this package does not import torch, nor do the packages settings, store, models, batches
and media and the modules errors, paths, files, permissions, untrusted and supervisor. Usage reports
of other libraries are disabled unless the environment enables them: photos are biometric data, and
nothing about their use leaves the machine.
"""

import os

_NO_REPORTS = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime 1.29 and newer store a device id and events
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _NO_REPORTS.items():
    os.environ.setdefault(_name, _value)
