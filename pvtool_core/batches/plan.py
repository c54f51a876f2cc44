"""Plan a batch: turn rows into clips with run, settings and path."""

import dataclasses
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from pvtool_core.adapter_files.vector_files import no_strength, vector_count
from pvtool_core.batches.adapters import RunAdapter, named_run, newest_run
from pvtool_core.batches.clips import BASE, Names, is_whole, read_sidecar
from pvtool_core.batches.columns import parse_lora, read_columns
from pvtool_core.batches.encoder_methods import encoder_setup
from pvtool_core.batches.rates import estimate
from pvtool_core.batches.rows import Mistakes, Row
from pvtool_core.batches.seed_tries import applies_to, is_settled
from pvtool_core.errors import BadPrompt, PvError, UsageError
from pvtool_core.models.base_models import check_adapter_fits
from pvtool_core.models.fingerprints import fingerprint_of, with_fingerprints
from pvtool_core.models.locate import locate_style, with_base_model
from pvtool_core.models.prompt_limits import Cut, check_prompts_fit
from pvtool_core.paths import check_utf8
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, Setup, TriesConfig
from pvtool_core.settings.schema import NO_METHOD
from pvtool_core.settings.toml import Table, from_table, merge, to_table
from pvtool_core.store.clip_likeness import likeness_in
from pvtool_core.store.consent_checks import require_consent
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.prompts import fill
from pvtool_core.store.reference_files import reference_files
from pvtool_core.store.run_index import RunIndex

T = TypeVar("T")
Loras = tuple[str, ...] | None
PLAIN = EncodingConfig()
Pairs = tuple[tuple[str, Any], ...]
Source = tuple[str, str]
"""A run and an encoder method, of which at most one is not empty."""


@dataclass(frozen=True)
class RowContext:
    """The fields of a request, besides identity, prompt and seed, that reproduce the clip."""

    run: str
    method: str
    loras: Loras
    settings: Pairs
    strength: float


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Values of the command for rows without their own; each combination is a clip.

    An empty run is the newest of the identity. `methods` are encoder methods, which need no run; an
    empty one stands for `runs`. `loras` are sets; None is that of the run. `base` also requests
    clips of the base model. `trained` is the adapter of a clip to render again, for rows without
    another run or identity. Without `to_render`, the clips may all exist, and consent is only
    checked for those that are rendered.
    """

    people: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    runs: tuple[str, ...] = ("",)
    methods: tuple[str, ...] = ("",)
    base: bool = False
    strengths: tuple[float, ...] = (1.0,)
    loras: tuple[Loras, ...] = (None,)
    settings: tuple[Pairs, ...] = ((),)
    control: Table | None = None
    trained: tuple[str, RunAdapter] | None = None
    to_render: bool = True


@dataclass(frozen=True)
class Choices:
    """Settings of options with several values: every combination, and the strengths."""

    settings: tuple[Pairs, ...]
    strengths: tuple[float, ...] | None


def choices_of(columns: Table) -> Choices:
    """Return the values of columns, as in a row. Raises UsageError with all mistakes."""
    mistakes = Mistakes()
    found = read_columns(columns, lambda error: mistakes.add("", error))
    mistakes.check()
    strengths = found.pop("strength", None)
    if all(key in found for key in _STARTS):
        raise _two_starts()
    keys = sorted(found)
    settings = tuple(
        tuple(zip(keys, values, strict=True)) for values in product(*(found[key] for key in keys))
    )
    return Choices(settings, tuple(strengths) if strengths else None)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` parts of a batch, starting at 1; as text, the marker in file names.

    Clips with a common trajectory are in one part.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"-{self.number}-of-{self.count}"

    def holds(self, trajectory: str) -> bool:
        return int(trajectory, 16) % self.count == self.number - 1


@dataclass
class BatchPlan:
    """Clips to render, without duplicates, and their setups.

    `contexts` has the request of each clip. `adapters` are those of the clips, by `IDENTITY
    RUN@STEP`; `cuts` is the truncated part of a prompt and its negative prompt, by setup number and
    prompt. `notes` are differences from the training of the adapters. `largest_seed` is that of all
    shards.
    """

    setups: list[Setup] = field(default_factory=list[Setup])
    items: list[RenderItem] = field(default_factory=list[RenderItem])
    contexts: list[RowContext] = field(default_factory=list[RowContext])
    adapters: dict[str, RunAdapter] = field(default_factory=dict[str, RunAdapter])
    notes: dict[str, None] = field(default_factory=dict[str, None])
    largest_seed: int = 0
    cuts: dict[tuple[int, str], list[Cut]] = field(default_factory=dict[tuple[int, str], list[Cut]])

    @property
    def all_cuts(self) -> list[Cut]:
        """All truncated parts, in the order of the rows."""
        return [cut for cuts in self.cuts.values() for cut in cuts]

    def lost(self, item: RenderItem) -> str:
        """Return the part of a clip's prompt that every text encoder truncates, or ""."""
        cuts = self.cuts.get((item.setup, item.prompt), [])
        return next((cut.lost for cut in cuts if cut.whole_loss and cut.prompt == item.prompt), "")


def plan(
    rows: Iterable[Row],
    wanted: Defaults,
    out: Path,
    encoding: EncodingConfig = PLAIN,
    shard: Shard | None = None,
    mistakes: Mistakes | None = None,
) -> BatchPlan:
    """Plan the clips of all rows in their order.

    Raises BatchRefused with every mistake, UsageError for a folder whose path is not UTF-8. If
    `mistakes` is given, mistakes are added to it, for the caller to check, and valid rows are
    planned in any case.
    """
    planner = _Planner(wanted, check_utf8(out.absolute()), encoding, shard, mistakes or Mistakes())
    for row in rows:
        planner.add(row)
    if mistakes is None:
        planner.mistakes.check()
    return planner.plan


class _Planner:
    """Adds rows one by one; values that many rows share are looked up once."""

    def __init__(
        self,
        wanted: Defaults,
        out: Path,
        encoding: EncodingConfig,
        shard: Shard | None,
        mistakes: Mistakes,
    ) -> None:
        self.plan, self.mistakes = BatchPlan(), mistakes
        self._wanted, self._out, self._encoding, self._shard = wanted, out, encoding, shard
        self._known: dict[Hashable, Any] = {}
        self._names: list[Names] = []
        self._numbers: dict[Setup, int] = {}
        self._clips: set[str] = set()

    def add(self, row: Row) -> None:
        """Add the clips of a row, or its mistakes."""
        wanted = self._wanted
        people = (row.identity,) if row.identity else wanted.people
        if not people:
            self.mistakes.add(
                row.source,
                UsageError(
                    "Missing identity.", "Add one to the row, or give one before the prompts."
                ),
            )
        loras = wanted.loras if row.loras is None else (row.loras,)
        strengths = wanted.strengths if row.strength is None else (row.strength,)
        choices = product(people, _sources(row, wanted), loras, wanted.settings, strengths)
        for name, source, stack, settings, strength in choices:
            try:
                self._add(row, name, source, stack, settings, strength)
            except BadPrompt as error:  # the prompt is invalid for every identity
                self.mistakes.add(row.source, error)
            except PvError as error:
                sources = row.identity or row.run or row.method
                own = sources or row.loras is not None or row.settings
                self.mistakes.add(row.source if own else "", error)

    def _add(
        self, row: Row, name: str, source: Source, loras: Loras, settings: Pairs, strength: float
    ) -> None:
        person = self._once(("person", name), lambda: Library().get(name))
        if self._wanted.to_render and not row.base:
            self._once(("consent", name), lambda: require_consent(person.ref))
        trained = self._once(("trained", name, source), lambda: self._trained(person, source))
        method = trained.setup.method.name
        vectors = self._once(("vectors", trained.adapter), lambda: vector_count(trained.adapter))
        if vectors and strength != 1 and not row.base:
            raise no_strength(strength)
        pairs = self._once(
            ("settings", settings, row.settings), lambda: _merged(settings, row.settings)
        )
        if method:
            _check_method_row(method, strength, pairs)
        number = self._once(
            ("setup", name, source, loras, pairs), lambda: self._number(trained, loras, pairs)
        )
        context = self._once(
            ("context", name, source, loras, pairs, strength),
            lambda: RowContext(self._run_of(trained), method, loras, pairs, strength),
        )
        if not (row.base or method):
            self.plan.adapters.setdefault(f"{name} {trained.run}@{trained.step}", trained)
        prompt = fill(row.prompt, person.noun)
        self._once(
            ("fits", number, prompt, person.noun, vectors),
            lambda: self._check_length(number, prompt, person.noun, vectors),
        )
        for seed in self._wanted.seeds if row.seed is None else (row.seed,):
            self.plan.largest_seed = max(seed, self.plan.largest_seed)
            if self._shard and not self._shard.holds(self._names[number].trajectory(prompt, seed)):
                continue
            if row.base or self._wanted.base:
                base = self._once(("base", number), lambda: self._base_of(number))
                self._clip(person, prompt, seed, base, None, context)
            if not row.base:
                self._clip(person, prompt, seed, number, trained, context)

    def _clip(
        self,
        person: Identity,
        prompt: str,
        seed: int,
        number: int,
        by: RunAdapter | None,
        context: RowContext,
    ) -> None:
        digest, strength = (by.sha256, context.strength) if by else ("", 1.0)
        reference = self._reference(person, by) if by and by.setup.method.name else ""
        owner = person.name if by else BASE
        names = self._names[number]
        clip = names.path(self._out, owner, prompt, seed, digest, strength, reference)
        if clip in self._clips:
            return
        self._clips.add(clip)
        about: dict[str, Any] = {
            "identity": person.name,
            "prompt": prompt,
            "seed": seed,
            "setup": number,
            "clip": clip,
            "folder": str(person.folder),
        }
        if reference:
            about["reference"] = reference
        elif by:
            about |= {
                "adapter": str(by.adapter),
                "adapter_sha256": digest,
                "adapter_base": by.base_model,
                "adapter_base_fingerprint": by.base_fingerprint,
                "strength": strength,
                "run": by.run,
                "step": by.step,
            }
        if by:
            about |= {
                "scope": person.consent.terms.scope,
                "consent": person.consent.sha256,
            }
        self.plan.items.append(RenderItem(**about))
        self.plan.contexts.append(context)

    def _run_of(self, trained: RunAdapter) -> str:
        """Return the run of a row; a clip to render again, and a method, need none."""
        again = self._wanted.trained
        if trained.setup.method.name or (again and trained is again[1]):
            return ""
        return f"{trained.run}@{trained.step}"

    def _trained(self, person: Identity, source: Source) -> RunAdapter:
        run, method = source
        if method:
            return self._once(("method", method), lambda: encoder_setup(method))
        again = self._wanted.trained
        if again and not run and (person.name == again[0] or again[1].setup.method.name):
            return again[1]
        found = named_run(person, run) if run else self._newest(person)
        if not again or again[1].setup.method.name:
            return found
        setup = dataclasses.replace(again[1].setup, likeness=found.setup.likeness)
        return dataclasses.replace(found, setup=setup)

    def _reference(self, person: Identity, by: RunAdapter) -> str:
        """Return the hash of the photos that an encoder method is given."""
        held_out = by.setup.likeness.held_out_photos
        return self._once(
            ("reference", person.name, held_out),
            lambda: reference_files(person.folder, held_out).sha256,
        )

    def _check_length(self, number: int, prompt: str, noun: str, vectors: int) -> None:
        """Raise BadPrompt if the keyword is truncated.

        Other truncated parts are recorded in the plan.
        """
        setup = self.plan.setups[number]
        negative = setup.sampler.negative_prompt
        if cuts := check_prompts_fit(setup.model, [prompt], negative, noun, vectors):
            self.plan.cuts[number, prompt] = cuts

    def _newest(self, person: Identity) -> RunAdapter:
        """Return the newest finished run of the identity; all runs are read once."""
        runs = self._once("runs", lambda: RunIndex().by_identity())
        return newest_run(person, runs.get(person.ref.fingerprint, []))

    def _number(self, trained: RunAdapter, loras: Loras, pairs: Pairs) -> int:
        """Return the number of a setup in the plan; equal setups are shared between runs."""
        wanted = _changed(trained.setup, loras, pairs, self._wanted.control)
        if wanted.method.name:
            return self._number_of(wanted)
        if wanted.model.fingerprint != trained.base_fingerprint and trained.adapter.name:
            check_adapter_fits(trained.adapter, wanted.model)
        self.plan.notes |= dict.fromkeys(_notes(trained, wanted))
        return self._number_of(wanted)

    def _base_of(self, number: int) -> int:
        """Return the number of the setup of the base model's clips. Raises UsageError."""
        setup = self.plan.setups[number]
        if not FAMILIES[setup.model.family].backbone:
            raise UsageError(
                f"The model of {setup.method.name} renders no clips without an identity.",
                "Omit --base.",
            )
        return self._number_of(dataclasses.replace(setup, method=NO_METHOD))

    def _number_of(self, wanted: Setup) -> int:
        if wanted not in self._numbers:
            self._numbers[wanted] = len(self.plan.setups)
            self.plan.setups.append(wanted)
            self._names.append(_names(wanted, self._encoding))
        return self._numbers[wanted]

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return or raise the first result of `make`."""
        if key not in self._known:
            try:
                self._known[key] = make()
            except PvError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, PvError):
            raise known.with_traceback(None)
        return known


_STARTS = ("adapter.start", "adapter.start_sigma")


def _sources(row: Row, wanted: Defaults) -> list[Source]:
    """Return what renders the identity of a row: runs or methods, its own or the command's."""
    if row.run or row.method:
        return [(row.run, row.method)]
    chosen = [("", method) for method in wanted.methods if method]
    return [*([(run, "") for run in wanted.runs] if "" in wanted.methods else []), *chosen]


def _check_method_row(method: str, strength: float, settings: Pairs) -> None:
    """Raise UsageError for settings of adapters, which do not apply to an encoder method."""
    wrong = [key.partition(".")[2] for key, _ in settings if key in _STARTS]
    if strength != 1:
        wrong.insert(0, "strength")
    if wrong:
        raise UsageError(f"{wrong[0]} does not apply to the method {method}.", "Omit it.")


def _merged(usual: Pairs, own: Pairs) -> Pairs:
    """Return the settings of a row; its own replace those of the command.

    Raises UsageError for two starts of the adapter.
    """
    replaced = _STARTS if any(key in _STARTS for key, _ in own) else ()
    found = {key: value for key, value in usual if key not in replaced} | dict(own)
    if all(key in found for key in _STARTS):
        raise _two_starts()
    return tuple(sorted(found.items()))


def _two_starts() -> UsageError:
    return UsageError("start and start_sigma cannot be combined.", "Use one of them.")


def _notes(trained: RunAdapter, wanted: Setup) -> Iterable[str]:
    """Yield differences between a setup and the training of the adapter."""
    name, start = f"{trained.run}@{trained.step}", trained.start
    base = wanted.model.base_model
    if wanted.model.fingerprint != trained.base_fingerprint:
        other = trained.base_model if base != trained.base_model else "other files of it"
        yield f"{name}: rendering on {base}; the adapter was trained on {other}."
    if sigma := wanted.adapter.start_sigma:
        yield (
            f"Warning: {name} was trained to start at {start:g} of the steps; these clips start "
            f"it at noise level {sigma:g}."
        )
    elif wanted.adapter.start != start:
        order = "earlier" if wanted.adapter.start < start else "later"
        yield (
            f"Warning: {name} was trained to start at {start:g} of the steps; these clips start "
            f"it {order}, at {wanted.adapter.start:g}."
        )


def _changed(setup: Setup, loras: Loras, pairs: Pairs, control: Table | None) -> Setup:
    """Return the settings with changes applied.

    Raises SettingsError, WeightsMissing, InputRefused.
    """
    changes: Table = {"model": {}}
    if loras is not None:
        changes["model"]["loras"] = [parse_lora(word) for word in loras]
    if control:
        changes["model"]["control"] = control
    for key, value in pairs:
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = value
    base_model = changes["model"].pop("base_model", "")
    if "start" in changes.get("adapter", {}):
        changes["adapter"]["start_sigma"] = 0.0  # of a clip to render again
    changed = from_table(Setup, merge(to_table(setup), changes), "the settings of the clip")
    if base_model:
        model = with_base_model(changed.model, base_model)
        model = dataclasses.replace(model, fingerprint=fingerprint_of(model))
        changed = dataclasses.replace(changed, model=model)
    if loras or control:
        changed = dataclasses.replace(changed, model=with_fingerprints(locate_style(changed.model)))
    return changed


def _names(setup: Setup, encoding: EncodingConfig) -> Names:
    return Names(setup, encoding.upscale, encoding.watermark)


def states(
    planned: BatchPlan, encoding: EncodingConfig, tries: TriesConfig | None = None
) -> list[str]:
    """Return the state of each clip: there, missing, stale, partial or unlike.

    Stale clips have other settings or are corrupt; partial ones are denoised and have no file yet.
    Unlike ones exist, and `tries` asks for further seeds, or for their likeness.
    """
    names = [_names(setup, encoding) for setup in planned.setups]
    listed = lru_cache(maxsize=None)(_listed)
    found = [_state(item, names[item.setup], encoding, listed) for item in planned.items]
    if tries is None or not tries.min_likeness:
        return found
    return [
        "unlike" if state == "there" and _is_unlike(item, tries) else state
        for item, state in zip(planned.items, found, strict=True)
    ]


def _is_unlike(item: RenderItem, tries: TriesConfig) -> bool:
    return applies_to(item, tries) and not is_settled(likeness_in(read_sidecar(item.clip)), tries)


def estimates(planned: BatchPlan, found: Sequence[str]) -> list[float | None]:
    """Return the expected seconds of each clip by the measured rate of its setup.

    None if unknown. Shared prefixes are counted for the first clip only.
    """
    rates = [estimate(setup) for setup in planned.setups]
    begun: set[tuple[int, str, int]] = set()
    seconds: list[float | None] = []
    for item, state in zip(planned.items, found, strict=True):
        if state == "there":
            seconds.append(0.0)
            continue
        rate, key = rates[item.setup], (item.setup, item.prompt, item.seed)
        parts = (
            (None,) if rate is None else (rate.tail,) if key in begun else (rate.switch, rate.tail)
        )
        begun.add(key)
        seconds.append(
            None if None in parts else round(sum(part for part in parts if part is not None), 3)
        )
    return seconds


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - pathlib takes seconds for many files
    except OSError:
        return frozenset()


def _state(
    item: RenderItem,
    names: Names,
    encoding: EncodingConfig,
    listed: Callable[[str], frozenset[str]],
) -> str:
    folder, name = os.path.split(item.clip)
    if os.path.basename(folder) not in listed(os.path.dirname(folder)):  # noqa: PTH119, PTH120 - as above
        return "missing"
    if f"{name}.json" in listed(folder):
        return "there" if is_whole(item.clip, names.fingerprint(item), encoding) else "stale"
    return "partial" if f".{name}.latents" in listed(folder) else "missing"


def as_row(item: RenderItem, context: RowContext) -> Row:
    """Return a row that requests exactly this clip."""
    return Row(
        prompt=item.prompt,
        identity=item.identity,
        seed=item.seed,
        run=context.run,
        method=context.method,
        base=not item.shows_identity,
        strength=context.strength if item.adapter and context.strength != 1 else None,
        loras=context.loras,
        settings=context.settings,
    )
