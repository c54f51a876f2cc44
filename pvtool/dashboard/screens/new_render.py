"""Form for new clips: identity, run, prompts, seeds, strength and output folder."""

import asyncio
from collections import Counter
from collections.abc import Callable

from textual import on, work
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Select, TextArea

from pvtool.dashboard.follow.all_runs import RunsApp
from pvtool.dashboard.screens.forms import FormScreen
from pvtool.dashboard.widgets.fields import Field
from pvtool.jobs.render_request import RenderPlan, RenderRequest
from pvtool.text import duration, plain
from pvtool_core.api.batch import Rendering
from pvtool_core.batches.folder import BatchFolder
from pvtool_core.batches.plan import estimates, states
from pvtool_core.errors import UsageError, from_foreign
from pvtool_core.store.identities import Library
from pvtool_core.store.prompts import KEYWORD, Banks

_WITH_BASE = "also without the adapter, for comparison"
_FIELDS = ("identity", "run", "prompts", "seeds", "strength", "out")


class NewRenderScreen(FormScreen[BatchFolder]):
    """Form that plans clips while it is filled in, and starts them; returns their batch."""

    HEADING = "New clips"
    VERB = "Render"
    PROGRESS = "Planning the clips…"
    DEFAULT_CSS = """
    NewRenderScreen TextArea { height: auto; min-height: 2; max-height: 8; }
    """

    def __init__(self, identity: str = "") -> None:
        super().__init__()
        self._identity = identity

    def fields(self) -> ComposeResult:
        """Yield the most used options of `pv render`."""
        identity = Select[str]([], prompt="Select", compact=True, id="identity")
        yield Field("Identity", identity, id="identity-field")
        run = Select[str]([], prompt="newest finished run", compact=True, id="run")
        yield Field("Run", run, id="run-field")
        prompts = TextArea(compact=True, id="prompts", placeholder=f"one per line, with {KEYWORD}")
        yield Field("Prompts", prompts, id="prompts-field")
        yield Field("Prompt bank", Select[str]([], prompt="none", compact=True, id="bank"))
        seeds = Input(compact=True, id="seeds", placeholder="0; or 0..3, or 0,5,9")
        yield Field("Seeds", seeds, id="seeds-field")
        strength = Input(compact=True, id="strength", placeholder="1; or 0.8,1")
        yield Field("Strength", strength, id="strength-field")
        yield Field("Output", Input("renders", compact=True, id="out"), id="out-field")
        base = Select([(_WITH_BASE, _WITH_BASE)], prompt="no", compact=True, id="base")
        yield Field("Base model", base)

    async def on_mount(self) -> None:
        """Fill the selection lists; the only identity is selected."""
        identities, banks = await asyncio.to_thread(lambda: (Library().names(), Banks().names()))
        only = identities[0] if len(identities) == 1 else None
        for name, values in (("identity", identities), ("bank", banks)):
            self.query_one(f"#{name}", Select).set_options((value, value) for value in values)
        if chosen := self._identity if self._identity in identities else only:
            self.query_one("#identity", Select).value = chosen
        if not identities:
            self.outcome.show_text("No identities yet. Add one first: press escape, 2, a.")
        self.query_one("#prompts" if chosen else "#identity").focus()

    @on(Select.Changed, "#identity")
    def list_runs(self) -> None:
        """Offer the runs of the identity on this machine, newest first."""
        app: RunsApp = self.app  # pyright: ignore[reportAssignmentType] - the dashboard is one
        identity = self._selected("identity")
        local = [run for run in app.summaries or () if ":" not in run.run]
        runs = [run.run for run in local if run.identity == identity]
        self.query_one("#run", Select).set_options((run, run) for run in runs)

    @on(Select.Changed)
    @on(Input.Changed)
    @on(TextArea.Changed)
    def check(self) -> None:
        """Plan the clips."""
        self._check()

    @work(exclusive=True, group="check", exit_on_error=False)
    async def _check(self) -> None:
        await asyncio.sleep(0.2)  # until a pause in typing
        request = self.entered()
        if not (request.identity and (request.prompts or request.bank)):
            self._show_problems(RenderPlan.empty())
            self.outcome.show_text("")
            return
        try:
            found, preview = await asyncio.to_thread(_plan, request)
        except Exception as error:
            self.outcome.show_error(from_foreign(error))
            return
        self._show_problems(found)
        if "" not in found.problems:
            self.outcome.show_text(preview)

    def _show_problems(self, found: RenderPlan) -> None:
        for name in _FIELDS:
            note = self.query_one(f"#{name}-field", Field).note
            if error := found.problems.get(name):
                note.show_error(error)
            else:
                note.show_text("")
        if error := found.problems.get(""):
            self.outcome.show_error(error)

    def entered(self) -> RenderRequest:
        """Return the values of the form."""
        lines = self.query_one("#prompts", TextArea).text.splitlines()
        return RenderRequest(
            identity=self._selected("identity"),
            run=self._selected("run"),
            prompts=tuple(line.strip() for line in lines if line.strip()),
            bank=self._selected("bank"),
            seeds=self.query_one("#seeds", Input).value.strip(),
            strength=self.query_one("#strength", Input).value.strip(),
            out=self.query_one("#out", Input).value.strip(),
            base=bool(self._selected("base")),
        )

    def _selected(self, name: str) -> str:
        select = self.query_one(f"#{name}", Select)
        return "" if select.is_blank() else str(select.value)

    def job(self) -> Callable[[], BatchFolder]:
        """Return the job that starts the engines."""
        request = self.entered()
        return lambda: self._start(request)

    def _start(self, request: RenderRequest) -> BatchFolder:
        found = request.plan()
        if found.job is None:
            self.app.call_from_thread(self._show_problems, found)
            raise next(iter(found.problems.values()))
        if self.closed.is_set():
            raise UsageError("The form was closed.", "")
        batch = Rendering(found.planned, found.job).batch
        if batch is None:
            raise UsageError(
                "All these clips exist.", f"They are in {found.job.out}. Use other seeds."
            )
        return batch


def _plan(request: RenderRequest) -> tuple[RenderPlan, Content]:
    """Return the plan and its preview: the clips, the time they take, and their adapters."""
    found = request.plan()
    if found.job is None:
        return found, Content()
    states_found = states(found.planned, found.job.encoding)
    counts = Counter("exist" if state == "there" else "to render" for state in states_found)
    times = estimates(found.planned, states_found)
    known = sum(seconds for seconds in times if seconds is not None)
    time = f"about {duration(known)}" if known else "unknown time"
    parts = [f"{counts[kind]} clips {kind}" for kind in ("to render", "exist") if counts[kind]]
    if counts["to render"]:
        parts.append(time)
    adapters = [name.partition(" ")[2] for name in found.planned.adapters]
    cuts = [f"Warning: {cut.message}" for cut in found.planned.all_cuts[:1]]
    lines = [" · ".join([*parts, *adapters]), *found.planned.notes, *cuts]
    return found, Content(plain("\n".join(lines)).replace("\\n", "\n"))
