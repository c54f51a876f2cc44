"""Style LoRAs in all formats: each tensor has the right effect, or the file is refused.

The expected effects are computed by hand.
"""

import copy
import functools
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from pvtool_core.backbones import load_backbone
from pvtool_core.backbones.style_loras import merge_style_loras
from pvtool_core.errors import ExitStatus, InputRefused
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.models.locate import locate_style
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import LoraConfig, ModelConfig
from pvtool_core.store.events import Event, LoraEvent
from tests.support.families import ANIMATEDIFF, FAMILIES, HUNYUAN_VIDEO, WAN, Family
from tests.support.small_models import with_settings

Tensors = dict[str, Tensor]
PARTS = {
    "animatediff": ("unet", "text_encoder"),
    "hunyuan-video": ("transformer",),
    "wan": ("transformer",),
}
WEIGHT = 0.5


class Styled:
    """The small pipelines, the effect of a LoRA on them, and the events of the last merge."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.folder = folder
        self.events: tuple[LoraEvent, ...] = ()
        self.pipelines: dict[str, Any] = {
            each.name: each.fresh_pipeline(each.job(models)) for each in FAMILIES
        }

    def layer(self, family: Family, name: str) -> Any:
        return _layer(self.pipelines[family.name], name)

    def merge(self, family: Family, tensors: Tensors, **metadata: Any) -> Any:
        """Return a pipeline with these tensors merged at strength 0.5."""
        words = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in metadata.items()
        }
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            self.folder / "style.safetensors",
            words or None,
        )
        return self.merge_file(family, self.folder / "style.safetensors")

    def merge_file(self, family: Family, file: Path) -> Any:
        pipeline = self.pipelines[family.name]
        parts = {name: copy.deepcopy(getattr(pipeline, name)) for name in PARTS[family.name]}
        styled = type(family.pipeline.__name__, (), parts)()
        lora = LoraConfig(file=str(file), weight=WEIGHT)
        model = ModelConfig(base_model="", family=family.name, loras=(lora,))
        self.events = merge_style_loras(styled, model)
        return styled

    def changes(self, family: Family, styled: Any) -> Tensors:
        """Return the difference of each changed parameter, by its name."""
        found: Tensors = {}
        for part in PARTS[family.name]:
            before = dict(getattr(self.pipelines[family.name], part).named_parameters())
            for name, after in getattr(styled, part).named_parameters():
                if not torch.equal(after, before[name]):
                    found[f"{part}.{name}"] = (after - before[name]).detach()
        return found

    def refusal(self, family: Family, tensors: Tensors, **metadata: Any) -> str:
        with pytest.raises(InputRefused) as refused:
            self.merge(family, tensors, **metadata)
        assert refused.value.status is ExitStatus.REFUSED
        assert "style.safetensors" in refused.value.message
        return f"{refused.value.message} {refused.value.hint}"


def _layer(pipeline: Any, name: str) -> Any:
    part, _, path = name.partition(".")
    return getattr(pipeline, part).get_submodule(path)


@pytest.fixture(scope="module")
def styled(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Styled:
    return Styled(models, tmp_path_factory.mktemp("styles"))


def pair(weights: Iterable[Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return random matrices for the concatenation of these weights."""
    shapes = [weight.shape for weight in weights]
    kernel = (1,) * (len(shapes[0]) - 2)
    return torch.randn(rank, *shapes[0][1:]), torch.randn(
        sum(shape[0] for shape in shapes), rank, *kernel
    )


def product(down: Tensor, up: Tensor, shape: Iterable[int]) -> Tensor:
    return (up.double().flatten(1) @ down.double().flatten(1)).reshape(*shape).float()


def assert_changes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert torch.allclose(found[name], change, rtol=1e-4, atol=1e-5), name


# Names and strengths

BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
MOTION = "unet.mid_block.motion_modules.0.transformer_blocks.0"
TEXT = "text_encoder.encoder.layers.0"
KOHYA = "{}.lora_down.weight {}.lora_up.weight {}.alpha"
PEFT = "{}.lora_A.weight {}.lora_B.weight {}.alpha"
DEFAULT = "{}.lora_A.default.weight {}.lora_B.default.weight {}.alpha"
PROCESSOR = "{}_lora.down.weight {}_lora.up.weight {}_lora.alpha"
LINEAR = "{}.lora_linear_layer.down.weight {}.lora_linear_layer.up.weight {}.alpha"

Dialect = tuple[Family, str, dict[str, list[str]]]
DIALECTS: dict[str, Dialect] = {
    "kohya": (
        ANIMATEDIFF,
        KOHYA,
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": [
                f"{BLOCK}.attn1.to_q"
            ],
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": [
                f"{BLOCK}.attn1.to_out.0"
            ],
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": [
                f"{BLOCK}.attn2.to_k"
            ],
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj": [
                f"{BLOCK}.ff.net.0.proj"
            ],
            "lora_unet_down_blocks_0_attentions_0_proj_in": [
                "unet.down_blocks.0.attentions.0.proj_in"
            ],
            "lora_unet_down_blocks_0_resnets_0_conv1": ["unet.down_blocks.0.resnets.0.conv1"],
            "lora_unet_down_blocks_0_resnets_0_time_emb_proj": [
                "unet.down_blocks.0.resnets.0.time_emb_proj"
            ],
            "lora_unet_down_blocks_0_downsamplers_0_conv": [
                "unet.down_blocks.0.downsamplers.0.conv"
            ],
            "lora_unet_time_embedding_linear_1": ["unet.time_embedding.linear_1"],
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj": [f"{TEXT}.self_attn.q_proj"],
            "lora_te_text_model_encoder_layers_0_mlp_fc1": [f"{TEXT}.mlp.fc1"],  # without out_proj
        },
    ),
    "LyCORIS LoCon": (
        ANIMATEDIFF,
        KOHYA,
        {
            "lycoris_up_blocks_0_resnets_0_conv_shortcut": [
                "unet.up_blocks.0.resnets.0.conv_shortcut"
            ]
        },
    ),
    "the original UNet": (
        ANIMATEDIFF,
        KOHYA,
        {
            "diffusion_model.input_blocks.0.0": ["unet.conv_in"],
            "diffusion_model.input_blocks.1.0.in_layers.2": ["unet.down_blocks.0.resnets.0.conv1"],
            "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q": [
                f"{BLOCK}.attn1.to_q"
            ],
            "diffusion_model.input_blocks.2.0.op": ["unet.down_blocks.0.downsamplers.0.conv"],
            "diffusion_model.input_blocks.3.0.emb_layers.1": [
                "unet.down_blocks.1.resnets.0.time_emb_proj"
            ],
            "diffusion_model.middle_block.1.proj_in": ["unet.mid_block.attentions.0.proj_in"],
            "diffusion_model.middle_block.2.out_layers.3": ["unet.mid_block.resnets.1.conv2"],
            "diffusion_model.output_blocks.1.1.conv": ["unet.up_blocks.0.upsamplers.0.conv"],
            "diffusion_model.output_blocks.3.1.proj_out": [
                "unet.up_blocks.1.attentions.1.proj_out"
            ],
            "diffusion_model.time_embed.2": ["unet.time_embedding.linear_2"],
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc2": [
                f"{TEXT}.mlp.fc2"
            ],
        },
    ),
    "kohya with the original UNet's names": (
        ANIMATEDIFF,
        KOHYA,
        {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v": [f"{BLOCK}.attn2.to_v"]},
    ),
    "diffusers": (
        ANIMATEDIFF,
        PEFT,
        {
            f"{BLOCK}.attn1.to_q": [f"{BLOCK}.attn1.to_q"],
            f"{TEXT}.self_attn.out_proj": [f"{TEXT}.self_attn.out_proj"],
        },
    ),
    "PEFT": (
        ANIMATEDIFF,
        PEFT,
        {f"base_model.model.{BLOCK[5:]}.attn1.to_k": [f"{BLOCK}.attn1.to_k"]},
    ),
    "diffusers before PEFT": (
        ANIMATEDIFF,
        PROCESSOR,
        {
            f"{BLOCK}.attn1.processor.to_q": [f"{BLOCK}.attn1.to_q"],
            f"{BLOCK}.attn2.processor.to_out": [f"{BLOCK}.attn2.to_out.0"],
            "text_encoder.text_model.encoder.layers.0.self_attn.to_v": [f"{TEXT}.self_attn.v_proj"],
        },
    ),
    "diffusers before PEFT, linear layers": (
        ANIMATEDIFF,
        LINEAR,
        {"text_encoder.text_model.encoder.layers.0.mlp.fc1": [f"{TEXT}.mlp.fc1"]},
    ),
    "motion LoRA": (
        ANIMATEDIFF,
        PROCESSOR,
        {
            "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0."
            "attention_blocks.1.processor.to_k": [f"{MOTION}.attn2.to_k"],
            f"{MOTION}.attn1.processor.to_out": [f"{MOTION}.attn1.to_out.0"],
        },
    ),
    "musubi-tuner for Wan, attention alone": (
        WAN,
        KOHYA,
        {
            "lora_unet_blocks_0_self_attn_q": ["transformer.blocks.0.attn1.to_q"],
            "lora_unet_blocks_1_cross_attn_o": ["transformer.blocks.1.attn2.to_out.0"],
        },
    ),
    "VideoX-Fun": (
        WAN,
        KOHYA,
        {"lora_unet__blocks_0_ffn_0": ["transformer.blocks.0.ffn.net.0.proj"]},
    ),
    "ComfyUI for Wan": (
        WAN,
        KOHYA,
        {
            "diffusion_model.blocks.0.cross_attn.k": ["transformer.blocks.0.attn2.to_k"],
            "diffusion_model.blocks.0.ffn.2": ["transformer.blocks.0.ffn.net.2"],
            "diffusion_model.patch_embedding": ["transformer.patch_embedding"],
            "diffusion_model.text_embedding.0": [
                "transformer.condition_embedder.text_embedder.linear_1"
            ],
            "diffusion_model.time_embedding.2": [
                "transformer.condition_embedder.time_embedder.linear_2"
            ],
            "diffusion_model.time_projection.1": ["transformer.condition_embedder.time_proj"],
            "diffusion_model.head.head": ["transformer.proj_out"],
        },
    ),
    "DiffSynth": (
        WAN,
        DEFAULT,
        {"pipe.dit.blocks.1.self_attn.v": ["transformer.blocks.1.attn1.to_v"]},
    ),
    "Wan's own names": (
        WAN,
        DEFAULT,
        {"blocks.1.self_attn.o": ["transformer.blocks.1.attn1.to_out.0"]},
    ),
    "PEFT for Wan": (
        WAN,
        PEFT,
        {"base_model.model.blocks.1.attn2.to_q": ["transformer.blocks.1.attn2.to_q"]},
    ),
    "diffusers for Wan": (
        WAN,
        PEFT,
        {"transformer.blocks.1.attn2.to_v": ["transformer.blocks.1.attn2.to_v"]},
    ),
    "OneTrainer for Wan": (
        WAN,
        KOHYA,
        {"lora_transformer_blocks_1_attn1_to_out_0": ["transformer.blocks.1.attn1.to_out.0"]},
    ),
    "musubi-tuner for HunyuanVideo": (
        HUNYUAN_VIDEO,
        KOHYA,
        {
            "lora_unet_double_blocks_1_img_attn_qkv": [
                f"transformer.transformer_blocks.1.attn.to_{i}" for i in "qkv"
            ],
            "lora_unet_double_blocks_1_txt_attn_qkv": [
                f"transformer.transformer_blocks.1.attn.add_{i}_proj" for i in "qkv"
            ],
            "lora_unet_double_blocks_1_img_mlp_fc1": [
                "transformer.transformer_blocks.1.ff.net.0.proj"
            ],
            "lora_unet_double_blocks_1_txt_mod_linear": [
                "transformer.transformer_blocks.1.norm1_context.linear"
            ],
            "lora_unet_single_blocks_1_linear1": [
                *(f"transformer.single_transformer_blocks.1.attn.to_{each}" for each in "qkv"),
                "transformer.single_transformer_blocks.1.proj_mlp",
            ],
            "lora_unet_single_blocks_1_modulation_linear": [
                "transformer.single_transformer_blocks.1.norm.linear"
            ],
        },
    ),
    "ComfyUI for HunyuanVideo": (
        HUNYUAN_VIDEO,
        KOHYA,
        {
            "diffusion_model.double_blocks.0.img_attn.qkv": [
                f"transformer.transformer_blocks.0.attn.to_{each}" for each in "qkv"
            ],
            "diffusion_model.double_blocks.0.txt_attn.proj": [
                "transformer.transformer_blocks.0.attn.to_add_out"
            ],
            "diffusion_model.double_blocks.0.img_mlp.2": [
                "transformer.transformer_blocks.0.ff.net.2"
            ],
            "diffusion_model.double_blocks.0.txt_mod.lin": [
                "transformer.transformer_blocks.0.norm1_context.linear"
            ],
            "diffusion_model.single_blocks.0.modulation.lin": [
                "transformer.single_transformer_blocks.0.norm.linear"
            ],
        },
    ),
    "HunyuanVideo's own names": (
        HUNYUAN_VIDEO,
        PEFT,
        {
            "transformer.double_blocks.0.img_attn_proj": [
                "transformer.transformer_blocks.0.attn.to_out.0"
            ],
            "transformer.single_blocks.0.linear2": [
                "transformer.single_transformer_blocks.0.proj_out"
            ],
            "transformer.img_in.proj": ["transformer.x_embedder.proj"],
            "transformer.final_layer.linear": ["transformer.proj_out"],
            "transformer.guidance_in.mlp.0": [
                "transformer.time_text_embed.guidance_embedder.linear_1"
            ],
            "transformer.txt_in.individual_token_refiner.blocks.0.self_attn_qkv": [
                f"transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_{each}"
                for each in "qkv"
            ],
            "transformer.txt_in.individual_token_refiner.blocks.0.mlp.fc2": [
                "transformer.context_embedder.token_refiner.refiner_blocks.0.ff.net.2"
            ],
        },
    ),
    "diffusers for HunyuanVideo": (
        HUNYUAN_VIDEO,
        PEFT,
        {
            "transformer.transformer_blocks.0.attn.add_k_proj": [
                "transformer.transformer_blocks.0.attn.add_k_proj"
            ],
            "transformer.single_transformer_blocks.1.proj_mlp": [
                "transformer.single_transformer_blocks.1.proj_mlp"
            ],
        },
    ),
}


def written(
    styled: Styled, dialect: Dialect, with_alpha: bool = True
) -> tuple[Tensors, Tensors, list[float]]:
    """Write a file in this format, with another rank and alpha for each layer.

    Returns the file, the changes at rank = alpha, and the scale of each layer.
    """
    family, names, layers = dialect
    tensors, changes, scales = {}, {}, []
    for number, (name, ours) in enumerate(layers.items(), start=2):
        weights = [styled.layer(family, each).weight for each in ours]
        down, up = pair(weights, rank=number)
        scale = (0.25, 1.0, 3.0)[number % 3]
        keys = [each.format(name) for each in names.split()]
        tensors |= {keys[0]: down, keys[1]: up}
        if with_alpha:
            tensors[keys[2]] = torch.tensor(scale * number)
        whole = product(down, up, (len(up), *weights[0].shape[1:]))
        for each, change in zip(
            ours, whole.split([len(weight) for weight in weights]), strict=True
        ):
            changes[f"{each}.weight"] = change
            scales.append(scale)
    return tensors, changes, scales


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_layer_is_merged_with_its_alpha_in_every_format(dialect: str, styled: Styled) -> None:
    tensors, changes, scales = written(styled, DIALECTS[dialect])
    expected = {
        name: WEIGHT * scale * change
        for (name, change), scale in zip(changes.items(), scales, strict=True)
    }
    family = DIALECTS[dialect][0]
    assert_changes(styled.changes(family, styled.merge(family, tensors)), expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_missing_alpha_defaults_to_the_rank(dialect: str, styled: Styled) -> None:
    tensors, changes, _ = written(styled, DIALECTS[dialect], with_alpha=False)
    expected = {name: WEIGHT * change for name, change in changes.items()}
    family = DIALECTS[dialect][0]
    assert_changes(styled.changes(family, styled.merge(family, tensors)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_files_in_fewer_bits_are_merged_in_float32(dtype: torch.dtype, styled: Styled) -> None:
    layer = "transformer.blocks.0.attn1.to_q"
    down, up = (each.to(dtype) for each in pair([styled.layer(WAN, layer).weight], rank=3))
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    expected = WEIGHT * product(down, up, styled.layer(WAN, layer).weight.shape)
    assert_changes(styled.changes(WAN, styled.merge(WAN, tensors)), {f"{layer}.weight": expected})


def test_matrices_and_1x1_convolutions_are_interchangeable(styled: Styled) -> None:
    conv, linear = "unet.down_blocks.0.attentions.0.proj_in", f"{BLOCK}.attn1.to_q"
    tensors: Tensors = {}
    expected: Tensors = {}
    for name in (conv, linear):
        weight = styled.layer(ANIMATEDIFF, name).weight
        down, up = pair([weight], rank=2)
        other = [
            each.flatten(1) if each.ndim == 4 else each[..., None, None] for each in (down, up)
        ]
        tensors |= {f"{name}.lora_A.weight": other[0], f"{name}.lora_B.weight": other[1]}
        expected[f"{name}.weight"] = WEIGHT * product(down, up, weight.shape)
    assert_changes(styled.changes(ANIMATEDIFF, styled.merge(ANIMATEDIFF, tensors)), expected)


def test_halves_of_hunyuan_videos_last_modulation_are_swapped(
    styled: Styled,
) -> None:
    weight = styled.layer(HUNYUAN_VIDEO, "transformer.norm_out.linear").weight
    down, up = pair([weight], rank=2)
    name = "diffusion_model.final_layer.adaLN_modulation.1"
    merged = styled.merge(
        HUNYUAN_VIDEO, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    )
    shift, scale = (WEIGHT * product(down, up, weight.shape)).chunk(2)
    found = styled.changes(HUNYUAN_VIDEO, merged)
    assert_changes(found, {"transformer.norm_out.linear.weight": torch.cat([scale, shift])})


# Alpha in other places

Q, OUT = "transformer.blocks.0.attn1.to_q", "transformer.blocks.1.attn2.to_out.0"
WHERE: list[tuple[dict[str, Any], str, float, float]] = [
    (
        {"lora_adapter_metadata": {"transformer.r": 4, "transformer.lora_alpha": 2}},
        PEFT,
        2 / 4,
        2 / 4,
    ),
    ({"lora_adapter_metadata": {"r": 4, "lora_alpha": 6, "use_rslora": True}}, PEFT, 6 / 2, 6 / 2),
    (
        {
            "lora_adapter_metadata": {
                "transformer.lora_alpha": 4,
                "transformer.alpha_pattern": {"attn1.to_q": 1},
            }
        },
        PEFT,
        1 / 4,
        1,
    ),
    (
        {
            "lora_adapter_metadata": {
                "lora_alpha": 4,
                "alpha_pattern": {r"blocks\.1\..*to_out.0": 8},
            }
        },
        PEFT,
        1,
        2,
    ),
    ({"network_alphas": {f"{Q}.alpha": 2, f"{OUT}.alpha": 12}}, PEFT, 2 / 4, 12 / 4),
    ({"lora_alpha": "2"}, PEFT, 2 / 4, 2 / 4),
    ({"ss_network_alpha": "2", "ss_network_dim": "4"}, "kohya", 2 / 4, 2 / 4),
    ({"ss_network_alpha": "None"}, "kohya", 1, 1),
    (
        {"ss_network_alpha": "2", "ss_network_dim": "4"},
        PEFT,
        1,
        1,
    ),  # already multiplied by a converter
]


@pytest.mark.parametrize(("metadata", "names", "of_q", "of_out"), WHERE)
def test_alpha_is_read_from_the_metadata(
    metadata: dict[str, Any], names: str, of_q: float, of_out: float, styled: Styled
) -> None:
    kohya = {Q: "lora_unet_blocks_0_self_attn_q", OUT: "lora_unet_blocks_1_cross_attn_o"}
    tensors: Tensors = {}
    expected: Tensors = {}
    for name, scale in ((Q, of_q), (OUT, of_out)):
        weight = styled.layer(WAN, name).weight
        down, up = pair([weight], rank=4)
        keys = (
            KOHYA.format(*[kohya[name]] * 3) if names == "kohya" else names.format(*[name] * 3)
        ).split()
        tensors |= {keys[0]: down, keys[1]: up}
        expected[f"{name}.weight"] = WEIGHT * scale * product(down, up, weight.shape)
    assert_changes(styled.changes(WAN, styled.merge(WAN, tensors, **metadata)), expected)


def test_kohyas_alpha_of_3x3_convolutions_is_read_from_the_metadata(styled: Styled) -> None:
    conv = styled.layer(ANIMATEDIFF, "unet.conv_in").weight
    down, up = pair([conv], rank=4)
    tensors = {"lora_unet_conv_in.lora_down.weight": down, "lora_unet_conv_in.lora_up.weight": up}
    said: dict[str, Any] = {
        "ss_network_alpha": "4",
        "ss_network_args": {"conv_dim": "4", "conv_alpha": "2"},
    }
    expected = WEIGHT * 2 / 4 * product(down, up, conv.shape)
    merged = styled.merge(ANIMATEDIFF, tensors, **said)
    assert_changes(styled.changes(ANIMATEDIFF, merged), {"unet.conv_in.weight": expected})


def test_peft_config_affects_strength_and_fingerprint(styled: Styled, tmp_path: Path) -> None:
    weight = styled.layer(WAN, Q).weight
    down, up = pair([weight], rank=4)
    file, name = (
        tmp_path / "adapter_model.safetensors",
        Q.replace("transformer", "base_model.model"),
    )
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, file)
    fingerprints: set[str] = set()
    for alpha in (2, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        expected = WEIGHT * alpha / 4 * product(down, up, weight.shape)
        assert_changes(styled.changes(WAN, styled.merge_file(WAN, file)), {f"{Q}.weight": expected})
        model = ModelConfig(base_model="x", fingerprint="1", loras=(LoraConfig(file=str(file)),))
        fingerprints.add(with_fingerprints(model).loras[0].fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[" * 100_000},
        {"lora_adapter_metadata": {"lora_alpha": "much"}},
        {"lora_adapter_metadata": {"lora_alpha": 4, "alpha_pattern": {"(a+)+b": 8}}},
        {"lora_adapter_metadata": {"lora_alpha": 4, "alpha_pattern": 8}},
        {"lora_alpha": "1e400"},
        {"ss_network_alpha": "Dynamic"},
    ],
)
def test_unknown_alpha_convention_is_refused(metadata: dict[str, Any], styled: Styled) -> None:
    tensors = {
        "lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(2, 24),
        "lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.ones(24, 2),
    }
    assert "cannot be merged at its strength" in styled.refusal(WAN, tensors, **metadata)


def test_a_lora_trained_from_changed_base_weights_is_refused(styled: Styled) -> None:
    tensors = {f"{Q}.lora_A.weight": torch.ones(2, 24), f"{Q}.lora_B.weight": torch.ones(24, 2)}
    said = {"lora_adapter_metadata": {"lora_alpha": 2, "init_lora_weights": "pissa"}}
    assert "pissa" in styled.refusal(WAN, tensors, **said)


# No tensor is ignored


def test_norms_biases_and_modulations_of_a_distillation_are_merged(styled: Styled) -> None:
    """lightx2v and Kijai write low rank for matrices, differences for all other tensors."""
    parameters = dict(styled.pipelines["wan"].transformer.named_parameters())
    places = {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.ffn.0.diff": "blocks.0.ffn.net.0.proj.weight",
        "blocks.0.modulation.diff": "blocks.0.scale_shift_table",
        "head.modulation.diff": "scale_shift_table",
        "patch_embedding.diff": "patch_embedding.weight",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    }
    tensors = {
        f"diffusion_model.{key}": torch.randn_like(parameters[name]) for key, name in places.items()
    }
    expected = {
        f"transformer.{places[key[16:]]}": WEIGHT * tensor for key, tensor in tensors.items()
    }
    name, weight = "diffusion_model.blocks.0.self_attn.q", parameters["blocks.0.attn1.to_q.weight"]
    down, up = pair([weight], rank=2)
    tensors |= {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(1.0),
    }
    expected[f"{Q}.weight"] = WEIGHT / 2 * product(down, up, weight.shape)
    assert_changes(styled.changes(WAN, styled.merge(WAN, tensors)), expected)


def test_differences_of_fused_layers_and_their_biases_are_split(styled: Styled) -> None:
    ours = [f"transformer.transformer_blocks.0.attn.to_{each}" for each in "qkv"]
    layers = [styled.layer(HUNYUAN_VIDEO, each) for each in ours]
    whole, bias = torch.randn(96, 32), torch.randn(96)
    key = "diffusion_model.double_blocks.0.img_attn.qkv"
    merged = styled.merge(HUNYUAN_VIDEO, {f"{key}.diff": whole, f"{key}.diff_b": bias})
    expected = {
        f"{name}.weight": WEIGHT * part for name, part in zip(ours, whole.chunk(3), strict=True)
    }
    expected |= {
        f"{name}.bias": WEIGHT * part for name, part in zip(ours, bias.chunk(3), strict=True)
    }
    assert all(layer.bias is not None for layer in layers)
    assert_changes(styled.changes(HUNYUAN_VIDEO, merged), expected)


def test_bias_of_pefts_up_projection_is_scaled_like_the_layer(styled: Styled) -> None:
    weight = styled.layer(WAN, Q).weight
    down, up = pair([weight], rank=4)
    bias = torch.randn(len(weight))
    tensors = {f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": up, f"{Q}.lora_B.bias": bias}
    merged = styled.merge(WAN, tensors, lora_adapter_metadata={"lora_alpha": 2})
    expected = {
        f"{Q}.weight": WEIGHT / 2 * product(down, up, weight.shape),
        f"{Q}.bias": WEIGHT / 2 * bias,
    }
    assert_changes(styled.changes(WAN, merged), expected)


def test_empty_marker_tensor_is_ignored_and_reported(styled: Styled) -> None:
    tensors, changes, _ = written(styled, DIALECTS["DiffSynth"], with_alpha=False)
    assert (
        styled.changes(WAN, styled.merge(WAN, {**tensors, "v_pred": torch.empty(0)})).keys()
        == changes.keys()
    )
    count = len(tensors)
    (event,) = styled.events
    assert (event.role, event.name) == ("style LoRA", "style.safetensors")
    assert (event.matched, event.keys, event.unmatched) == (count, count + 1, ("'v_pred'",))


def with_other(extra: Mapping[str, Tensor]) -> Tensors:
    return {
        f"{Q}.lora_A.weight": torch.ones(2, 24),
        f"{Q}.lora_B.weight": torch.ones(24, 2),
        **extra,
    }


K = "transformer.blocks.0.attn1.to_k"
LEFT_OVER: list[tuple[dict[str, Tensor], str]] = [
    (
        {"transformer.blocks.0.attn1.surprise": torch.ones(1)},
        "'transformer.blocks.0.attn1.surprise'",
    ),
    (
        {"transformer.blocks.0.attn1.to_k.lora_A.weight": torch.ones(2, 24)},
        "lacks its up matrix",
    ),
    ({"transformer.blocks.0.attn1.to_k.alpha": torch.ones(())}, "lacks its down matrix"),
    ({"transformer.blocks.0.attn1.to_k.dora_scale": torch.ones(24)}, "lacks its down matrix"),
    ({f"{Q}.lora_A.other.weight": torch.ones(2, 24)}, "holds one layer twice"),
    (
        {"diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(24, 2)},
        "holds one layer twice",
    ),
    ({"transformer.blocks.7.attn1.to_q.diff": torch.ones(24, 24)}, "blocks that it does not have"),
    ({"transformer.blocks.0.attn9.to_q.diff": torch.ones(24, 24)}, "unknown names, for example"),
    ({"text_encoder.encoder.block.0.q.diff": torch.ones(24, 24)}, "unknown names, for example"),
    ({"transformer.blocks.0.norm2.diff": torch.ones(23)}, "other sizes"),
    ({f"{Q}.diff_b": torch.ones(23)}, "other sizes"),
    ({f"{Q}.dora_scale": torch.ones(23)}, "other sizes"),
    ({f"{Q}.alpha": torch.ones(2)}, "invalid alpha of"),
    ({"transformer.blocks.0.attn1.norm_q.diff_b": torch.ones(24)}, "has no bias in the model"),
    (
        {f"{K}.lora_A.weight": torch.ones(0, 24), f"{K}.lora_B.weight": torch.ones(24, 0)},
        "other sizes",
    ),
]


@pytest.mark.parametrize(("extra", "words"), LEFT_OVER)
def test_error_names_an_unknown_tensor(
    extra: dict[str, Tensor], words: str, styled: Styled
) -> None:
    said = styled.refusal(WAN, with_other(extra))
    assert words in said
    assert "looks like" not in said


ENDINGS = ["", ".diff", ".alpha", ".lora_A.weight"]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.text(st.characters(codec="utf-8"), max_size=40), ending=st.sampled_from(ENDINGS))
def test_other_tensors_are_refused_and_not_ignored(name: str, ending: str, styled: Styled) -> None:
    key = f"{name}{ending}"
    if key not in with_other({}):
        assert styled.refusal(WAN, with_other({key: torch.ones(2, 3)}))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_layers_ranks_and_alphas_are_merged_as_computed_by_hand(
    styled: Styled, data: st.DataObject
) -> None:
    family, names, layers = DIALECTS[data.draw(st.sampled_from(sorted(DIALECTS)))]
    tensors: Tensors = {}
    expected: Tensors = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(layers)), min_size=1, unique=True)):
        weights = [styled.layer(family, each).weight for each in layers[name]]
        rank, alpha = (
            data.draw(st.integers(1, 6)),
            data.draw(st.none() | st.floats(0.125, 64, width=32)),
        )
        down, up = pair(weights, rank)
        keys = [each.format(name) for each in names.split()]
        tensors |= {keys[0]: down, keys[1]: up}
        if alpha is not None:
            tensors[keys[2]] = torch.tensor(alpha)
        whole = (
            WEIGHT
            * (1 if alpha is None else alpha / rank)
            * product(down, up, (len(up), *weights[0].shape[1:]))
        )
        for each, change in zip(
            layers[name], whole.split([len(weight) for weight in weights]), strict=True
        ):
            expected[f"{each}.weight"] = change
    assert_changes(styled.changes(family, styled.merge(family, tensors)), expected)


# DoRA


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_dora_of_kohya_and_peft_is_merged_like_in_peft(kind: str, styled: Styled) -> None:
    name = {"linear": f"{BLOCK}.attn1.to_q", "conv": "unet.down_blocks.0.resnets.0.conv1"}[kind]
    layer = copy.deepcopy(styled.layer(ANIMATEDIFF, name))
    down, up = pair([layer.weight], rank=2)
    magnitude = torch.rand(len(layer.weight)) + 0.5
    by_peft: Any = get_peft_model(
        nn.Sequential(layer),
        PeftConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True),  # type: ignore[arg-type]
    )
    lora = by_peft.base_model.model[0]
    lora.lora_A["default"].weight.data, lora.lora_B["default"].weight.data = (
        down.clone(),
        up.clone(),
    )
    vector = lora.lora_magnitude_vector["default"]
    vector.weight.data = magnitude.reshape(vector.weight.shape).clone()
    lora.set_scale("default", WEIGHT)
    expected = by_peft.merge_and_unload()[0].weight.detach()

    kohya = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
    column = magnitude.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    of_kohya = {
        f"{kohya}.lora_down.weight": down,
        f"{kohya}.lora_up.weight": up,
        f"{kohya}.alpha": torch.tensor(3.0),
        f"{kohya}.dora_scale": column,
    }
    of_peft = {
        f"{name}.lora_A.weight": down,
        f"{name}.lora_B.weight": up,
        f"{name}.lora_magnitude_vector.weight": vector.weight.data,
    }
    alpha: dict[str, Any] = {"lora_adapter_metadata": {"lora_alpha": 3}}
    for tensors, metadata in ((of_kohya, {}), (of_peft, alpha)):
        merged = styled.merge(ANIMATEDIFF, tensors, **metadata)
        assert torch.allclose(_layer(merged, name).weight, expected, atol=1e-5)


def test_dora_with_input_magnitudes_is_merged_along_that_axis(styled: Styled) -> None:
    """LyCORIS and OneTrainer write magnitudes of shape (1, in)."""
    name = "transformer.blocks.0.ffn.net.0.proj"
    weight = styled.layer(WAN, name).weight
    down, up = pair([weight], rank=2)
    magnitude = torch.rand(1, weight.shape[1]) + 0.5
    key = "diffusion_model.blocks.0.ffn.0"
    tensors = {
        f"{key}.lora_down.weight": down,
        f"{key}.lora_up.weight": up,
        f"{key}.dora_scale": magnitude,
    }
    summed = weight + WEIGHT * product(down, up, weight.shape)
    expected = magnitude * summed / summed.norm(dim=0, keepdim=True)
    assert torch.allclose(_layer(styled.merge(WAN, tensors), name).weight, expected, atol=1e-5)


def test_the_magnitude_of_a_fused_layer_is_split_with_it(styled: Styled) -> None:
    ours = [f"transformer.transformer_blocks.0.attn.to_{each}" for each in "qkv"]
    weight = torch.cat([styled.layer(HUNYUAN_VIDEO, each).weight for each in ours])
    down, up = pair([weight], rank=2)
    magnitude = torch.rand(96, 1) + 0.5
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{key}.lora_down.weight": down,
        f"{key}.lora_up.weight": up,
        f"{key}.dora_scale": magnitude,
    }
    summed = weight + WEIGHT * product(down, up, weight.shape)
    expected = (magnitude * summed / summed.norm(dim=1, keepdim=True)).chunk(3)
    merged = styled.merge(HUNYUAN_VIDEO, tensors)
    for name, part in zip(ours, expected, strict=True):
        assert torch.allclose(_layer(merged, name).weight, part, atol=1e-5)


# Error messages


KEY = "lora_unet_blocks_0_self_attn_q"
LYCORIS: list[tuple[tuple[str, ...], str]] = [
    (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"), "is a LoHa"),
    (("lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"), "is a LoKr"),
    (
        ("lora_down.weight", "lora_up.weight", "lora_mid.weight"),
        "is a LoCon with Tucker decomposition (lora_mid)",
    ),
    (("oft_blocks", "alpha"), "is an OFT"),
    (("a1.weight", "a2.weight", "b1.weight", "b2.weight"), "is a GLoRA"),
    (("weight", "on_input"), "is an (IA)³"),
]


@pytest.mark.parametrize(("parts", "words"), LYCORIS)
def test_error_names_the_kind_of_lycoris(
    parts: tuple[str, ...], words: str, styled: Styled
) -> None:
    said = styled.refusal(WAN, {f"{KEY}.{part}": torch.ones(2, 2) for part in parts})
    assert words in said
    assert "looks like" not in said
    assert "base model" not in said


def flux(names: str) -> Tensors:
    """Return all blocks of FLUX, whose layers have the width of HunyuanVideo's."""
    found: Tensors = {}
    for kind, count in (("transformer_blocks", 19), ("single_transformer_blocks", 38)):
        for number in range(count):
            key = f"transformer.{kind}.{number}.attn.to_q"
            found |= {
                f"{key}.{names}_A.weight": torch.ones(2, 32),
                f"{key}.{names}_B.weight": torch.ones(32, 2),
            }
    return found


OTHERS: list[tuple[Family, Tensors, dict[str, Any], str]] = [
    (WAN, {"transformer.double_blocks.0.img_attn_qkv.diff": torch.ones(6, 2)}, {},
     "HunyuanVideo or FLUX"),
    (HUNYUAN_VIDEO, {"diffusion_model.blocks.0.self_attn.q.diff": torch.ones(6, 6)}, {},
     "looks like one for Wan"),
    (WAN,
     {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.diff":
      torch.ones(6, 6)},
     {"ss_base_model_version": "sdxl_base_v1-0"}, "made for Stable Diffusion XL"),
    (HUNYUAN_VIDEO, {"lora_unet_double_blocks_0_img_attn_qkv.diff": torch.ones(96, 32)},
     {"modelspec.architecture": "flux-1-dev/lora"}, "made for FLUX"),
    (HUNYUAN_VIDEO, {"lora_unet_double_blocks_0_img_mlp_0.diff": torch.ones(96, 32)}, {},
     "looks like one for FLUX"),
    (HUNYUAN_VIDEO, flux("lora"), {}, "made for FLUX"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "tensors", "metadata", "words"), OTHERS)
def test_error_names_the_other_base_model(
    family: Family, tensors: Tensors, metadata: dict[str, Any], words: str, styled: Styled
) -> None:
    said = styled.refusal(family, tensors, **metadata)
    assert words in said
    assert "Use a LoRA that was made for this base model." in said


def test_error_for_another_model_size_shows_the_sizes(styled: Styled) -> None:
    said = styled.refusal(
        WAN, {f"{Q}.lora_A.weight": torch.ones(2, 40), f"{Q}.lora_B.weight": torch.ones(40, 2)}
    )
    assert "is 40×40 in the file and 24×24 in the model." in said
    assert "looks like" not in said


# Values that are not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["lora_A.weight", "alpha", "diff_b"])
def test_error_names_the_tensor_that_is_not_finite(value: float, part: str, styled: Styled) -> None:
    tensors = with_other({f"{Q}.alpha": torch.tensor(2.0), f"{Q}.diff_b": torch.zeros(24)})
    tensors[f"{Q}.{part}"].flatten()[-1] = value
    assert f"'{Q}.{part}'" in styled.refusal(WAN, tensors)


def test_error_names_the_layer_that_is_not_finite_after_merging(styled: Styled) -> None:
    tensors = {
        f"{Q}.lora_A.weight": torch.full((2, 24), 3e38),
        f"{Q}.lora_B.weight": torch.full((24, 2), 3e38),
    }
    assert f"makes weights of '{Q}' not finite in float32" in styled.refusal(WAN, tensors)


def test_overflow_in_the_models_type_is_refused(models: Path, tmp_path: Path) -> None:
    save_file({f"{Q}.diff": torch.full((24, 24), 1e6)}, tmp_path / "style.safetensors")
    job = with_settings(
        WAN.job(models), "model", loras=(LoraConfig(file=str(tmp_path / "style.safetensors")),)
    )
    with pytest.raises(InputRefused, match=r"not finite in float16"):
        load_backbone(replace(job.model, dtype="float16"), job.sampler, [])


# Merged models


@pytest.mark.parametrize(
    ("family", "storages"), [(WAN, ["dtype", "float8"]), (HUNYUAN_VIDEO, ["dtype", "float8"])]
)
def test_different_alphas_are_merged_for_every_storage(
    family: Family, storages: list[str], models: Path, styled: Styled
) -> None:
    dialect = next(each for each in DIALECTS.values() if each[0] is family and each[1] is KOHYA)
    tensors, changes, scales = written(styled, dialect)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        styled.folder / "stored.safetensors",
    )
    job = family.job(models)
    lora = LoraConfig(file=str(styled.folder / "stored.safetensors"), weight=WEIGHT)
    for storage in storages:
        model = replace(job.model, loras=(lora,), storage=storage)
        denoiser: Any = load_backbone(model, job.sampler, []).denoiser
        for (name, change), scale in zip(changes.items(), scales, strict=True):
            layer = denoiser.get_submodule(
                name.removeprefix("transformer.").removesuffix(".weight")
            )
            expected = (
                styled.layer(family, name.removesuffix(".weight")).weight + WEIGHT * scale * change
            )
            found = layer.weight.float() * getattr(layer, "float8_scale", 1.0)
            assert (
                torch.dist(found, expected)
                < (1e-5 if storage == "dtype" else 0.05) * expected.norm()
            ), name


def test_trajectories_of_an_older_merge_are_not_reused(models: Path, styled: Styled) -> None:
    tensors, _, _ = written(styled, DIALECTS["DiffSynth"])
    save_file(tensors, styled.folder / "key.safetensors")
    job: TrainJob = WAN.job(models)
    lora = LoraConfig(file=str(styled.folder / "key.safetensors"))
    events: list[Event] = []
    with_lora, without = (
        load_backbone(
            replace(job.model, loras=loras), job.sampler, [], report=events.append
        ).facts()
        for loras in ((lora,), ())
    )
    assert [event.record()["name"] for event in events] == ["key.safetensors"]
    assert "lora_merge" in with_lora
    assert "lora_merge" not in without


# Invalid files


def header(text: bytes, content: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + content


def entry(offsets: str, shape: str = "[1]", dtype: str = "F32") -> bytes:
    words = f'{{"a.lora_A.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'
    return header(words.encode(), bytes(4))


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "pickle": b"\x80\x04pickle" * 100,
    "deep header": header(b"[" * 200_000),
    "deep in a tensor": header(b'{"a":' * 100_000),
    "deep metadata": header(b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "offset beyond all numbers": entry("[0,1e400]"),
    "offset with 5000 digits": entry(f"[0,{'9' * 5000}]"),
    "offset that is not a number": entry("[0,NaN]"),
    "negative offset": entry("[-4,4]"),
    "text for offset": entry('["0","4"]'),
    "shape beyond all numbers": entry("[0,4]", "[1e400]"),
    "huge shape": entry("[0,4]", "[4611686018427387904,4]"),
    "unknown type": entry("[0,4]", dtype="F1"),
    "type of half a byte": entry("[0,4]", "[8]", "F4"),
    "no utf-8": header(b'{"\xff\xfe":1}'),
    "list for header": header(b"[1,2,3]"),
    "metadata that is not text": header(b'{"__metadata__":{"a":1}}'),
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "overlap": header(
        b'{"a.lora_A.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a.lora_B.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_refused_with_one_message(
    kind: str, styled: Styled, tmp_path: Path
) -> None:
    file = tmp_path / "hostile.safetensors"
    file.write_bytes(HOSTILE[kind])
    for read in (functools.partial(styled.merge_file, WAN, file), functools.partial(located, file)):
        refusal = refusal_of(read)
        if refusal:
            assert str(file) in refusal
            assert "\n" not in refusal
    assert refusal_of(functools.partial(styled.merge_file, WAN, file))


def located(file: Path) -> ModelConfig:
    return locate_style(ModelConfig(base_model="x", loras=(LoraConfig(file=str(file)),)))


def refusal_of(read: Callable[[], Any]) -> str:
    try:
        read()
    except InputRefused as error:
        return error.message
    return ""


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_file_with_one_wrong_byte_is_merged_or_refused(
    place: int, byte: int, styled: Styled
) -> None:
    file = styled.folder / "damaged.safetensors"
    save_file(with_other({f"{Q}.alpha": torch.tensor(2.0)}), file, {"lora_alpha": "2"})
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(bytes(content))
    refusal_of(functools.partial(styled.merge_file, WAN, file))


@pytest.mark.parametrize("name", ["style.pt", "style.ckpt", "style.bin", "style"])
def test_pickled_lora_is_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(HOSTILE["pickle"])
    with pytest.raises(InputRefused, match=r"is not a \.safetensors file"):
        located(tmp_path / name)


def test_folder_or_pipe_instead_of_lora_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name in ("folder", "pipe"):
        with pytest.raises(InputRefused, match=r"is not a regular file"):
            located(tmp_path / f"{name}.safetensors")


def test_names_with_control_characters_are_quoted_in_refusals(styled: Styled) -> None:
    said = styled.refusal(WAN, with_other({"a\x1b[31m\nb.diff": torch.ones(2)}))
    assert "\x1b" not in said
    assert "\n" not in said
