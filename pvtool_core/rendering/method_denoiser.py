"""An encoder method that denoises clips of identities: they share no steps.

The keyword is left out of prompts: the photos alone are the identity, as in the released code.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pvtool_core.backbones import Frames, Latents
from pvtool_core.batches.folder import Group
from pvtool_core.errors import InputRefused
from pvtool_core.methods import load_method
from pvtool_core.models.locate import locate_model
from pvtool_core.models.prompt_limits import report_cuts
from pvtool_core.rendering.denoise import Denoiser
from pvtool_core.settings.jobs import RenderItem, Setup
from pvtool_core.store.events import Report
from pvtool_core.store.prompts import without_keyword
from pvtool_core.store.reference_files import ReferenceFiles, reference_files


class MethodDenoiser(Denoiser):
    """The encoder method of one setup."""

    def __init__(self, setup: Setup, prompts: Sequence[str], report: Report) -> None:
        model = locate_model(setup.model)
        texts = [without_keyword(prompt) for prompt in prompts]
        report_cuts(model, texts, setup.sampler.negative_prompt, report)
        self._method = load_method(replace(setup, model=model), texts, report)
        super().__init__(setup, prompts, self._method.device)

    def renders(self, group: Group) -> bool:
        return self.setup == group.setup and self.prompts.issuperset(group.prompts)

    def restart(self, setup: Setup) -> None:
        assert setup == self.setup, "it renders no other one"

    def prefix(self, prompt: str, seed: int) -> None:
        return None

    def prefix_rate(self) -> float:
        return 0.0

    def final(self, item: RenderItem, prefix: Latents | None) -> Latents:
        """Return the final latents. Raises InputRefused if the identity's photos have changed."""
        return self._method.render(without_keyword(item.prompt), item.seed, self._photos(item))

    def _photos(self, item: RenderItem) -> ReferenceFiles:
        found = reference_files(Path(item.folder), self.setup.likeness.held_out_photos)
        if found.sha256 != item.reference:
            raise InputRefused(
                f"The photos of {item.identity} have changed since the batch was planned.",
                "Run the same command again.",
            )
        return found

    def frames(self, latents: Latents) -> Frames:
        return self._method.decode(latents)

    def release(self) -> None:
        del self._method
