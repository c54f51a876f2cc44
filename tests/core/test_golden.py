"""Names, hashes, fields and events that users and scripts depend on.

They are compared with files in tests/golden; a difference is a change of the contract.
`PV_WRITE_GOLDEN=1` rewrites the files; review their diff.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pvtool_core.adapter import IdentityAdapter
from pvtool_core.backbones import load_backbone
from pvtool_core.batches.clips import Names
from pvtool_core.settings.jobs import ActiveSteps, EncodingConfig, RenderItem, Setup, TrainJob
from pvtool_core.settings.schema import (
    ControlConfig,
    LoraConfig,
    ModelConfig,
    SamplerConfig,
)
from pvtool_core.store.event_log import read_records
from pvtool_core.store.events import ignore
from pvtool_core.trajectories import TrajectoryCache
from tests.golden import compare, shape
from tests.support.families import FAMILIES, Family
from tests.support.render_jobs import Engine, item, render_job

PROMPTS = ("a <V> woman waving", "Größe: <V> — 日本")
ADAPTER = "a" * 64


def setups() -> dict[str, Setup]:
    """Return one setup for each setting that a clip's name depends on."""
    plain = Setup(model=ModelConfig(base_model="/somewhere", fingerprint="base"))
    loras = (LoraConfig(file="/ink.safetensors", weight=0.7, fingerprint="ink"),)
    control = ControlConfig(model="/pose", frames="/frames", weight=0.5, fingerprint="pose")
    video = ModelConfig(
        family="wan", base_model="/wan", fingerprint="wan", num_frames=33, width=832, height=480
    )
    return {
        "plain": plain,
        "elsewhere": dataclasses.replace(
            plain, model=ModelConfig(base_model="/other", fingerprint="base", threads=3)
        ),
        "size": dataclasses.replace(
            plain, model=dataclasses.replace(plain.model, width=768, fps=12, num_frames=8)
        ),
        "lora": dataclasses.replace(plain, model=dataclasses.replace(plain.model, loras=loras)),
        "control": dataclasses.replace(
            plain, model=dataclasses.replace(plain.model, control=control)
        ),
        "sampler": dataclasses.replace(
            plain, sampler=SamplerConfig(num_inference_steps=25, negative_prompt="ugly")
        ),
        "start": dataclasses.replace(plain, adapter=ActiveSteps(start=0.5)),
        "wan": Setup(model=video, sampler=SamplerConfig(shift=3.0)),
    }


def test_clip_paths_and_hashes() -> None:
    found: dict[str, Any] = {}
    for name, setup in setups().items():
        for upscale in (1, 2):
            names = Names(setup, upscale)
            for prompt in PROMPTS:
                wanted = RenderItem(
                    identity="ann", prompt=prompt, seed=3, adapter_sha256=ADAPTER, clip=""
                )
                found[f"{name} ×{upscale} {prompt}"] = [
                    names.path(Path("out"), "ann", prompt, 3, ADAPTER),
                    names.path(Path("out"), "base", prompt, 3),
                    names.fingerprint(wanted),
                    names.trajectory(prompt, 3),
                ]
    compare("clip-names", found)


def test_trajectory_cache_keys(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(job.model, job.sampler, [])
    facts = {"base": "abc", "sampler": {"class": "DDIM"}, "dtype": "float32"}
    monkeypatch.setattr(backbone, "facts", lambda: facts)
    cache = TrajectoryCache(None, backbone, 37, ignore)
    compare(
        "trajectory-keys",
        {prompt: [cache.key(prompt, seed) for seed in (0, 1)] for prompt in PROMPTS},
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_adapter_files_and_facts_of_a_backbone(
    family: Family, models: Path, tmp_path: Path
) -> None:
    job = family.job(models)
    backbone = load_backbone(job.model, job.sampler, [])
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, 2)
    for number, weight in enumerate(adapter.parameters()):
        weight.data.copy_(
            (torch.arange(weight.numel()).reshape(weight.shape) + number).float() / 64
        )
    tensors = backbone.lora_layout.pack(adapter.pairs())
    digests = {
        name: [
            str(value.dtype),
            list(value.shape),
            hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()[:16],
        ]
        for name, value in sorted(tensors.items())
    }
    compare(f"adapter-{family.name}", {"tensors": digests, "facts": shape(backbone.facts())})


def test_files_and_events_of_a_training_run(
    run: Engine, job: TrainJob, adapters: dict[str, Path]
) -> None:
    short = dataclasses.replace(job.training, iterations=2, checkpoint_every=1, sample_every=2)
    assert run(dataclasses.replace(job, training=short)).status == 0
    folder = run.root / "train-0"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    events = {
        event["type"]: shape(event)
        for event in read_records(folder / "events.jsonl")[0]
        if event["type"] != "gpu"
    }
    with safe_open(folder / "checkpoints/step-000002/adapter.safetensors", "pt") as file:
        metadata = sorted(file.metadata())
    records = {
        name: shape(json.loads((folder / name).read_text()))
        for name in ("status.json", "exit.json", "checkpoints/step-000002/manifest.json")
    }
    compare("training-run", {"files": files, "events": events, "metadata": metadata, **records})


def test_sidecars_and_events_of_a_batch(
    run: Engine, job: TrainJob, adapters: dict[str, Path], tmp_path: Path
) -> None:
    clip = tmp_path / "out/ann/waving-0123/seed-000003"
    formats = EncodingConfig(formats=("mp4", "gif", "webp", "png"))
    wanted = item(clip, adapter=adapters["strong"], folder=job.identity.folder)
    assert run(render_job(job, wanted, encoding=formats)).status == 0
    files = sorted(
        str(path.relative_to(tmp_path / "out"))
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    events = {event["type"]: shape(event) for event in run.events if event["type"] != "gpu"}
    sidecar = shape(json.loads(clip.with_suffix(".json").read_text()))
    compare("batch", {"files": files, "events": events, "sidecar": sidecar})
