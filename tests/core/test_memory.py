"""Memory options change neither outputs nor gradients, except for rounding of quantised weights."""

import importlib
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvtool_core.adapter import IdentityAdapter
from pvtool_core.backbones.hunyuan_video import HunyuanVideo
from pvtool_core.backbones.memory import place
from pvtool_core.errors import InputRefused
from pvtool_core.settings.schema import ModelConfig
from tests.support.small_hunyuan_video import transformer

CPU = torch.device("cpu")


def denoiser(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model: Any = transformer()
    return model.to(dtype).eval().requires_grad_(False)


def blocks_of(model: Any) -> list[nn.Module]:
    return [*model.transformer_blocks, *model.single_transformer_blocks]


def settled(
    storage: str = "dtype", offload: bool = False, dtype: torch.dtype = torch.float32
) -> Any:
    model = denoiser(dtype)
    place(
        model, blocks_of(model), ModelConfig(base_model="", storage=storage, offload=offload), CPU
    )
    return model


def forward(model: Any) -> Tensor:
    generator, dtype = torch.Generator().manual_seed(2), model.dtype
    sizes = {
        "hidden_states": (1, 4, 2, 4, 4),
        "encoder_hidden_states": (1, 7, 16),
        "pooled_projections": (1, 16),
    }
    given = {name: torch.randn(size, generator=generator).to(dtype) for name, size in sizes.items()}
    more = {"timestep": torch.tensor([500.0]), "guidance": torch.tensor([6000.0])}
    return model(**given, **more, encoder_attention_mask=torch.ones(1, 7), return_dict=False)[0]


def output_and_gradients(model: Any, recompute: bool = False) -> list[Tensor]:
    """Return the model's output with a trained adapter, and the adapter's gradients."""
    if recompute:
        model.enable_gradient_checkpointing()
    adapter = IdentityAdapter(model, HunyuanVideo.lora_target, rank=2)
    generator = torch.Generator().manual_seed(1)
    for weight in adapter.parameters():
        weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    with adapter.acting():
        output = forward(model)
        output.float().square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in adapter.parameters())
    return [
        output.detach(),
        *(weight.grad for weight in adapter.parameters() if weight.grad is not None),
    ]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return max(float(torch.dist(a, b) / b.norm()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("storage", ["dtype", "float8"])
def test_offloaded_blocks_give_exactly_the_same_output_and_gradient(
    storage: str, dtype: torch.dtype, recompute: bool
) -> None:
    staying = output_and_gradients(settled(storage, dtype=dtype), recompute)
    assert equal(
        output_and_gradients(settled(storage, offload=True, dtype=dtype), recompute), staying
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_offloaded_block_has_copies_only_while_it_runs(recompute: bool) -> None:
    model = settled(offload=True)
    kept = {
        id(weight): weight.data_ptr() for block in blocks_of(model) for weight in block.parameters()
    }
    weights = {id(weight): weight for block in blocks_of(model) for weight in block.parameters()}
    resting: list[int] = []

    def count(*_: Any) -> None:
        resting.append(sum(weights[key].data_ptr() == place for key, place in kept.items()))

    for block in blocks_of(model):
        block.register_forward_pre_hook(count)
    output_and_gradients(model, recompute)
    in_block = {
        len(list(block.parameters())) - 6 for block in blocks_of(model)
    }  # without the adapter's six
    assert {len(kept) - each for each in resting} == in_block
    assert len(resting) == (
        8 if recompute else 4
    )  # no copies remain when checkpointing interrupts a forward pass
    count()
    assert resting[-1] == len(kept)


def test_adapter_of_offloaded_blocks_is_on_the_gpu() -> None:
    model = denoiser()
    for name, part in model.named_children():
        if "transformer_blocks" not in name:
            part.to("meta")
    adapter = IdentityAdapter(model, HunyuanVideo.lora_target, rank=2)
    assert {weight.device.type for weight in adapter.parameters()} == {"meta"}
    assert adapter.layers["transformer_blocks.0.attn.to_q"].get_base_layer().weight.device == CPU


def rounded_to_float8() -> Any:
    """Return the model with weight matrices rounded to float8, scaled by row."""
    model = denoiser()
    for block in blocks_of(model):
        for name, layer in block.named_modules():
            if isinstance(layer, nn.Linear) and "norm" not in name:
                scale = layer.weight.data.abs().amax(1, keepdim=True) / 448
                layer.weight.data = (layer.weight.data / scale).to(
                    torch.float8_e4m3fn
                ).float() * scale
    return model


@pytest.mark.parametrize("recompute", [False, True])
def test_float8_equals_a_model_with_rounded_weights_exactly(
    recompute: bool,
) -> None:
    ours = output_and_gradients(settled("float8"), recompute)
    assert equal(ours, output_and_gradients(rounded_to_float8(), recompute))
    assert 0.001 < apart(ours, output_and_gradients(denoiser())) < 0.2


def test_float8_stores_blocks_in_one_byte_per_weight_without_modulation_and_adapter() -> None:
    model = settled("float8", dtype=torch.bfloat16)
    adapter = IdentityAdapter(model, HunyuanVideo.lora_target, rank=2)
    stored = {name: weight.dtype for name, weight in model.named_parameters() if weight.dim() == 2}
    float8 = {name for name, dtype in stored.items() if dtype == torch.float8_e4m3fn}
    assert "transformer_blocks.0.attn.to_q.base_layer.weight" in float8
    assert "single_transformer_blocks.1.proj_out.weight" in float8
    assert not any("norm" in name or "embedder" in name or "lora" in name for name in float8)
    assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}


def dequantised(model: Any) -> Any:
    """Return a plain model with the dequantised weights of a quantised one."""
    functional: Any = importlib.import_module("bitsandbytes.functional")
    plain = denoiser()
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if kind == "Linear4bit":
            weight = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        elif kind == "Linear8bitLt":
            weight = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
        else:
            continue
        plain.get_submodule(name).weight.data = weight.clone()
    return plain


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("storage", "rounding"), [("nf4", 1e-5), ("int8", 0.05)])
def test_quantised_model_equals_one_with_dequantised_weights(
    storage: str, rounding: float, recompute: bool
) -> None:
    """int8 is equal only approximately: bitsandbytes also rounds the inputs of a layer."""
    model = settled(storage)
    plain = dequantised(model)
    ours = output_and_gradients(model, recompute)
    assert apart(ours, output_and_gradients(plain)) < rounding
    assert apart(ours, output_and_gradients(denoiser())) > 0.005


@pytest.mark.parametrize(("storage", "bytes_a_weight"), [("nf4", 0.5), ("int8", 1)])
def test_exactly_the_linear_layers_of_blocks_are_quantised(
    storage: str, bytes_a_weight: float
) -> None:
    model, plain = settled(storage), denoiser()
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear):
            shrunk = (
                model.get_submodule(name).weight.nbytes == layer.weight.numel() * bytes_a_weight
            )
            assert shrunk == ("transformer_blocks." in name), name


def test_error_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # type: ignore[misc]
    with pytest.raises(InputRefused, match="bitsandbytes") as refused:
        settled("nf4")
    assert "pvtool[quant]" in str(refused.value.hint)
