"""Encoder methods: one file per method, which renders an identity from its photos."""

from collections.abc import Sequence

from pvtool_core.errors import InputRefused
from pvtool_core.imports import quick_imports
from pvtool_core.methods.encoder_method import EncoderMethod
from pvtool_core.models.fingerprints import method_fingerprint
from pvtool_core.models.locate import locate_method
from pvtool_core.settings.jobs import Setup
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.references import load_named
from pvtool_core.store.events import Report

__all__ = ["EncoderMethod", "load_method"]


def load_method(setup: Setup, prompts: Sequence[str], report: Report) -> EncoderMethod:
    """Load the encoder method of a setup for these prompts, and report its style LoRAs.

    Raises WeightsMissing, InputRefused if its files differ from those that the job was created for,
    NotReady without packages that it needs.
    """
    method = locate_method(setup.method)
    if method.fingerprint and method_fingerprint(method) != method.fingerprint:
        raise InputRefused(
            f"The weights of {method.name} are not those that this job was created for.",
            "Restore them, or run the same command again to use the changed ones.",
        )
    with quick_imports():
        driver = load_named(METHODS[method.name].driver)
    loaded: EncoderMethod = driver(setup.model, setup.sampler, method, prompts, report)
    return loaded
