"""A loaded model that makes the final latents of clips, several at once where the memory holds them.

Clips of one prompt and seed share their adapter-free steps through the trajectory cache, whoever they show. What goes
through the model together is of different prompts and seeds, and of one adapter.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from pvtool_core.adapter import IdentityAdapter, load_adapter, read_rank, switch_step
from pvtool_core.backbones import Backbone, Latents, joined, load_backbone
from pvtool_core.backbones.interface import to_pixels
from pvtool_core.batches.rates import Rate, note
from pvtool_core.errors import InputRefused, WeightsMissing
from pvtool_core.files import sha256_of
from pvtool_core.media.decode import Pixels
from pvtool_core.models.locate import locate_model
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.paths import trajectories_dir
from pvtool_core.sampling import denoise
from pvtool_core.settings.jobs import RenderItem, Setup
from pvtool_core.trajectories import Report, Switch, TrajectoryCache

_MOST_AT_ONCE = 8
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class DenoisedClip:
    """A clip's final latents, and how many clips went through the model together before and after the switch."""

    item: RenderItem
    latents: Latents
    widths: tuple[int, int]
    seconds: float = 0.0
    """This clip's share of the denoising."""


class ClipDenoiser:
    """One setup, loaded for `prompts`, with at most one adapter in it."""

    def __init__(
        self, setup: Setup, prompts: Sequence[str], report: Report, gigabytes: float
    ) -> None:
        model = locate_model(setup.model)
        report_cuts(model, prompts, setup.sampler.negative_prompt, report)
        self.backbone: Backbone = load_backbone(model, setup.sampler, prompts)
        self.first_step = switch_step(setup.adapter.start, setup.sampler.num_inference_steps)
        self.cache = TrajectoryCache(
            trajectories_dir(), self.backbone, self.first_step, report, gigabytes
        )
        self.prompts = frozenset(prompts)
        self._setup = setup
        self._spent, self._tails = {"switch": 0.0, "tail": 0.0}, 0
        self._adapter: IdentityAdapter | None = None
        self._adapter_file = ""

    def switches(self, items: Sequence[RenderItem]) -> dict[tuple[str, int], Switch]:
        """What the clips share, by prompt and seed."""
        began = time.monotonic()
        pairs = list(dict.fromkeys((item.prompt, item.seed) for item in items))
        width = max(item.switch_width for item in items)
        found = dict(zip(pairs, self.cache.switches(pairs, width), strict=True))
        self._settle("switch", began)
        return found

    def tails(
        self, items: Sequence[RenderItem], switches: dict[tuple[str, int], Switch]
    ) -> list[DenoisedClip]:
        """The final latents of clips by one adapter, or by none. Raises what is wrong with the adapter."""
        adapter = self._loaded(items[0]) if items[0].adapter else None
        began = time.monotonic()
        rows = [*items, *[items[-1]] * (items[0].tail_width - len(items))]
        if (
            adapter is None
            and len(rows) == 1
            and switches[items[0].prompt, items[0].seed].width == 1
        ):
            final = [
                self.cache.final(items[0].prompt, items[0].seed)
            ]  # training has made some of them
        else:
            entering = torch.cat([switches[item.prompt, item.seed].latents for item in rows])
            embeds = joined([self.backbone.prompt_embeds(item.prompt) for item in rows])
            steps = range(self.first_step, self.backbone.num_steps)
            final = denoise(self.backbone, entering, embeds, steps, adapter).split(1)
        seconds = self._settle("tail", began) / len(items)
        self._tails += len(rows)
        widths = [(switches[item.prompt, item.seed].width, len(rows)) for item in items]
        return [DenoisedClip(*each, seconds) for each in zip(items, final, widths, strict=False)]

    @torch.no_grad()
    def decode(self, latents: Latents) -> Pixels:
        """Every frame of a clip, as pixels."""
        return to_pixels(self.backbone.decode(latents, range(self.backbone.num_frames)))

    @property
    def seconds(self) -> float:
        """Spent denoising."""
        return sum(self._spent.values())

    def note_rate(self) -> None:
        """Keep how long clips of this setup take."""
        switches, tails = self.cache.computed, self._tails
        switch = self._spent["switch"] / switches if switches else None
        note(self._setup, Rate(switch, self._spent["tail"] / tails if tails else None))

    def _settle(self, what: str, began: float) -> float:
        """Count the time until the device is done, and not only until it knows what to do."""
        if self.backbone.device.type == "cuda":
            torch.cuda.synchronize(self.backbone.device)
        took = time.monotonic() - began
        self._spent[what] += took
        return took

    def _loaded(self, item: RenderItem) -> IdentityAdapter:
        if self._adapter is None or self._adapter_file != item.adapter:
            self._adapter = self._load(item)
            self._adapter_file = item.adapter
        return self._adapter

    def _load(self, item: RenderItem) -> IdentityAdapter:
        file, backbone = Path(item.adapter), self.backbone
        _check_adapter(file, item.adapter_sha256)
        self._adapter_file = ""
        if self._adapter and self._adapter.rank == read_rank(file):
            self._adapter.load(file, backbone.lora_layout)
            return self._adapter
        if self._adapter:
            self._adapter.remove()
            self._adapter = None
        return load_adapter(file, backbone.denoiser, backbone.lora_target, backbone.lora_layout)


class LoadedModel:
    """Holds the one model that is loaded, for as long as clips of its setup are wanted."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._maker: ClipDenoiser | None = None
        self._before = 0.0

    @property
    def denoising_seconds(self) -> float:
        """Of this model and of those before it."""
        return self._before + (self._maker.seconds if self._maker else 0.0)

    def has(self, setup: Setup, prompt: str) -> bool:
        return self._setup == setup and self._maker is not None and prompt in self._maker.prompts

    def take(
        self, setup: Setup, prompts: Sequence[str], report: Report, gigabytes: float
    ) -> ClipDenoiser:
        """The model of a setup, loaded for at least the first of `prompts`. Raises what is wrong with it."""
        if self._maker is None or not self.has(setup, prompts[0]):
            self._before = self.denoising_seconds
            self.close()  # the old one goes before the new one comes
            free_memory()
            report("stage", stage="loading")
            self._maker, self._setup = ClipDenoiser(setup, prompts, report, gigabytes), setup
        return self._maker

    def close(self) -> None:
        """Let the model go, and keep how fast it was."""
        if self._maker:
            with suppress(OSError):  # no more than an estimate is lost
                self._maker.note_rate()
        self._maker = None


def free_memory() -> None:
    """Give back to the device what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_adapter(file: Path, sha256: str) -> None:
    if not file.is_file():
        raise WeightsMissing(
            str(file), "Its run was removed or has dropped that checkpoint; render a newer one."
        )
    if _sha256_of(file, file.stat().st_mtime_ns) != sha256:
        raise InputRefused(
            f"The adapter {file} is not the one that was asked for.", "Give the same command again."
        )


@lru_cache(maxsize=1024)
def _sha256_of(file: Path, _changed: int) -> str:
    return sha256_of(file)


class Width:
    """How many clips go through the model at once: as many as wanted, or as the memory holds; fewer once it was full.

    A CPU takes them one by one: together they are no faster there.
    """

    def __init__(self, wanted: str) -> None:
        self.now = 1 if wanted == "auto" else int(wanted)
        self._open = wanted == "auto"

    def measure(self, device: torch.device) -> None:
        """Once a clip has gone through, see for how many there is room. Its memory is the peak so far."""
        if not self._open or device.type != "cuda":
            return
        self._open = False
        held, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
        self.now = max(1, min(_MOST_AT_ONCE, int(_SHARE_OF_MEMORY * free / max(1, peak - held))))

    def halve(self) -> None:
        """As `now` were too many."""
        self._open = False
        self.now = max(1, self.now // 2)


def by_adapter(items: Sequence[RenderItem]) -> Iterator[list[RenderItem]]:
    """Clips by one adapter each, those without first."""
    for adapter in sorted({item.adapter for item in items}):
        yield [item for item in items if item.adapter == adapter]
