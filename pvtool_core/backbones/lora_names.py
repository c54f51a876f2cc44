"""Layer names in LoRA files: all names of a layer in the dialects of other tools.

The tables are built from the model itself, so that flattened names such as
`blocks_0_cross_attn_k_img` need no parsing. Supported are the names of diffusers, of the original
code of each model and of ComfyUI; the first two also flattened (`.` replaced by `_`), as kohya-ss,
musubi-tuner and LyCORIS write them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from pvtool_core.settings.references import load_named


@dataclass(frozen=True)
class Rows:
    """Rows of a layer, all or `start` to `stop`; `path` is the layer's or a parameter's."""

    component: str
    path: str
    start: int = 0
    stop: int | None = None

    def __str__(self) -> str:
        return self.path


Target = tuple[Rows, ...]
"""Target of a layer in a file; several for a concatenation of our layers, such as fused q, k, v."""
Table = dict[str, Target]
Sizes = Mapping[str, int]
"""Number of rows of each layer, by its path."""

_PREFIXES = (
    "base_model.model.",  # PEFT
    "model.diffusion_model.",
    "diffusion_model.",  # ComfyUI
    "pipe.dit.",  # DiffSynth
    "dit.",
    "transformer.",
    "unet.",
    "text_encoder.",
    "text_encoders.clip_l.transformer.",
    "cond_stage_model.transformer.",
    "clip_l.transformer.",
    "clip_l.",
    "module.",
    "model.",
    "lora_unet__",  # VideoX-Fun
    "lora_unet_",
    "lora_transformer_",  # OneTrainer
    "lora_te_",
    "lora_te1_",
    "lycoris_",
)
_MOST_PREFIXES = 6


def layer_names(components: Mapping[str, nn.Module], originals: Mapping[str, str]) -> Table:
    """Map every name of a layer in any dialect, without prefixes, to its rows.

    `originals` has for each component the function for its original names; see `Family.lora_names`.
    """
    table: Table = {}
    for component, model in components.items():
        sizes = _sizes(model)
        own = [(path, (Rows(component, path),)) for path in sizes]
        named = load_named(originals[component]) if originals[component] else None
        original: list[tuple[str, Target]] = [*named(component, sizes)] if named else []
        shortened = [
            (name.removesuffix(".0"), rows) for name, rows in own if name.endswith(".to_out.0")
        ]
        dotted = [*own, *shortened, *original]
        flat = [(name.replace(".", "_"), rows) for name, rows in dotted]
        of_comfyui = [(_in_comfyui(name), rows) for name, rows in original]
        for name, rows in [*dotted, *flat, *of_comfyui]:
            table.setdefault(name, rows)
    return table


def without_prefixes(name: str, table: Mapping[str, Target]) -> str:
    """Return the layer name as in `table`, or without any known prefix if it is missing there."""
    for _ in range(_MOST_PREFIXES):
        prefix = next((each for each in _PREFIXES if name.startswith(each)), None)
        if name in table or prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def _sizes(model: nn.Module) -> Sizes:
    paths: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        path = re.sub(r"\.(weight|bias)$", "", name)
        paths[path] = len(parameter) if parameter.ndim else 1
    return paths


Names = Iterator[tuple[str, Target]]
Renames = Sequence[tuple[str, str]]


def _renamed(path: str, renames: Renames) -> str:
    for pattern, name in renames:
        path = re.sub(pattern, name, path)
    return path


# Stable Diffusion with motion modules

_RESNET: Renames = (
    (r"\.norm1$", ".in_layers.0"),
    (r"\.conv1$", ".in_layers.2"),
    (r"\.time_emb_proj$", ".emb_layers.1"),
    (r"\.norm2$", ".out_layers.0"),
    (r"\.conv2$", ".out_layers.3"),
    (r"\.conv_shortcut$", ".skip_connection"),
)
_OUTER: Mapping[str, str] = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_UNET_BLOCK = re.compile(
    r"(?P<block>down_blocks\.(?P<down>\d+)|up_blocks\.(?P<up>\d+)|mid_block)"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\.(?P<rest>.+)"
)
_MOTION: Renames = (
    (r"\.(motion_modules\.\d+)\.", r".\1.temporal_transformer."),
    (r"\.attn1\.", ".attention_blocks.0."),
    (r"\.attn2\.", ".attention_blocks.1."),
)


def unet_names(component: str, sizes: Sizes) -> Names:
    """Yield names of the original Stable Diffusion code and of AnimateDiff's."""
    layers = 1 + max(
        int(found[1])
        for path in sizes
        if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)", path))
    )
    with_attention = {
        found[1] for path in sizes if (found := re.match(r"(up_blocks\.\d+)\.attentions\.", path))
    }
    for path in sizes:
        rows = (Rows(component, path),)
        if path in _OUTER:
            yield _OUTER[path], rows
        elif ".motion_modules." in path:
            yield _renamed(path, _MOTION), rows
        elif found := _UNET_BLOCK.fullmatch(path):
            yield _in_original_unet(found, layers, found["block"] in with_attention), rows


def _in_original_unet(found: re.Match[str], layers: int, attention: bool) -> str:
    kind, number, rest = found["kind"], int(found["number"]), found["rest"]
    if kind == "resnets":
        rest = _renamed(f".{rest}", _RESNET)[1:]
    inner = int(kind == "attentions")
    if found["down"]:
        first = 1 + int(found["down"]) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{first + number}.{inner}.{rest}"
    if found["up"]:
        first = int(found["up"]) * (layers + 1)
        if kind == "upsamplers":
            return f"output_blocks.{first + layers}.{1 + attention}.{rest}"
        return f"output_blocks.{first + number}.{inner}.{rest}"
    return f"middle_block.{1 if inner else 2 * number}.{rest}"


_ATTENTION_OF_TEXT: Renames = ((r"\.([qkv])_proj$", r".to_\1"), (r"\.out_proj$", ".to_out"))


def clip_names(component: str, sizes: Sizes) -> Names:
    """Yield names with and without `text_model`, and diffusers' old names of CLIP's attention.

    The old names are those before PEFT.
    """
    for path in sizes:
        bare, rows = path.removeprefix("text_model."), (Rows(component, path),)
        for name in dict.fromkeys((bare, _renamed(bare, _ATTENTION_OF_TEXT))):
            yield name, rows
            yield f"text_model.{name}", rows


# Wan

_WAN: Renames = (
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.image_embedder\.norm1$", "img_emb.proj.0"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
    (r"^condition_embedder\.image_embedder\.norm2$", "img_emb.proj.4"),
    (r"^proj_out$", "head.head"),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
    (r"^(blocks\.\d+)\.norm2$", r"\1.norm3"),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])$", r".\1"),
    (r"\.to_out\.0$", ".o"),
    (r"\.add_([kv])_proj$", r".\1_img"),
    (r"\.norm_added_k$", ".norm_k_img"),
    (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
    (r"\.ffn\.net\.2$", ".ffn.2"),
)


def wan_names(component: str, sizes: Sizes) -> Names:
    """Yield names of the original Wan code."""
    for path in sizes:
        yield _renamed(path, _WAN), (Rows(component, path),)


# HunyuanVideo

_HUNYUAN: Renames = (
    (r"^x_embedder\.", "img_in."),
    (r"^proj_out$", "final_layer.linear"),
    (r"^time_text_embed\.timestep_embedder\.linear_1$", "time_in.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2$", "time_in.mlp.2"),
    (r"^time_text_embed\.guidance_embedder\.linear_1$", "guidance_in.mlp.0"),
    (r"^time_text_embed\.guidance_embedder\.linear_2$", "guidance_in.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1$", "vector_in.in_layer"),
    (r"^time_text_embed\.text_embedder\.linear_2$", "vector_in.out_layer"),
    (r"^context_embedder\.proj_in$", "txt_in.input_embedder"),
    (
        r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1$",
        "txt_in.t_embedder.mlp.0",
    ),
    (
        r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2$",
        "txt_in.t_embedder.mlp.2",
    ),
    (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
    (
        r"^context_embedder\.token_refiner\.refiner_blocks\.",
        "txt_in.individual_token_refiner.blocks.",
    ),
    (r"^(txt_in\..*)\.attn\.to_out\.0$", r"\1.self_attn_proj"),
    (r"^(txt_in\..*)\.ff\.net\.0\.proj$", r"\1.mlp.fc1"),
    (r"^(txt_in\..*)\.ff\.net\.2$", r"\1.mlp.fc2"),
    (r"^(txt_in\..*)\.norm_out\.linear$", r"\1.adaLN_modulation.1"),
    (r"^single_transformer_blocks\.", "single_blocks."),
    (r"^(single_blocks\.\d+)\.proj_out$", r"\1.linear2"),
    (r"^(single_blocks\.\d+)\.norm\.linear$", r"\1.modulation.linear"),
    (r"^(single_blocks\.\d+)\.attn\.norm_([qk])$", r"\1.\2_norm"),
    (r"^transformer_blocks\.", "double_blocks."),
    (r"^(double_blocks\.\d+)\.norm1\.linear$", r"\1.img_mod.linear"),
    (r"^(double_blocks\.\d+)\.norm1_context\.linear$", r"\1.txt_mod.linear"),
    (r"^(double_blocks\.\d+)\.ff\.", r"\1.img_mlp."),
    (r"^(double_blocks\.\d+)\.ff_context\.", r"\1.txt_mlp."),
    (r"_mlp\.net\.0\.proj$", "_mlp.fc1"),
    (r"_mlp\.net\.2$", "_mlp.fc2"),
    (r"^(double_blocks\.\d+)\.attn\.to_out\.0$", r"\1.img_attn_proj"),
    (r"^(double_blocks\.\d+)\.attn\.to_add_out$", r"\1.txt_attn_proj"),
    (r"^(double_blocks\.\d+)\.attn\.norm_([qk])$", r"\1.img_attn_\2_norm"),
    (r"^(double_blocks\.\d+)\.attn\.norm_added_([qk])$", r"\1.txt_attn_\2_norm"),
)
_FUSED: Sequence[tuple[str, str, Sequence[str]]] = (
    (
        r"transformer_blocks\.(\d+)\.attn\.to_q",
        r"double_blocks.\1.img_attn_qkv",
        ("attn.to_q", "attn.to_k", "attn.to_v"),
    ),
    (
        r"transformer_blocks\.(\d+)\.attn\.add_q_proj",
        r"double_blocks.\1.txt_attn_qkv",
        ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    ),
    (
        r"single_transformer_blocks\.(\d+)\.attn\.to_q",
        r"single_blocks.\1.linear1",
        ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    ),
    (
        r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)\.attn\.to_q",
        r"txt_in.individual_token_refiner.blocks.\1.self_attn_qkv",
        ("attn.to_q", "attn.to_k", "attn.to_v"),
    ),
)
_LAST_MODULATION = "norm_out.linear"


def hunyuan_video_names(component: str, sizes: Sizes) -> Names:
    """Yield names of the original HunyuanVideo code."""
    for path, rows in sizes.items():
        if path == _LAST_MODULATION:  # shift and scale, which diffusers has in reverse order
            halves = (Rows(component, path, rows // 2), Rows(component, path, 0, rows // 2))
            yield "final_layer.adaLN_modulation.1", halves
        elif (name := _renamed(path, _HUNYUAN)) != path:
            yield name, (Rows(component, path),)
        for pattern, fused, parts in _FUSED:
            if found := re.fullmatch(pattern, path):
                block = path.rpartition(".attn.")[0]
                yield (
                    found.expand(fused),
                    tuple(Rows(component, f"{block}.{part}") for part in parts),
                )


_COMFYUI: Renames = (
    (r"\b(img|txt)_attn_(qkv|proj)$", r"\1_attn.\2"),
    (r"\b(img|txt)_attn_q_norm$", r"\1_attn.norm.query_norm"),
    (r"\b(img|txt)_attn_k_norm$", r"\1_attn.norm.key_norm"),
    (r"^(single_blocks\.\d+)\.q_norm$", r"\1.norm.query_norm"),
    (r"^(single_blocks\.\d+)\.k_norm$", r"\1.norm.key_norm"),
    (r"\b((?:img_|txt_)?mlp)\.fc1$", r"\1.0"),
    (r"\b((?:img_|txt_)?mlp)\.fc2$", r"\1.2"),
    (r"\b(img_mod|txt_mod|modulation)\.linear$", r"\1.lin"),
    (r"\bself_attn_(qkv|proj)$", r"self_attn.\1"),
    (r"^(time_in|guidance_in)\.mlp\.0$", r"\1.in_layer"),
    (r"^(time_in|guidance_in)\.mlp\.2$", r"\1.out_layer"),
    (r"^txt_in\.t_embedder\.mlp\.0$", "txt_in.t_embedder.in_layer"),
    (r"^txt_in\.t_embedder\.mlp\.2$", "txt_in.t_embedder.out_layer"),
    (r"^txt_in\.c_embedder\.linear_1$", "txt_in.c_embedder.in_layer"),
    (r"^txt_in\.c_embedder\.linear_2$", "txt_in.c_embedder.out_layer"),
)


def _in_comfyui(name: str) -> str:
    """Return ComfyUI's name of a HunyuanVideo layer; other names are unchanged.

    ComfyUI's names are not supported flattened: `double_blocks_0_img_mlp_0` is kohya-ss's name of a
    FLUX layer.
    """
    return _renamed(name, _COMFYUI)
