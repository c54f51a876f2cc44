"""Count weights, work and memory of a training run on shapes only, without its weights.

The code of the backbone runs on torch's meta device, where tensors have shapes only. This counts
exactly what will run: both branches of guidance, recomputation, the window of the autoencoder.
Attention is counted as by the flash kernel, which stores no attention matrix.
"""

import dataclasses
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import open_clip
import psutil
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pvtool_core.adapter import IdentityAdapter
from pvtool_core.backbones import Embeds, refused_unless_loaded
from pvtool_core.backbones.interface import adapter_target
from pvtool_core.backbones.memory import blocks_of
from pvtool_core.backbones.meta_model import meta_model, replaced
from pvtool_core.errors import WeightsMissing
from pvtool_core.estimate.requirements import Counts, Machine, Work
from pvtool_core.models.integrity import read_table
from pvtool_core.models.locate import resolve
from pvtool_core.open_clip_model import NOT_A_MODEL, not_a_folder
from pvtool_core.rewards import letterbox
from pvtool_core.settings.jobs import PlanJob
from pvtool_core.settings.objectives import OBJECTIVES
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.events import CountsEvent, MachineEvent, Report

_QUANTISED_BYTES = {
    "int8": 1.0,
    "nf4": 0.5 + 4 / 64,
}  # nf4: a float32 for each 64 weights (bitsandbytes' own default)


class Meter(TorchDispatchMode):
    """Counts floating-point operations, and the bytes that live, of all that runs within it."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        taken = set(_storages((args, kwargs)))
        for key, storage in _storages(result).items():
            if key not in self._known | taken:
                self._born(key, storage)
        return result

    def _born(self, key: int, storage: Any) -> None:
        self._known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _storages(values: Any) -> dict[int, Any]:
    """Return the storages of tensors by an id that all views share."""
    storages: list[Any] = [
        leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)
    ]
    return {storage._cdata: storage for storage in storages}


@contextmanager
def _flash_attention() -> Generator[None]:
    """Return attention as on the accelerator; the meta device would use the full matrix."""

    def flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]

    with replaced(nn.functional, "scaled_dot_product_attention", flash):
        yield


def forward(run: Callable[[], Tensor]) -> Work:
    """Count `run` without a gradient."""
    with _flash_attention(), torch.no_grad(), Meter() as meter:
        run()
    return Work(flops=meter.flops, kept=0, peak=meter.peak)


def with_gradient(run: Callable[[], Tensor]) -> Work:
    """Count `run` and its backward pass; `kept` is alive between them."""
    with _flash_attention(), Meter() as meter:
        result = run()
        kept = meter.live
        result.backward(torch.empty_like(result))
    return Work(flops=meter.flops, kept=kept, peak=meter.peak)


def plan(job: PlanJob, report: Report) -> None:
    """Report the job's `counts`, and the `machine` that it would run on."""
    report(MachineEvent(values=dataclasses.asdict(machine())))
    report(CountsEvent(values=dataclasses.asdict(count(job))))


def machine() -> Machine:
    """Return the accelerator, if any, and the CPU memory."""
    gpu: Any = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    name, memory = (gpu.name, gpu.total_memory) if gpu else ("", 0)
    return Machine(name=name, memory=memory, host_memory=psutil.virtual_memory().total)


def count(job: PlanJob) -> Counts:
    """Count everything that depends on the shapes of the model."""
    model = job.model
    # layers of bitsandbytes cannot be empty: count the linear layers that they replace
    storage = "dtype" if model.storage in _QUANTISED_BYTES else model.storage
    bare = dataclasses.replace(model, device="meta", storage=storage)
    motion = Path(job.motion) if job.motion else None
    backbone: Any = meta_model(
        bare, job.sampler, job.training.recompute, Path(job.architecture), motion
    )
    with refused_unless_loaded(job.architecture, model.family):
        encoders = text_encoders(Path(job.architecture), backbone.dtype.itemsize)
    blocks = blocks_of(backbone.denoiser, model)
    weights, host = sizes(backbone.denoiser, blocks, model.storage, model.offload)
    images, sampled = job.trains_images(), _clip_work(backbone)
    with backbone.as_image_model() if images else nullcontext():
        trained = _clip_work(backbone) if images else sampled
        if OBJECTIVES[job.training.objective].reconstructs:
            parts: dict[str, Any] = {**_NO_REWARDS, "encode": _encoding(job, backbone)}
        else:
            parts = {**_reward_work(job, backbone), "encode": _NOTHING}
        parameters = sum(each.numel() for each in backbone.denoiser.parameters())
        adapter, gradient = _adapted(job, backbone)
    return Counts(
        parameters=parameters,
        denoiser=weights,
        host=host,
        autoencoder=_bytes(backbone.pipeline.vae),
        text_encoders=encoders,
        adapter=adapter,
        gradient=gradient,
        **trained,
        **{f"sample_{name}": value for name, value in sampled.items()},
        **parts,
    )


_NOTHING = Work(flops=0, kept=0, peak=0)
_NO_REWARDS: dict[str, Any] = {
    "frames": _NOTHING,
    "semantic_weights": 0,
    "semantic_frames": _NOTHING,
    "semantic_clip": _NOTHING,
}


def _clip_work(backbone: Any) -> dict[str, Any]:
    """Return the bytes of a clip's latents, the work of a step, and that of decoding the clip."""
    latents, embeds = backbone.initial_latents(0), backbone.prompt_embeds("")
    return {
        "latents": latents.numel() * latents.element_size(),
        "step": forward(lambda: backbone.predict(latents, backbone.num_steps - 1, embeds)),
        "clip": forward(lambda: backbone.decode(latents, range(backbone.num_frames))),
    }


def _reward_work(job: PlanJob, backbone: Any) -> dict[str, Any]:
    """Return the work of decoding and scoring frames."""
    semantic_used = "semantic_reward" not in job.unused_rewards()
    frames = max(job.identity_reward.frames, job.semantic_reward.frames * semantic_used)
    dearest = max(range(backbone.num_frames), key=lambda frame: len(backbone.decoded_with(frame)))
    beside = [frame for frame in backbone.decoded_with(dearest) if frame != dearest]
    chosen = [dearest, *beside[: frames - 1]]
    latents, size = backbone.initial_latents(0), (job.model.height, job.model.width)
    decoded = with_gradient(lambda: backbone.decode(latents.clone().requires_grad_(), chosen))
    if not semantic_used:
        return {**_NO_REWARDS, "frames": decoded}
    reader = (
        torch.float32 if backbone.dtype == torch.float32 else torch.float16
    )  # float32 is for the CPU
    scored = semantic(job.semantic_reward, len(chosen), backbone.num_frames, size, reader)
    return {"frames": decoded, **scored}


def _encoding(job: PlanJob, backbone: Any) -> Work:
    photo = torch.empty(1, 3, job.model.height, job.model.width, device="meta")
    return forward(lambda: backbone.encode(photo, torch.Generator("cpu")))


def _adapted(job: PlanJob, backbone: Any) -> tuple[int, Work]:
    """Return the number of trained weights, and the work of a prediction with their gradient."""
    embeds: Embeds = backbone.prompt_embeds("")
    if job.keyword_vectors:
        read = {name: each.detach().requires_grad_() for name, each in embeds.items()}
        width = read["prompt_embeds"].shape[-1]
        return job.keyword_vectors * width, _gradient(job, backbone, read)
    with torch.device("meta"):
        target = adapter_target(backbone, job.adapter.layers)
        adapter = IdentityAdapter(backbone.denoiser, target, job.adapter.rank)
    with adapter.acting():
        gradient = _gradient(job, backbone, embeds)
    return sum(each.numel() for each in adapter.parameters()), gradient


def _gradient(job: PlanJob, backbone: Any, embeds: Embeds) -> Work:
    """Return the work of a prediction of the adapted model with its backward pass."""
    latents = backbone.initial_latents(0)
    if OBJECTIVES[job.training.objective].reconstructs:
        example = backbone.diffuse(latents, latents, 0.5)
        return with_gradient(lambda: backbone.predict_diffused(example, embeds))
    entering = latents.clone().requires_grad_(job.training.gradient == "replay")
    return with_gradient(lambda: backbone.predict(entering, backbone.num_steps - 1, embeds))


def _bytes(module: nn.Module) -> int:
    return sum(
        each.numel() * each.element_size() for each in (*module.parameters(), *module.buffers())
    )


def sizes(
    denoiser: nn.Module, blocks: list[nn.Module], storage: str, offload: bool
) -> tuple[int, int]:
    """Return the bytes of the denoiser's weights on the device and in CPU memory."""
    in_blocks = sum(_bytes(block) for block in blocks)
    rest = _bytes(denoiser) - in_blocks
    if storage in _QUANTISED_BYTES:
        matrices = [
            each.weight
            for block in blocks
            for each in block.modules()
            if isinstance(each, nn.Linear)
        ]
        saved = sum(
            each.numel() * (each.element_size() - _QUANTISED_BYTES[storage]) for each in matrices
        )
        in_blocks -= round(saved)
    return (rest, in_blocks) if offload else (rest + in_blocks, 0)


def text_encoders(folder: Path, itemsize: int) -> int:
    """Return the bytes of the text encoders."""
    total = 0
    for path in sorted(folder.glob("text_encoder*/config.json")):
        config: Any = transformers.AutoConfig.from_pretrained(path.parent)
        cls: Any = getattr(transformers, config.architectures[0])
        if not issubclass(cls, transformers.PreTrainedModel):
            raise TypeError(f"{path} names {cls.__name__}, which is not a model")
        with torch.device("meta"):
            encoder: nn.Module = cls(config)
        total += sum(each.numel() for each in encoder.parameters()) * itemsize
    return total


def _clip_facts(name: str) -> Any:
    """Return the configuration of an open_clip model by folder or name.

    It is that of ViT-H-14 if the folder is missing.
    """
    if (facts := open_clip.get_model_config(name)) is not None:
        return facts
    try:
        return read_table(resolve(name) / "open_clip_config.json")["model_cfg"]
    except WeightsMissing:
        return open_clip.get_model_config("ViT-H-14")


def semantic(
    config: SemanticRewardConfig, frames: int, whole: int, size: tuple[int, int], dtype: torch.dtype
) -> dict[str, Any]:
    """Count weights and work of the semantic reward.

    Once with a gradient for one iteration, and once without for a whole clip.
    """
    try:
        facts = _clip_facts(config.model)
        with torch.device("meta"):  # texts are read on the CPU
            pictures_half: nn.Module = (
                open_clip.CLIP(**facts).visual.to(dtype).eval().requires_grad_(False)
            )
        side = int(facts["vision_cfg"]["image_size"])
    except NOT_A_MODEL as error:
        raise not_a_folder(config.model) from error

    def score(count: int) -> Tensor:
        pictures = torch.empty(
            count, 3, *size, device="meta", requires_grad=torch.is_grad_enabled()
        )
        return pictures_half(letterbox(pictures, side).to(dtype))

    return {
        "semantic_weights": _bytes(pictures_half),
        "semantic_frames": with_gradient(lambda: score(frames)),
        "semantic_clip": forward(lambda: score(whole)),
    }
