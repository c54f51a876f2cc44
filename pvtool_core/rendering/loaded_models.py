"""The model of one setup that is loaded at a time, and the clips that it denoises."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from pvtool_core.batches.folder import Group
from pvtool_core.errors import Interrupted, PvError, from_foreign
from pvtool_core.rendering.denoise import ClipDenoiser, DenoisedClip, Denoiser, free_memory
from pvtool_core.rendering.likeness_scorer import LikenessScorer
from pvtool_core.rendering.results import Results
from pvtool_core.settings.jobs import Setup
from pvtool_core.store.events import Report, StageEvent


class Models:
    """Keeps one model loaded until clips of another setup or of other prompts follow.

    `scorer` keeps the face models of all setups.
    """

    def __init__(self, report: Report, cache_gigabytes: float) -> None:
        self.scorer = LikenessScorer()
        self._report, self._gigabytes = report, cache_gigabytes
        self._loaded: Denoiser | None = None

    def get(self, group: Group) -> Denoiser | None:
        """Return the model if it is loaded for the setup and the prompts of a group."""
        loaded = self._loaded
        return loaded if loaded and loaded.setup == group.setup and loaded.renders(group) else None

    def load(self, group: Group) -> Denoiser:
        """Load the model of a group in place of the previous one.

        It stays loaded if only the first active step differs. Raises WeightsMissing, InputRefused,
        NotReady.
        """
        loaded = self._loaded
        if loaded and loaded.renders(group):
            loaded.restart(group.setup)
            return loaded
        self.close()  # the memory may be too small for both
        free_memory()
        self._report(StageEvent(stage="loading"))
        self._loaded = self._denoiser(group)
        return self._loaded

    def _denoiser(self, group: Group) -> Denoiser:
        if not group.setup.method.name:
            return ClipDenoiser(group, self._report, self._gigabytes)
        from pvtool_core.rendering.method_denoiser import MethodDenoiser  # with its libraries

        return MethodDenoiser(group.setup, group.prompts, self._report)

    def close(self) -> None:
        """Release the model."""
        if self._loaded:
            self._loaded.close()
        self._loaded = None

    def __enter__(self) -> "Models":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def denoise(
    groups: Iterable[Group], models: Models, results: Results, wait: Callable[[], None]
) -> Iterator[DenoisedClip]:
    """Yield the final latents of each clip, and report clips that fail.

    If a model cannot be loaded, all clips of its setup fail. `wait` waits until yielded clips are
    decoded.
    """
    errors: dict[Setup, PvError] = {}
    for group in groups:
        denoiser = models.get(group)
        if denoiser is None and group.setup not in errors:
            wait()  # clips being decoded need the model that is released
            try:
                denoiser = models.load(group)
            except Interrupted:
                raise
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                errors[group.setup] = from_foreign(error).with_traceback(None)  # frees tensors
            results.progress()
        if denoiser:
            yield from denoiser.denoise(group, results)
        else:
            for item in group.items:
                results.failed(item, errors[group.setup])
