"""The scripts of docs/using-the-adapter.md run unchanged, with the same pictures as pv."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.loaders.lora_conversion_utils as conversion
import numpy as np
import pytest
import torch
from diffusers.loaders import lora_pipeline
from numpy.typing import NDArray
from PIL import Image

from pvtool_core.adapter import AdapterMetadata, IdentityAdapter
from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from tests.support.families import ANIMATEDIFF, HUNYUAN_VIDEO, WAN, Family
from tests.support.small_models import shake, with_settings

PAGE = Path(__file__).parents[2] / "docs/using-the-adapter.md"
PROMPT, SEED, FIRST = "a <V> woman waving", 7, 6
TITLES = {"AnimateDiff": ANIMATEDIFF, "HunyuanVideo": HUNYUAN_VIDEO, "Wan": WAN}


def scripts_of(page: str) -> dict[str, str]:
    """Return the Python blocks of a page by their headings."""
    scripts: dict[str, str] = {}
    title = ""
    block: list[str] | None = None
    for line in page.splitlines():
        if block is None and line.startswith("#"):
            title = line.lstrip("# ")
        elif line == "```python":
            block = []
        elif line == "```" and block is not None:
            assert title not in scripts
            scripts[title], block = "\n".join(block), None
        elif block is not None:
            block.append(line)
    return scripts


SCRIPTS = scripts_of(PAGE.read_text())


def job_of(family: Family, models: Path) -> TrainJob:
    """Return a job for the page's script of a family."""
    job = family.job(models)
    if family is ANIMATEDIFF:  # the paper's model: Stable Diffusion with a separate motion adapter
        still, motion = str(models / "still"), str(models / "motion")
        job = with_settings(job, "model", base_model=still, motion_adapter=motion)
    if family is not HUNYUAN_VIDEO:
        job = with_settings(job, "sampler", negative_prompt="ugly")
    return with_settings(job, "sampler", guidance_scale=5.0)


def export(job: TrainJob, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write an adapter file like a run, and return pv's pictures with and without it."""
    backbone = load_backbone(job.model, job.sampler, [PROMPT])
    adapter = IdentityAdapter(backbone.denoiser, backbone.lora_target, rank=2, seed=3)
    shake(adapter)
    for weight in adapter.parameters():
        weight.data *= 4  # for a visible effect in a random model's last two steps
    terms = AdapterMetadata(
        job.adapter.start,
        job.sampler.num_inference_steps,
        job.sampler.guidance_scale,
        backbone.sampler_facts(),
        backbone.facts()["base"],
        negative_prompt=job.sampler.negative_prompt,
    )
    adapter.save(path, backbone.lora_layout, terms)
    embeds = backbone.prompt_embeds(PROMPT)
    with torch.no_grad():
        switch = denoise(backbone, backbone.initial_latents(SEED), embeds, range(FIRST))
        rest = range(FIRST, backbone.num_steps)
        ends = [denoise(backbone, switch, embeds, rest, acting) for acting in (adapter, None)]
        ours, plain = (to_pixels(backbone.decode(end, range(backbone.num_frames))) for end in ends)
    return ours, plain


def run_script(script: str, folder: Path, **names: str) -> NDArray[np.uint8]:
    """Run a script with other values of the variables at its top, and return its pictures."""
    for name, value in {**names, "OUT": repr(str(folder / "{:04d}.png"))}.items():
        script, count = re.subn(
            rf"^{name} = .*$", lambda _, n=name, v=value: f"{n} = {v}", script, flags=re.M
        )
        assert count == 1, f"the script sets {name} once"
    exec(compile(script, str(PAGE), "exec"), {"__name__": "__main__"})
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


def values_of(job: TrainJob, adapter: Path) -> dict[str, str]:
    model = job.model
    motion = {"MOTION": repr(model.motion_adapter)} if model.motion_adapter else {}
    return {
        "BASE": repr(model.base_model),
        **motion,
        "ADAPTER": repr(str(adapter)),
        "PROMPT": repr(PROMPT),
        "SEED": str(SEED),
        "WIDTH, HEIGHT, FRAMES": f"{model.width}, {model.height}, {model.num_frames}",
        "DTYPE": "torch.float32",
        "DEVICE": "'cpu'",
    }


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let diffusers split HunyuanVideo's fused matrices at other widths than 3072."""

    def patch(width: int) -> None:
        name = "_convert_hunyuan_video_lora_to_diffusers"
        source = inspect.getsource(getattr(conversion, name))
        assert source.count("3072") == 1
        space: dict[str, Any] = dict(vars(conversion))
        exec(source.replace("3072", str(width)), space)
        monkeypatch.setattr(lora_pipeline, name, space[name])

    return patch


def test_the_page_has_a_script_for_each_family() -> None:
    assert set(SCRIPTS) == set(TITLES)


@pytest.mark.parametrize("title", TITLES)
def test_script_gives_the_same_pictures_as_pv(
    title: str, models: Path, tmp_path: Path, any_width: Callable[[int], None]
) -> None:
    family = TITLES[title]
    job = job_of(family, models)
    if family is HUNYUAN_VIDEO:
        any_width(32)
    ours, plain = export(job, tmp_path / "ada.safetensors")
    theirs = run_script(SCRIPTS[title], tmp_path, **values_of(job, tmp_path / "ada.safetensors"))
    assert (
        np.abs(theirs.astype(int) - ours).max() <= 1
    )  # rounding of merged matrices differs between CPUs
    assert (ours != plain).mean() > 0.05  # the adapter has an effect


def test_wans_noise_levels_are_read_from_the_file_for_other_shifts(
    models: Path, tmp_path: Path
) -> None:
    job = with_settings(job_of(WAN, models), "sampler", shift=5.0, num_inference_steps=7)
    job = with_settings(job, "adapter", start=6 / 7)
    ours, _ = export(job, tmp_path / "ada.safetensors")
    theirs = run_script(SCRIPTS["Wan"], tmp_path, **values_of(job, tmp_path / "ada.safetensors"))
    assert np.array_equal(theirs, ours)
