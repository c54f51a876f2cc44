"""AnimateDiff with users' files: Stable Diffusion, a motion adapter, LoRAs, a ControlNet."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_controlnet import (
    AnimateDiffControlNetPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pvtool_core.backbones import load_backbone
from pvtool_core.errors import InputRefused, PvError
from pvtool_core.media.photos import read_picture
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import presets_dir
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import ControlConfig, LoraConfig, ModelConfig
from tests.support.animatediff import PROMPT, clip, original_names
from tests.support.small_models import FRAMES, UNET_BLOCKS, with_settings


def call(pipeline: Any, job: TrainJob, **more: Any) -> Tensor:
    """Render the same clip with a pipeline of diffusers."""
    pipeline.set_progress_bar_config(disable=True)
    sizes = {"num_frames": FRAMES, "height": job.model.height, "width": job.model.width}
    steps = {
        "num_inference_steps": job.sampler.num_inference_steps,
        "guidance_scale": job.sampler.guidance_scale,
    }
    generator = torch.Generator().manual_seed(7)
    return pipeline(
        PROMPT,
        negative_prompt="",
        **sizes,
        **steps,
        generator=generator,
        output_type="latent",
        **more,
    ).frames


@pytest.fixture
def still(job: TrainJob, models: Path) -> ModelConfig:
    """Return a Stable Diffusion folder without motion modules."""
    return replace(
        job.model, base_model=str(models / "still"), motion_adapter=str(models / "motion")
    )


def as_diffusers_documents_it(models: Path) -> Any:
    """Return diffusers' pipeline of a Stable Diffusion model and a motion adapter."""
    motion: Any = MotionAdapter.from_pretrained(models / "motion")
    pipeline: Any = AnimateDiffPipeline.from_pretrained(models / "still", motion_adapter=motion)
    sampler: dict[str, Any] = {
        "clip_sample": False,
        "timestep_spacing": "linspace",
        "beta_schedule": "linear",
        "steps_offset": 1,
    }
    pipeline.scheduler = DDIMScheduler.from_pretrained(
        models / "still", subfolder="scheduler", **sampler
    )
    return pipeline


def test_folder_with_motion_adapter_renders_the_same_clip_as_diffusers(
    still: ModelConfig, job: TrainJob, models: Path
) -> None:
    assert torch.equal(clip(still, job), call(as_diffusers_documents_it(models), job))


@torch.no_grad()
def test_image_model_is_stable_diffusion_without_motion_modules(
    job: TrainJob, models: Path
) -> None:
    backbone: Any = load_backbone(job.model, job.sampler, [PROMPT], recompute=True)
    still: Any = StableDiffusionPipeline.from_pretrained(models / "still")
    still.scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
    still.set_progress_bar_config(disable=True)
    embeds, steps = backbone.prompt_embeds(PROMPT), range(backbone.num_steps)
    with backbone.as_image_model():
        noise, latents = backbone.initial_latents(7), backbone.initial_latents(8)
        image = denoise(backbone, noise, embeds, steps)
        example = backbone.diffuse(latents, noise, 0.4)
        loss = functional.mse_loss(backbone.predict_diffused(example, embeds), example.target)
    theirs = still(
        PROMPT,
        height=job.model.height,
        width=job.model.width,
        num_inference_steps=len(steps),
        guidance_scale=job.sampler.guidance_scale,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    assert torch.allclose(image[:, :, 0], theirs, atol=1e-5)
    # the loss of diffusers' train_dreambooth_lora.py on the same noise and timestep
    timesteps = torch.tensor([400])
    noised = backbone.scheduler.add_noise(latents[:, :, 0], noise[:, :, 0], timesteps)
    predicted = still.unet(noised, timesteps, embeds["prompt_embeds"][1:]).sample
    assert torch.allclose(loss, functional.mse_loss(predicted, noise[:, :, 0]), rtol=1e-5)


@torch.no_grad()
def test_photo_survives_encoding_and_decoding_on_the_tiny_preset() -> None:
    settings = Presets().get("tiny").settings()
    model = resolve_settings(settings).model
    backbone = load_backbone(model, settings.sampler, [])
    photo = read_picture(presets_dir() / "tiny/samples/ben-man.png")
    photo = photo.resize((model.width, model.height))
    frames = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255
    latents = backbone.encode(frames, torch.Generator().manual_seed(0))
    error = (backbone.decode(latents, [0]) - frames).abs().mean()
    assert error < 0.03


def test_single_file_renders_the_same_clip_as_its_folder(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    save_file(original_names(models / "still"), tmp_path / "realistic.safetensors")
    file = replace(
        still, base_model=str(tmp_path / "realistic.safetensors"), config=str(models / "still")
    )
    assert torch.equal(clip(file, job), clip(still, job))


def test_base_model_without_motion_modules_needs_a_motion_adapter(
    job: TrainJob, models: Path
) -> None:
    with pytest.raises(InputRefused, match=r"is Stable Diffusion without motion modules\."):
        resolve_settings(with_settings(job, "model", base_model=str(models / "still")))


def test_motion_adapter_of_the_preset_is_ignored_for_a_folder_with_motion_modules(
    job: TrainJob,
) -> None:
    settings = resolve_settings(
        with_settings(job, "model", motion_adapter="models:not-here", config="models:not-here")
    )
    assert (settings.model.motion_adapter, settings.model.config) == ("", "")


def test_the_fingerprint_covers_the_motion_adapter(
    job: TrainJob, models: Path, still: ModelConfig, tmp_path: Path
) -> None:
    other: Any = MotionAdapter.from_pretrained(models / "motion")
    next(other.parameters()).data += 1
    other.save_pretrained(tmp_path / "motion")
    named = [still, replace(still, motion_adapter=str(tmp_path / "motion"))]
    prints = [resolve_settings(replace(job, model=model)).model.fingerprint for model in named]
    assert prints[0] != prints[1]


@pytest.mark.parametrize("damage", ["cut", "not tensors", "another class"])
def test_error_for_unloadable_base_model(
    damage: str, still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(models / "still", tmp_path / "broken")
    weights = tmp_path / "broken/unet/diffusion_pytorch_model.safetensors"
    if damage == "another class":
        shutil.copy(models / "still/vae/diffusion_pytorch_model.safetensors", weights)
    else:
        weights.write_bytes(weights.read_bytes()[:-100] if damage == "cut" else b"<!doctype html>")
    with pytest.raises(
        InputRefused, match=r"The base model .*broken cannot be loaded as animatediff: "
    ):
        load_backbone(replace(still, base_model=str(tmp_path / "broken")), job.sampler, [PROMPT])


# Style LoRAs


def kohya_lora(
    path: Path, models: Path, attention: str = "attn1", width: int | None = None
) -> LoraConfig:
    """Write a LoRA of spatial attention queries and the text encoder in kohya's format."""
    torch.manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for folder, prefix, pattern in (
        ("unet", "lora_unet", rf"{attention}\.to_q"),
        ("text_encoder", "lora_te_text_model", "(q|out)_proj"),
    ):
        (file,) = (models / "still" / folder).glob("*.safetensors")
        for name, weight in load_file(file).items():
            if re.search(rf"{pattern}\.weight", name):
                key = f"{prefix}_{name.removesuffix('.weight').replace('.', '_')}"
                tensors[f"{key}.lora_down.weight"] = torch.randn(2, width or weight.shape[1])
                tensors[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], 2)
                tensors[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return LoraConfig(file=str(path), weight=0.5)


def test_kohya_lora_has_the_same_effect_as_in_diffusers(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    style = kohya_lora(tmp_path / "style.safetensors", models)
    pipeline = as_diffusers_documents_it(models)
    pipeline.load_lora_weights(str(tmp_path / "style.safetensors"), adapter_name="style")
    pipeline.set_adapters(["style"], [0.5])
    theirs, ours = call(pipeline, job), clip(replace(still, loras=(style,)), job)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, clip(still, job), atol=1e-2)


def test_two_loras_add_up_and_are_unloaded_after_merging(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    styles = [
        kohya_lora(tmp_path / "one.safetensors", models),
        kohya_lora(tmp_path / "two.safetensors", models, "attn2"),
    ]
    backbone = load_backbone(replace(still, loras=tuple(styles)), job.sampler, [PROMPT])
    assert not any("lora" in name for name, _ in backbone.denoiser.named_modules())
    alone = [clip(replace(still, loras=(style,)), job) for style in styles]
    both = clip(replace(still, loras=tuple(styles)), job)
    assert not any(torch.allclose(both, each, atol=1e-2) for each in alone)


def test_trajectory_key_depends_on_loras_and_strengths(
    job: TrainJob, models: Path, tmp_path: Path
) -> None:
    style = kohya_lora(tmp_path / "style.safetensors", models)
    sets = [
        (),
        (style,),
        (replace(style, weight=0.6),),
        (kohya_lora(tmp_path / "b.safetensors", models, "attn2"),),
    ]
    settings = [resolve_settings(with_settings(job, "model", loras=loras)) for loras in sets]
    facts = [
        str(load_backbone(each.model, each.sampler, []).facts()["style_loras"]) for each in settings
    ]
    assert len(set(facts)) == 4
    assert len({each.model.fingerprint for each in settings}) == 1


def test_lora_file_changed_after_the_job_was_created_is_refused(
    job: TrainJob, models: Path, tmp_path: Path
) -> None:
    style = kohya_lora(tmp_path / "style.safetensors", models)
    settings = resolve_settings(with_settings(job, "model", loras=(style,)))
    load_backbone(settings.model, settings.sampler, [])
    kohya_lora(tmp_path / "style.safetensors", models, "attn2")
    with pytest.raises(
        InputRefused,
        match=r"The LoRA .*style\.safetensors is not the one that this job was created for",
    ):
        load_backbone(settings.model, settings.sampler, [])


def test_older_layer_names_of_diffusers_are_read(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    """Motion LoRAs were converted to these names."""
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(
        models / "animatediff/unet/diffusion_pytorch_model.safetensors"
    ).items():
        if re.search(r"motion_modules.*attn1\.to_(q|k|v|out\.0)\.weight", name):
            layer = re.sub(r"\.to_(q|k|v|out)(\.0)?\.weight", r".processor.to_\1_lora", name)
            tensors[f"unet.{layer}.down.weight"] = torch.randn(2, weight.shape[1])
            tensors[f"unet.{layer}.up.weight"] = torch.randn(weight.shape[0], 2)
    save_file(tensors, tmp_path / "zoom.safetensors")
    moved = clip(replace(still, loras=(LoraConfig(file=str(tmp_path / "zoom.safetensors")),)), job)
    assert not torch.allclose(moved, clip(still, job), atol=1e-2)


def test_lora_with_unknown_layer_is_refused(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    style = kohya_lora(tmp_path / "style.safetensors", models)
    tensors = load_file(style.file)
    for part in ("lora_down.weight", "lora_up.weight", "alpha"):
        key = next(
            key
            for key in tensors
            if key.startswith("lora_unet_down_blocks_0") and key.endswith(part)
        )
        tensors[key.replace("down_blocks_0", "down_blocks_9")] = tensors[key].clone()
    save_file(tensors, style.file)
    with pytest.raises(InputRefused, match=r"does not fit this AnimateDiff model"):
        load_backbone(replace(still, loras=(style,)), job.sampler, [])


def sdxl(path: Path) -> None:
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {
            f"{key}.lora_down.weight": torch.ones(2, 2048),
            f"{key}.lora_up.weight": torch.ones(640, 2),
        },
        path,
    )


def wan(path: Path) -> None:
    key = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(2, 1536), f"{key}.lora_B.weight": torch.ones(1536, 2)},
        path,
    )


def hunyuan(path: Path) -> None:
    key = "transformer.double_blocks.0.img_attn_qkv"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(2, 3072), f"{key}.lora_B.weight": torch.ones(9216, 2)},
        path,
    )


def plain_weights(path: Path) -> None:
    save_file({"conv.weight": torch.ones(2, 2)}, path)


def pickled(path: Path) -> None:
    path.write_bytes(b"\x80\x04pickle")


WRONG_LORAS = [
    (sdxl, "It looks like one for Stable Diffusion XL"),
    (wan, "It looks like one for Wan"),
    (hunyuan, "It looks like one for HunyuanVideo or FLUX"),
    (plain_weights, "is not a LoRA"),
    (pickled, "is not a safetensors file"),
]


@pytest.mark.parametrize(("write", "words"), WRONG_LORAS)
def test_error_names_the_model_that_a_lora_was_made_for(
    write: Any, words: str, still: ModelConfig, job: TrainJob, tmp_path: Path
) -> None:
    write(tmp_path / "other.safetensors")
    with pytest.raises(InputRefused, match=words):
        load_backbone(
            replace(still, loras=(LoraConfig(file=str(tmp_path / "other.safetensors")),)),
            job.sampler,
            [],
        )


def test_lora_with_other_layer_sizes_is_refused(
    still: ModelConfig, job: TrainJob, models: Path, tmp_path: Path
) -> None:
    style = kohya_lora(tmp_path / "wide.safetensors", models, width=24)
    with pytest.raises(
        InputRefused, match=r"does not fit this AnimateDiff model: its layers have other sizes\."
    ):
        load_backbone(replace(still, loras=(style,)), job.sampler, [])


# ControlNet


@pytest.fixture
def control(models: Path, tmp_path: Path) -> ControlConfig:
    net: Any = ControlNetModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(8, 16, 16),
        **UNET_BLOCKS,
    )
    for layer in [
        *net.controlnet_down_blocks,
        net.controlnet_mid_block,
        net.controlnet_cond_embedding.conv_out,
    ]:
        nn.init.normal_(layer.weight, std=0.3)  # zeros would not show
    net.save_pretrained(tmp_path / "controlnet")
    (tmp_path / "shown").mkdir()
    for number in range(FRAMES):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"shown/{number}.png")
    return ControlConfig(
        model=str(tmp_path / "controlnet"), frames=str(tmp_path / "shown"), weight=0.7
    )


def test_controlnet_has_the_same_effect_as_in_diffusers(
    still: ModelConfig, job: TrainJob, models: Path, control: ControlConfig
) -> None:
    plain = as_diffusers_documents_it(models)
    net: Any = ControlNetModel.from_pretrained(control.model)
    net.requires_grad_(False)  # torch adds in another order for frozen matrices
    pipeline = AnimateDiffControlNetPipeline(**plain.components, controlnet=net)
    shown = [Image.open(file) for file in sorted(Path(control.frames).iterdir())]
    theirs = call(pipeline, job, conditioning_frames=shown, controlnet_conditioning_scale=0.7)
    ours = clip(replace(still, control=control), job)
    assert torch.allclose(
        ours, theirs, rtol=1e-5, atol=2e-4
    )  # values up to 60: rounding differs between CPUs
    assert not torch.allclose(theirs, clip(still, job), atol=1e-2)


def test_trajectory_key_depends_on_control_frames(
    job: TrainJob, control: ControlConfig, tmp_path: Path
) -> None:
    def facts(control: ControlConfig) -> str:
        settings = resolve_settings(with_settings(job, "model", control=control))
        return str(load_backbone(settings.model, settings.sampler, []).facts()["control"])

    found = [facts(ControlConfig()), facts(control), facts(replace(control, weight=0.8))]
    Image.new("RGB", (48, 48)).save(tmp_path / "shown/2.png")
    found.append(facts(control))
    assert len(set(found)) == 4


def test_a_controlnet_for_another_base_model_is_refused(
    job: TrainJob, control: ControlConfig, tmp_path: Path
) -> None:
    blocks: dict[str, Any] = {
        **UNET_BLOCKS,
        "cross_attention_dim": 24,
        "down_block_types": ("DownBlock2D",) * 2,
    }
    wide: Any = ControlNetModel(**blocks)
    wide.save_pretrained(tmp_path / "wide")
    other = replace(control, model=str(tmp_path / "wide"))
    with pytest.raises(InputRefused, match="its text embeddings have width 24, not 16"):
        load_backbone(replace(job.model, control=other), job.sampler, [])


def test_too_few_or_unreadable_control_frames_are_refused(
    job: TrainJob, control: ControlConfig, tmp_path: Path
) -> None:
    (tmp_path / "shown/3.png").write_text("no picture")
    with pytest.raises(PvError, match=r"3\.png cannot be read"):
        load_backbone(replace(job.model, control=control), job.sampler, [])
    (tmp_path / "shown/3.png").unlink()
    with pytest.raises(InputRefused, match="has 3 pictures for 4 frames"):
        load_backbone(replace(job.model, control=control), job.sampler, [])
