"""Files of keyword vectors with random values, and identities whose whole photos can be read."""

from pathlib import Path

import tomli_w
import torch

from pvtool_core.adapter import AdapterMetadata
from pvtool_core.backbones import load_backbone
from pvtool_core.keyword_vectors import new_vectors
from pvtool_core.settings.jobs import IdentityRef, TrainJob
from pvtool_core.settings.toml import to_table
from pvtool_core.store.identities import IDENTITY_FILE, Record, StoredFace
from tests.support.people import save_person
from tests.support.small_models import with_settings

CENTRED = (58.0, 59.0, 70.0, 59.0, 64.0, 65.0, 59.5, 71.0, 68.5, 71.0)
"""Landmarks of a small face in the middle of a photo of 128 pixels."""


def inversion_job(job: TrainJob, **settings: object) -> TrainJob:
    """Return a job of textual inversion; `settings` are those of its section."""
    job = with_settings(job, "training", objective="textual-inversion", learning_rate=0.05)
    job = with_settings(job, "adapter", start=0.0)
    return with_settings(job, "textual_inversion", **settings) if settings else job


def save_photographed(folder: Path, photos: int = 2) -> IdentityRef:
    """Write an identity of noise, whose record places a face in the middle of each photo."""
    identity = save_person(folder, photos)
    faces = tuple(
        StoredFace(
            picture="a.png",
            reference=f"references/{number:03}.png",
            face=f"faces/{number:03}.png",
            score=0.9,
            bbox=(52.0, 50.0, 76.0, 78.0),
            landmarks=CENTRED,
        )
        for number in range(photos)
    )
    record = Record(noun=identity.noun, created="2026-11-28", faces=faces)
    (folder / IDENTITY_FILE).write_text(tomli_w.dumps(to_table(record)))
    return identity


def save_vectors(path: Path, job: TrainJob, count: int = 4, seed: int = 0) -> Path:
    """Write a file of random vectors for the base model of the job."""
    backbone = load_backbone(job.model, job.sampler, (), keep_text_encoder=True)
    facts, sampler = backbone.facts(), job.sampler
    terms = AdapterMetadata(
        0.0,
        sampler.num_inference_steps,
        sampler.guidance_scale,
        facts["sampler"],
        facts["base"],
    )
    assert backbone.prompt_encoder
    adapter = new_vectors(backbone.prompt_encoder, count, "woman")
    generator = torch.Generator().manual_seed(seed)
    adapter.vectors.data = torch.randn(adapter.vectors.shape, generator=generator)
    adapter.save(path, backbone.lora_layout, terms)
    return path
