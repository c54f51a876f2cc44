"""A video model whose clips are mirrored."""

from collections.abc import Mapping, Sequence
from typing import Any

from pvtool_core.backbones.animatediff import AnimateDiff
from pvtool_core.backbones.interface import Frames, Latents


class Mirror(AnimateDiff):
    """AnimateDiff, with left and right exchanged."""

    def decode(self, latents: Latents, frames: Sequence[int]) -> Frames:
        """Return the mirrored frames."""
        return super().decode(latents, frames).flip(-1)

    def facts(self) -> Mapping[str, Any]:
        """Return what trajectories depend on: those of AnimateDiff are not shared."""
        return {**super().facts(), "mirrored": True}
