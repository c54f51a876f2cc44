"""Sweep files, the arithmetic of their tables, and the page: no engine."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pvtool_core.api.sweep import SweepOptions, SweepWatcher
from pvtool_core.api.sweep_on_ray import run_cells_on_ray
from pvtool_core.errors import Missing, SettingsError, SomeFailed, UsageError
from pvtool_core.paths import presets_dir
from pvtool_core.store.identities import Identity
from pvtool_core.sweeps.cell_scores import cell_folder, mark_evaluated, set_groups
from pvtool_core.sweeps.cells import Cell, cells_of
from pvtool_core.sweeps.result_files import write_results
from pvtool_core.sweeps.sweep_file import Sweep, Sweeps, read_sweep, with_changes
from pvtool_core.sweeps.sweep_tables import order_table
from tests.support.chromium import chromium, needs_browser
from tests.support.sample_data import add_identity
from tests.support.sweeps import write_sweep

PEOPLE = ("ann", "ben", "cleo")


def shipped() -> list[str]:
    return sorted(path.stem for path in (presets_dir() / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("name", shipped())
def test_shipped_sweeps_are_valid_and_name_figures_of_the_paper(name: str) -> None:
    sweep = Sweeps().get(name)
    assert sweep.about.description
    assert sweep.paper.source
    names = {variant.name.partition(",")[0] for variant in sweep.variants}  # with other settings
    assert set(sweep.paper.rows) >= names
    assert set(sweep.paper.columns.values()) <= set(sweep.evaluation.metrics)


def test_devices_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path in ("/dev/zero", str(tmp_path / "pipe.toml"), f"{tmp_path}/"):
        with pytest.raises(UsageError, match="is not a regular file"):
            Sweeps().find(path)


def test_all_mistakes_of_a_file_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("""
        colour = 1
        [sweep]
        preset = "tinny"
        seeds = [0, 0]
        identities = ["../x"]
        reference = "nothing"
        [set]
        "training.iteration" = 3
        training.seed = 1
        [[variant]]
        name = "a"
        set = { "adapter.start" = 2.0 }
        [[variant]]
        name = "a"
        prompts = "no-such-bank"
        [grid]
        "adapter.rank" = 8
        [evaluation]
        metrics = ["likenes"]
        [paper]
        rows = { a = { Face = "61" } }
    """)
    with pytest.raises(SettingsError) as refused:
        read_sweep(path)
    keys = {mistake.key for mistake in refused.value.mistakes}
    assert keys == {
        "variant[1].prompts", "variant", "colour", "sweep.preset", "sweep.seeds",
        "sweep.identities", "sweep.reference", "set.training.iteration", "set.training.seed",
        "variant[0].set.adapter.start",
        "grid.adapter.rank", "evaluation.metrics", "paper.rows.a.Face",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[sweep]\nseeds = [0]", "needs [[variant]] tables or a [grid]"),
        ("set = 3\n[[variant]]\nname = 'a'", "is 3, not a table"),
        ('[[variant]]\nname = "\\u001b[2J"', "not a name of 1 to 60"),
        ("[grid]\n'training.iterations' = [1,2]\n'adapter.start' = [0.1, 0.1]", "twice"),
        ("[[variant]]\nname='a'\n[[variant]]\nname='b'", "has the same settings as 'a'"),
        (f"[grid]\n'training.seed' = [0]\n'sampler.shift' = {list(range(201))}", "combinations"),
        (f"[sweep]\nseeds = {list(range(10_001))}\n[[variant]]\nname='a'", "has 10001 cells"),
        ("[[variant]]\nname='a'\nset = { 'adapter.alpha' = 3 }", "must equal adapter.rank"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_sweep(tmp_path / "bad.toml")
    found = " ".join(str(mistake) for mistake in refused.value.mistakes)
    assert problem in found


def test_variants_of_encoder_methods_train_nothing(tmp_path: Path, people: list[Identity]) -> None:
    file = write_sweep(tmp_path / "one.toml", {"with": 0.5})
    text = file.read_text() + '[[variant]]\nname = "theirs"\nmethod = "id-animator"\n'
    file.write_text(text.replace('identities = ["ann"]', 'identities = ["ann"]\nseeds = [0, 1]'))
    cells = cells_of(read_sweep(file), {})
    assert [(cell.variant, cell.seed) for cell in cells] == [
        ("with", 0),
        ("theirs", 0),
        ("with", 1),
    ]
    for cell in cells:
        save_scores(tmp_path / "out", cell, 0.6 if cell.method else 0.5)
    rows = write_results(read_sweep(file), cells, tmp_path / "out")["rows"]
    assert rows[2]["differences"]["likeness"]["mean"] == pytest.approx(0.1)
    assert rows[2]["differences"]["likeness"]["pairs"] == 4
    file.write_text(text + "set = { 'adapter.start' = 0.5 }")
    with pytest.raises(SettingsError, match="trains nothing: remove set and prompts"):
        read_sweep(file)


def test_a_grid_is_the_product_of_its_values_and_the_variants(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("""
        [grid]
        "adapter.start" = [0.0, 0.5]
        training.iterations = [4, 8]
        [[variant]]
        name = "plain"
    """)
    sweep = read_sweep(tmp_path / "grid.toml")
    assert [variant.name for variant in sweep.variants] == [
        f"plain, start {start}, iterations {count}" for start in ("0", "0.5") for count in (4, 8)
    ]
    settings = sweep.settings_of(sweep.variants[3], {}, seed=7)
    assert (settings.adapter.start, settings.training.iterations) == (0.5, 8)
    assert settings.training.seed == 7


def test_sweeps_are_found_by_name_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path))
    own = tmp_path / "config/sweeps"
    own.mkdir(parents=True)
    write_sweep(own / "mine.toml", {"with": 0.5})
    assert "mine" in Sweeps().names()
    assert Sweeps().get("mine").name == "mine"
    with pytest.raises(Missing, match="Did you mean 'mine'"):
        Sweeps().get("mien")
    with pytest.raises(Missing):
        Sweeps().get("other/file.toml")


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Identity]:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    return [
        add_identity(name, embeddings=((1.0, float(number)),)) for number, name in enumerate(PEOPLE)
    ]


@pytest.fixture
def sweep(tmp_path: Path, people: list[Identity]) -> Sweep:
    variants = {"with": 0.5, "without": 0.0}
    return with_changes(read_sweep(write_sweep(tmp_path / "one.toml", variants)), {}, PEOPLE)


def test_equal_cells_of_other_sweeps_have_the_same_key(sweep: Sweep, tmp_path: Path) -> None:
    other = read_sweep(write_sweep(tmp_path / "two.toml", {"different name": 0.5}))
    keys = {cell.key for cell in cells_of(sweep, {})}
    assert len(keys) == 6
    assert {cell.key for cell in cells_of(other, {"model": {"device": "cpu"}})} < keys
    changed = with_changes(other, {"adapter": {"rank": 8, "alpha": 8}})
    assert not keys & {cell.key for cell in cells_of(changed, {})}
    assert all(len(cell.run_name) <= 64 for cell in cells_of(sweep, {}))


def test_unknown_identities_are_named(sweep: Sweep) -> None:
    with pytest.raises(Missing, match="'zoe'") as refused:
        cells_of(with_changes(sweep, {}, ("zoe", "ann", "ida")), {})
    assert "ida" in refused.value.hint
    add_identity("twin", embeddings=((1.0, 0.0),))  # those of ann
    with pytest.raises(UsageError, match="twin has the photos of ann"):
        cells_of(with_changes(sweep, {}, ("ann", "twin")), {})


def save_scores(out: Path, cell: Cell, likeness: float, **scores: float | None) -> None:
    """Write the evaluation of a cell, in which the base model's likeness is 0.1."""
    folder = cell_folder(out, cell)
    folder.mkdir(parents=True)

    def clip(seed: int, method: str, values: Mapping[str, float | None]) -> dict[str, Any]:
        about = {"identity": cell.identity.name, "prompt": cell.shown[0], "seed": seed}
        return {**about, "method": method, "scores": values}

    shift = 0.01 * PEOPLE.index(cell.identity.name)
    clips = [clip(seed, "base", {"likeness": 0.1 + shift, "motion": 2.0}) for seed in (0, 1)]
    own = {"likeness": likeness + shift, "motion": 1.5, **scores}
    clips += [clip(seed, cell.method or "adapter", own) for seed in (0, 1)]
    info = {"better": "higher", "reward": False, "description": "", "weights": {}}
    metrics = {
        "likeness": {"label": "Likeness", "limits": [-1, 1], **info},
        "motion": {"label": "Motion", "limits": None, **info},
        "clip_t": {"label": "CLIP-T", "limits": [-100, 100], **info},
    }
    alarms = ["adapter: the clips move less."] if likeness > 0.4 else []
    report = {"clips": clips, "metrics": metrics, "skipped": {}, "alarms": alarms}
    (folder / "report.json").write_text(json.dumps(report))
    mark_evaluated(out, cell, "run")


def scored(sweep: Sweep, out: Path) -> dict[str, Any]:
    cells = cells_of(sweep, {})
    for cell in cells:
        save_scores(out, cell, 0.5 if cell.variant == "with" else 0.3, clip_t=25.0)
    return write_results(sweep, cells, out)


def test_means_and_differences_are_over_identities_and_pairs(sweep: Sweep, tmp_path: Path) -> None:
    results = scored(sweep, tmp_path / "out")
    base, first, second = results["rows"]
    assert first["means"]["likeness"]["mean"] == pytest.approx(0.51)
    assert first["means"]["likeness"]["low"] < 0.51 < first["means"]["likeness"]["high"]
    assert first["differences"] == {}
    difference = second["differences"]["likeness"]
    assert difference["mean"] == pytest.approx(-0.2)
    assert (difference["pairs"], difference["significant"]) == (6, True)
    assert base["differences"]["likeness"]["mean"] == pytest.approx(-0.4)
    assert not second["differences"]["clip_t"]["significant"]
    assert first["identities"]["ben"]["likeness"] == pytest.approx(0.51)
    assert "clip_t" not in base["means"]
    assert set(results["alarms"]) == {f"with · {name} · seed 0" for name in PEOPLE}
    page = (tmp_path / "out/results.html").read_text()
    assert "3 of 6 cells raise alarms: with · ann · seed 0: adapter: the clips move less." in page


def test_the_order_of_rows_is_compared_with_the_papers(sweep: Sweep, tmp_path: Path) -> None:
    text = (tmp_path / "one.toml").read_text()
    rows = 'rows = { without = { Face = 61, "CLIP-T" = 20 },'
    (tmp_path / "one.toml").write_text(text.replace("rows = {", rows))
    results = scored(with_changes(read_sweep(tmp_path / "one.toml"), {}, PEOPLE), tmp_path / "out")
    table = order_table(results)
    assert table.rows == (
        ("Face (Likeness)", "1", "0", "0"),
        ("CLIP-T (CLIP-T)", "0", "0", "1"),
    )


def test_cells_without_scores_and_damaged_ones_are_missing(sweep: Sweep, tmp_path: Path) -> None:
    out, cells = tmp_path / "out", cells_of(sweep, {})
    scored(sweep, out)
    (cell_folder(out, cells[0]) / "cell.json").unlink()
    (cell_folder(out, cells[1]) / "report.json").write_text('{"clips": [{"scores": [1]}]}')
    results = write_results(sweep, cells, out)
    assert results["cells"] == {"done": 4, "total": 6}
    assert results["missing"] == [cells[0].label, cells[1].label]
    assert "4 of 6 cells are complete" in (out / "results.md").read_text()
    asked_for_more = with_changes(sweep, {"evaluation": {"prompts": "tiny"}})
    assert write_results(asked_for_more, cells_of(asked_for_more, {}), out)["cells"]["done"] == 0


def test_metrics_of_sets_are_means_over_training_seeds(sweep: Sweep, tmp_path: Path) -> None:
    evaluation = dataclasses.replace(sweep.evaluation, metrics=("likeness", "kvd"))
    about = dataclasses.replace(sweep.about, seeds=(0, 1))
    sweep, out = dataclasses.replace(sweep, evaluation=evaluation, about=about), tmp_path / "out"
    scored(sweep, out)
    groups = set_groups(out, cells_of(sweep, {}))
    assert [group.variant for group in groups] == ["with", "without"] * 2
    for value, group in enumerate(groups):
        group.folder.mkdir(parents=True)
        methods = {"adapter": {"clips": 6, "sets": {"kvd": float(value)}}}
        report = {"methods": methods, "metrics": {"kvd": {"label": "Kernel distance"}}}
        (group.folder / "report.json").write_text(json.dumps(report))
    results = write_results(sweep, cells_of(sweep, {}), out)
    assert results["metrics"]["kvd"]["label"] == "Kernel distance"
    means = {row["name"]: row["means"].get("kvd") for row in results["rows"]}
    assert means["base model"] is None
    assert means["with"] == {"mean": 1.0, "low": None, "high": None, "clips": 12}
    (cell_folder(out, groups[0].cells[0]) / "cell.json").write_text("{}")
    assert len(set_groups(out, cells_of(sweep, {}))) == 3


@needs_browser
def test_the_page_links_rows_and_points_by_keyboard(sweep: Sweep, tmp_path: Path) -> None:
    scored(sweep, tmp_path / "out")
    with chromium(tmp_path / "profile") as tab:
        for scheme in ("light", "dark"):
            tab.open(tmp_path / "out/results.html", prefers_color_scheme=scheme)
            assert tab.evaluate("document.querySelectorAll('.scatter').length") == 2
            tab.press("j", "j")
            chosen = "[...document.querySelectorAll('.now')].map(each => each.dataset.row)"
            assert set(tab.evaluate(chosen)) == {"1"}
            tab.press("Escape")
            assert tab.evaluate(chosen) == []
            assert tab.complaints == []


@pytest.mark.slow
def test_cells_on_ray_report_their_errors(sweep: Sweep, tmp_path: Path) -> None:
    scored(sweep, tmp_path / "out")
    complete = cells_of(sweep, {})
    held_out = with_changes(sweep, {"identity_reward": {"held_out_photos": 1}}, ("ann",))
    (broken, _) = cells_of(held_out, {})
    options = SweepOptions(out=tmp_path / "out")
    outcome = run_cells_on_ray([*complete, broken], options, "", SweepWatcher())
    assert {cell.key for cell in outcome.done} == {cell.key for cell in complete}
    ((cell, error),) = outcome.failed
    assert (cell.key, error.kind) == (broken.key, "UsageError")
    assert "none is left for training" in error.message
    assert isinstance(outcome.error, SomeFailed)
