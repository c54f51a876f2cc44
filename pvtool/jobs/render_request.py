"""A request to render clips as a form enters it, and its plan with the problems of each field."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from pvtool_core.api.batch import render_job
from pvtool_core.api.watermarks import AUTO
from pvtool_core.batches.adapters import named_run
from pvtool_core.batches.columns import parse_seeds
from pvtool_core.batches.plan import BatchPlan, Defaults, choices_of, plan
from pvtool_core.batches.rows import Row
from pvtool_core.errors import BadPrompt, BatchRefused, Missing, PvError, UsageError
from pvtool_core.settings.jobs import RenderJob
from pvtool_core.store.consent_checks import require_consent
from pvtool_core.store.identities import Identity, Library
from pvtool_core.store.prompts import KEYWORD, Banks, check_prompt

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RenderRequest:
    """Values of the form; the newest finished run stands for an empty `run`."""

    identity: str
    run: str = ""
    prompts: tuple[str, ...] = ()
    bank: str = ""
    seeds: str = ""
    strength: str = ""
    out: str = "renders"
    base: bool = False

    def plan(self) -> "RenderPlan":
        """Plan the clips, or return the problem of each field."""
        problems: dict[str, PvError] = {}

        def attempt(name: str, read: Callable[[], T], otherwise: T) -> T:
            try:
                return read()
            except PvError as error:
                problems[name] = error
                return otherwise

        person = attempt("identity", self._person, None)
        prompts = attempt("prompts", self._prompts, list[str]())
        seeds = attempt("seeds", lambda: tuple(parse_seeds(self.seeds or "0")), (0,))
        choices = attempt(
            "strength", lambda: choices_of({"strength": self.strength or None}), choices_of({})
        )
        if person and self.run:
            attempt("run", lambda: named_run(person, self.run), None)
        out = Path(self.out or "renders").absolute()
        job = attempt("out", lambda: render_job(out, watermark=AUTO), None)
        if problems or job is None:
            return RenderPlan(BatchPlan(), None, problems)
        defaults = Defaults(
            people=(self.identity,),
            seeds=seeds,
            runs=(self.run,),
            strengths=choices.strengths or (1.0,),
            base=self.base,
        )
        rows = [Row(prompt=prompt) for prompt in prompts]
        planned = BatchPlan()
        try:
            planned = plan(rows, defaults, out, job.encoding)
        except PvError as error:
            first = error.mistakes[0][1] if isinstance(error, BatchRefused) else error
            wrong_run = isinstance(first, Missing)
            name = "run" if wrong_run else "prompts" if isinstance(first, BadPrompt) else ""
            problems[name] = error
        return RenderPlan(planned, None if problems else job, problems)

    def _person(self) -> Identity:
        if not self.identity:
            raise UsageError("No identity selected.", "Select the identity to render.")
        person = Library().get(self.identity)
        require_consent(person.ref)
        return person

    def _prompts(self) -> list[str]:
        prompts = [check_prompt(prompt) for prompt in self.prompts]
        if self.bank:
            prompts += Banks().get(self.bank).prompts
        if not prompts:
            raise UsageError("No prompts.", f"Enter prompts with {KEYWORD}, or select a bank.")
        return prompts


@dataclass(frozen=True)
class RenderPlan:
    """The plan of a request, and its job unless there are problems, by the field they concern."""

    planned: BatchPlan
    job: RenderJob | None
    problems: dict[str, PvError] = field(default_factory=dict[str, PvError])

    @classmethod
    def empty(cls) -> Self:
        """Return the plan of a form that is not filled in yet."""
        return cls(BatchPlan(), None)
