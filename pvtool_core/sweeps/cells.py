"""Cells of a sweep: a variant, an identity and a training seed, each trained and evaluated once.

A cell is identified by a hash of everything that its weights depend on, so that several sweeps
share the run of equal cells.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pvtool_core.batches.clips import model_facts
from pvtool_core.batches.encoder_methods import method_preset
from pvtool_core.errors import Missing, PvError, UsageError, WeightsMissing
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.models.locate import locate_model
from pvtool_core.paths import runs_dir
from pvtool_core.settings.schema import ModelConfig, Settings
from pvtool_core.settings.toml import Table, to_table
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.prompts import Banks, fill
from pvtool_core.store.runs import RunFolder
from pvtool_core.store.summary import job_of
from pvtool_core.sweeps.sweep_file import Sweep, Variant

_KEY_IN_NAME = 8
_LONGEST_NAME = 64
_WITHOUT_EFFECT = {"prompts", "seeds"}
"""Settings of the evaluation that weights do not depend on."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: its place in the table, and all that its run is created from.

    `settings` are those of the run before weights are located; `texts` are the training prompts,
    `shown` the evaluation prompts, and `key` identifies the cell. A cell of an encoder `method` has
    no run.
    """

    sweep: str
    variant: str
    identity: Identity
    seed: int
    preset: str
    settings: Settings
    texts: tuple[str, ...]
    shown: tuple[str, ...]
    metrics: tuple[str, ...]
    key: str
    method: str = ""

    @property
    def label(self) -> str:
        """Return the cell's variant, identity and seed for messages."""
        return f"{self.variant} · {self.identity.name} · seed {self.seed}"

    @property
    def run_name(self) -> str:
        """Return the name of the cell's run, if this sweep creates it."""
        words = re.sub(r"[^a-z0-9.]+", "-", self.variant.lower()).strip("-.")
        seed = f"s{self.seed}-" if self.seed < 10**6 else ""
        end = f"-{seed}{self.key[:_KEY_IN_NAME]}"
        parts = [self.sweep[:18], words[:14].strip("-."), self.identity.name[:14]]
        name = "-".join(part.strip("-.") for part in parts if part)
        return f"{name[: _LONGEST_NAME - len(end)].rstrip('-.')}{end}".replace("..", ".")

    def request(self) -> str:
        """Return a hash of the evaluation that the sweep asks for."""
        facts = [self.key, self.shown, self.settings.evaluation.seeds, self.metrics]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def cells_of(sweep: Sweep, user: Table, *, only_planned: bool = False) -> list[Cell]:
    """Return the cells of a sweep, in the order in which they are worked on.

    All variants of a seed and an identity follow each other, so that an unfinished sweep compares
    them. `user` has the user's own settings. Weights may be missing if only an estimate is needed.

    Raises:
        UsageError: The sweep has no identities, or two with the same photos.
        Missing: An identity does not exist.
        WeightsMissing: Weights of the base model are not installed.
    """
    people = _identities(sweep)
    return [
        _cell(sweep, variant, identity, seed, user, only_planned)
        for seed in sweep.about.seeds
        for identity in people
        for variant in sweep.variants
        if not variant.method or seed == sweep.about.seeds[0]
    ]


def _identities(sweep: Sweep) -> list[Identity]:
    names, library = sweep.about.identities, Library()
    if not names:
        raise UsageError(
            f"The sweep {sweep.name} names no identities.",
            "Add --identity NAME, or name them in the file.",
        )
    if unknown := [name for name in names if name not in library.names()]:
        more = f"Also unknown: {', '.join(unknown[1:])}. " if unknown[1:] else ""
        hint = f"{more}Add them with `pv identity add`, or choose others with --identity."
        raise Missing("identity", unknown[0], hint)
    people = [library.get(name) for name in names]
    known: dict[str, str] = {}
    for person in people:
        if (same := known.setdefault(person.ref.fingerprint, person.name)) != person.name:
            raise UsageError(
                f"{person.name} has the photos of {same}.", "Name each person of a sweep once."
            )
    return people


def _cell(
    sweep: Sweep, variant: Variant, identity: Identity, seed: int, user: Table, only_planned: bool
) -> Cell:
    settings = sweep.settings_of(variant, user, seed)
    texts = tuple(fill(prompt, identity.noun) for prompt in sweep.prompts_of(variant))
    shown = Banks().get(settings.evaluation.prompts).prompts
    return Cell(
        sweep=sweep.name,
        variant=variant.name,
        identity=identity,
        seed=seed,
        preset=sweep.about.preset,
        settings=settings,
        texts=texts,
        shown=shown[: sweep.evaluation.most_prompts or None],
        metrics=sweep.evaluation.metrics,
        key=method_key(variant.method, settings, identity)
        if variant.method
        else cell_key(settings, identity, texts, only_planned),
        method=variant.method,
    )


def cell_key(
    settings: Settings, identity: Identity, texts: Sequence[str], only_planned: bool = False
) -> str:
    """Return a hash of all that the weights of a run depend on, but for the machine.

    Raises WeightsMissing unless only an estimate is needed: there is no run then.
    """
    table: dict[str, Any] = to_table(settings)
    try:
        table["model"] = _facts_of(settings.model)
    except WeightsMissing:
        if not only_planned:
            raise
    for name in _WITHOUT_EFFECT:
        table["evaluation"].pop(name)
    facts = [table, identity.ref.fingerprint, list(texts)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def method_key(method: str, settings: Settings, identity: Identity) -> str:
    """Return a hash of the photos, the encoder method, its preset, and what judges its clips."""
    preset, judges = to_table(method_preset(method)), to_table(settings)["evaluation"]
    for name in _WITHOUT_EFFECT:
        judges.pop(name)
    facts = [method, preset, judges, identity.ref.fingerprint]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@lru_cache(maxsize=256)
def _facts_of(model: ModelConfig) -> dict[str, Any]:
    """Return what pixels depend on; the same model is looked up once for all cells."""
    return model_facts(with_fingerprints(locate_model(model)))


def run_of(cell: Cell) -> RunFolder | None:
    """Return the run of a cell, of this or another sweep; None if there is none."""
    for path in sorted(runs_dir().glob(f"*-{cell.key[:_KEY_IN_NAME]}")):
        try:
            if job_of(RunFolder(path)).cell == cell.key:
                return RunFolder(path)
        except (PvError, OSError):  # being created, or not a run
            continue
    return None
