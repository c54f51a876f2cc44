"""Setups of encoder methods: they render every identity, so they come from a preset, not a run."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from pvtool_core.batches.adapters import RunAdapter
from pvtool_core.errors import Mistake, NotReady, SettingsError
from pvtool_core.models.fingerprints import method_fingerprint, with_fingerprints
from pvtool_core.models.locate import locate_method, locate_model
from pvtool_core.settings.jobs import LikenessConfig, Setup
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import Settings


def method_preset(name: str) -> Settings:
    """Return the settings of a method's preset. Raises SettingsError if they are of another one."""
    preset = METHODS[name].preset
    settings = Presets().get(preset).settings()
    if settings.method.name != name:
        raise SettingsError([Mistake("method.name", f"is not {name!r}")], f"the preset {preset}")
    return settings


def encoder_setup(name: str) -> RunAdapter:
    """Return the setup of a method, as that of a run without an adapter.

    Raises NotReady without packages that it needs, WeightsMissing, InputRefused, SettingsError.
    """
    method = METHODS[name]
    if lacking := [package for package in method.packages if not find_spec(package)]:
        raise NotReady(lacking, f"Run `pip install pvtool[{method.extra}]`.")
    settings = method_preset(name)
    model = with_fingerprints(locate_model(settings.model))
    located = locate_method(settings.method)
    own = dataclasses.replace(located, fingerprint=method_fingerprint(located))
    setup = Setup.of(
        dataclasses.replace(settings, model=model, method=own), LikenessConfig.of(settings)
    )
    return RunAdapter(
        adapter=Path(),
        sha256="",
        run="",
        step=0,
        setup=setup,
        start=setup.adapter.start,
        base_model=model.base_model,
        base_fingerprint=model.fingerprint,
    )
