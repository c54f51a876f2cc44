"""Train the models of presets/tiny.

    python -m pvtool_core.tinyworld --work DIR [--stage NAME] [--scale S]


All stages take about four hours on two CPU cores. A killed stage resumes from its last checkpoint
in `--work`. The last three need only the shipped preset, `--out`: `styled` writes a second base
model, DIR/styled, which is not shipped. The stages on one line can run at the same time, each on
one core:

    vae | clip
    latents | judge
    images | detector
    motion | metric, reward        (these two need `images`)
    save
    measure | styled | control     (the last two need only the saved preset)
    style_lora
    style_scores
"""

import argparse
import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_motion_model import UNetMotionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from pvtool_core.tinyworld import (
    autoencoder,
    controlnet,
    crowd,
    detector,
    generator,
    image_text,
    measure,
    recognizers,
    restyling,
    samples,
    style_scores,
)

STAGES = (
    "vae",
    "clip",
    "judge",
    "latents",
    "images",
    "detector",
    "motion",
    "metric",
    "reward",
    "save",
    "measure",
    "styled",
    "style_lora",
    "style_scores",
    "control",
)
OF_PRESET = STAGES[STAGES.index("save") :]
"""Stages that read or write the folder of `--out`."""
STEPS = {
    "vae": 4800,
    "clip": 2000,
    "judge": 1500,
    "images": 4400,
    "motion": 2000,
    "detector": 1500,
    "metric": 1800,
    "reward": 1400,
    "styled": 160,
    "style_lora": 300,
    "control": 600,
}
IMAGE_SHARDS, CLIP_SHARDS, POSTER_SHARDS = 24, 14, 6
LORA = Path("styles/poster.safetensors")


class World:
    """Models and data of all stages, each trained or loaded at its first use."""

    def __init__(self, work: Path, scale: float = 1.0) -> None:
        self.work, self.scale = work, scale
        self.steps = {name: max(1, round(steps * scale)) for name, steps in STEPS.items()}
        work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def vae(self) -> AutoencoderKL:
        return autoencoder.train_autoencoder(self.work, self.steps["vae"])

    @cached_property
    def clip(self) -> nn.Module:
        return image_text.train_image_text(image_text.REWARD, self.work, self.steps["clip"])

    @cached_property
    def judge(self) -> nn.Module:
        return image_text.train_image_text(image_text.JUDGE, self.work, self.steps["judge"])

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return image_text.new_tokenizer(self.work / "clip")

    @cached_property
    def text(self) -> CLIPTextModel:
        return image_text.text_encoder(self.clip, len(self.tokenizer))

    def latents(self) -> None:
        for kind, shards in (("images", IMAGE_SHARDS), ("clips", CLIP_SHARDS)):
            generator.encode_shards(
                self.work, self.vae, kind, range(max(1, round(shards * self.scale)))
            )

    @cached_property
    def images(self) -> UNet2DConditionModel:
        data = generator.single_pictures(self.work)
        return generator.train_images(
            self.work, data, self.text, self.tokenizer, self.steps["images"]
        )

    @cached_property
    def motion(self) -> UNetMotionModel:
        data = generator.load_shards(self.work, "clips")
        return generator.train_motion(
            self.work, self.images, data, self.text, self.tokenizer, self.steps["motion"]
        )

    @cached_property
    def crowds(self) -> list[crowd.Crowd]:
        reconstructed = crowd.reconstructed(self.vae)
        looks = {
            "drawn": (3, crowd.drawn(64)),
            "sharp": (2, crowd.drawn(128)),
            "recon": (3, reconstructed),
        }
        return [
            crowd.crowd_of(self.work, name, views, look) for name, (views, look) in looks.items()
        ]

    @cached_property
    def as_generated(self) -> crowd.Looks:
        return crowd.denoised(self.vae, self.images, self.text, self.tokenizer)

    @cached_property
    def denoised(self) -> crowd.Crowd:
        return crowd.crowd_of(self.work, "denoised", 3, self.as_generated)

    @cached_property
    def detector(self) -> detector.Detector:
        return detector.train_detector(self.work, self.crowds, self.steps["detector"])

    def recognizer(self, name: str) -> nn.Module:
        return recognizers.train_recognizer(
            name, self.work, [*self.crowds, self.denoised], self.steps[name]
        )

    @cached_property
    def metric(self) -> nn.Module:
        return self.recognizer("metric")

    @cached_property
    def reward(self) -> nn.Module:
        return self.recognizer("reward")

    def save(self, out: Path) -> None:
        """Write the preset: diffusers and open_clip folders, a face model package, samples."""
        shutil.rmtree(out / "animatediff", ignore_errors=True)
        generator.save_pipeline(
            out / "animatediff", self.vae, self.text, self.tokenizer, self.motion
        )
        for design in (image_text.REWARD, image_text.JUDGE):
            image_text.copy_folder(self.work / design.name, out / design.name)
        (out / "faces").mkdir(parents=True, exist_ok=True)
        detector.export_detector(self.detector, out / "faces/det_tiny.onnx")
        recognizers.export_recognizer(self.reward, out / "faces/rec_reward.onnx")
        recognizers.export_recognizer(self.metric, out / "faces/rec_metric.onnx")
        samples.save_samples(out / "samples")
        samples.save_prompts(out.parent / "prompts")

    def measure(self, out: Path) -> None:
        """Measure the judges on people that no stage was trained on."""
        looks = {
            "drawn": crowd.drawn(64),
            "sharp": crowd.drawn(256),
            "recon": crowd.reconstructed(self.vae),
        }
        looks["denoised"] = self.as_generated
        image_text_models = {"clip": self.clip, "judge": self.judge}
        measure.measure(out, self.vae, image_text_models, self.tokenizer, looks)

    def restyling(self, out: Path) -> restyling.Restyling:
        shards = max(1, round(POSTER_SHARDS * self.scale))
        return restyling.Restyling(out / "animatediff", self.work, shards)

    def styled(self, out: Path) -> None:
        self.restyling(out).save_styled(self.work / "styled", self.steps["styled"])

    def style_lora(self, out: Path) -> None:
        self.restyling(out).save_lora(out / LORA, self.steps["style_lora"])

    def style_scores(self, out: Path) -> None:
        style_scores.measure_style(out, self.work / "styled", out / LORA)

    def control(self, out: Path) -> None:
        """Train a ControlNet for the saved preset: `controlnet` and `control-frames` in `work`."""
        controlnet.train_control(out, self.work, self.steps["control"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints, logs and data"
    )
    parser.add_argument("--out", type=Path, default=Path("presets/tiny"))
    parser.add_argument(
        "--stage", choices=STAGES, action="append", help="run this stage; repeatable [default: all]"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="fraction of the steps and of the data, for example 0.01 for a quick test",
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    world = World(options.work, options.scale)
    for stage in options.stage or STAGES:
        part: Any = getattr(world, stage)
        if stage == "latents":
            part()
        elif stage in OF_PRESET:
            part(options.out)


if __name__ == "__main__":
    main()
