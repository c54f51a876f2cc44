"""Commands without an engine, and input that is refused before an engine is started."""

import dataclasses
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pvtool.cli.demo import newest_demo_run
from pvtool.jobs.prepare import choose, prepare
from pvtool_core.api.batch import make_batch
from pvtool_core.paths import presets_dir
from pvtool_core.settings.jobs import RenderItem, RenderJob, Setup
from pvtool_core.settings.schema import ModelConfig
from pvtool_core.store.event_log import EventWriter
from pvtool_core.store.events import ScoresEvent, StepEvent
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, BestCheckpoint, ExitRecord, RunFolder, new_run
from tests.support.adapter_files import small_adapter
from tests.support.commands import Pv, everything
from tests.support.run_files import finished_run, step_event, write_events, write_report


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("identity add ../mara photo.png", 3, "Invalid name '../mara' for an identity."),
        ("identity add mara photo.png", 3, "An identity named 'mara' already exists."),
        ("identity add nora photo.png", 3, "photo.png not found."),
        ("identity add nora photo.png --class cat", 2, "'cat' is not one of"),
        ("identity show nora", 4, "No identity named 'nora'."),
        ("identity show marah", 4, "Did you mean 'mara'?"),
        ("identity rename mara a/b", 3, "Invalid name 'a/b' for an identity."),
        ("identity rename mara mara", 3, "An identity named 'mara' already exists."),
        ("identity remove mara", 2, "Add --yes."),
        ("identity import nothing.tar", 4, "No file named 'nothing.tar'."),
        ("prompts show nothing", 4, "No prompt bank named 'nothing'."),
        ("prompts add mine runs", 3, "The prompt 'runs' lacks the keyword <V>."),
        ("prompts add ../mine '<V>'", 3, "Invalid name '../mine' for a prompt bank."),
        ("prompts import mine nothing.txt", 4, "No prompt file named 'nothing.txt'."),
        ("presets show huge", 4, "No preset named 'huge'."),
        ("train nora", 4, "No identity named 'nora'."),
        ("train mara --preset huge", 4, "No preset named 'huge'."),
        ("train mara --set training.iteration=3", 2, "did you mean 'training.iterations'"),
        (
            "train mara --set training.iterations=many",
            2,
            "training.iterations: is 'many', not a whole number",
        ),
        ("train mara --set training.iterations=0", 2, "training.iterations: is 0, not between"),
        (
            "train mara --set adapter.rank=8",
            2,
            "adapter.alpha: is 16, but must equal adapter.rank = 8",
        ),
        ("train mara --prompts nothing", 4, "No prompt bank named 'nothing'."),
        (
            "train mara --prompts default --base-model nowhere",
            4,
            "nowhere.",
        ),
        ("train mara --controlnet net", 2, "Use --controlnet and --control-frames together."),
        (
            "train mara --lora nothing.safetensors:0.5",
            4,
            "nothing.safetensors.",
        ),
        (
            "train mara --lora nothing.safetensors:50",
            2,
            "weight: is 50.0, not between -10.0 and 10.0",
        ),
        ("train mara --seed -1", 2, "-1 is not in the range"),
        ("runs show mara-9", 4, "No run named 'mara-9'. Did you mean 'mara-1'?"),
        ("runs pause mara-1", 2, "mara-1 is not running: it is finished."),
        ("runs checkpoint mara-1", 2, "mara-1 is not running: it is finished."),
        ("runs sample mara-1", 2, "mara-1 is not running: it is finished."),
        ("runs watch mara-9", 4, "No run named 'mara-9'. Did you mean 'mara-1'?"),
        ("dashboard", 2, "The dashboard needs a terminal."),
        ("dashboard mara-9", 4, "No run named 'mara-9'. Did you mean 'mara-1'?"),
        ("dashboard no/where", 4, "No folder named 'no/where'."),
        ("train mara --watch --detach", 2, "--watch and --detach cannot be combined."),
        ("runs remove mara-1", 2, "Add --yes."),
        ("eval nothing", 4, "No run named 'nothing'."),
        ("eval no/thing", 4, "No folder named 'no/thing'."),
        ("runs export mara-1 no/where.safetensors", 4, "No folder named"),
        ("identity export mara no/where.tar", 4, "No folder named"),
        ("train mara --preset tiny --base-model .", 3, "is not a diffusers folder."),
        ("eval .", 4, "No clip in the folder"),
        ("demo --sample zoe", 4, "No sample named 'zoe'."),
        ("dance", 2, "No such command 'dance'."),
        ("runs list --nonsense", 2, "No such option"),
    ],
)
def test_invalid_input_is_refused_without_changes(
    pv: Pv, run: RunFolder, home: Path, words: str, status: int, sentence: str
) -> None:
    before = everything(home)
    answer = pv(*words.split())
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert (answer.status, answer.out) == (status, "")
    assert everything(home) == before


def test_errors_are_one_json_object(pv: Pv) -> None:
    answer = pv("identity", "show", "nora", "--json")
    assert (answer.json["error"]["kind"], answer.json["error"]["status"], answer.status) == (
        "Missing",
        4,
        4,
    )


def test_run_shows_the_iterations_without_face(pv: Pv, run: RunFolder) -> None:
    assert "without face" not in pv("runs", "show", run.name).out
    with EventWriter(run.events) as events:
        for step, found in enumerate((True, False, False), 1):
            events.write(StepEvent(step=step, face_found=found))
    assert pv("runs", "show", run.name, "--json").json["iterations_without_face"] == 2
    assert "2 iterations" in pv("runs", "show", run.name).out


def test_run_shows_its_newest_scores_and_its_best_checkpoint(pv: Pv, run: RunFolder) -> None:
    assert pv("runs", "show", run.name, "--json").json["best"] is None
    with EventWriter(run.events) as events:
        for step, likeness in ((50, 0.42), (100, 0.31)):
            scores = {"likeness": likeness}
            events.write(ScoresEvent(step=step, clips=2, scores=scores, base={"likeness": 0.1}))
    run.write_best(BestCheckpoint(step=50, likeness=0.42))
    text = pv("runs", "show", run.name).out
    assert "step 100: likeness 0.310 (base 0.100)" in text
    assert "mara-1@best, step 50: likeness 0.420" in text
    shown = pv("runs", "show", run.name, "--json").json
    assert shown["best"] == {"step": 50, "likeness": 0.42}
    assert shown["scores"]["scores"] == {"likeness": 0.31}


def test_traceback_is_shown_with_debug_only(pv: Pv) -> None:
    assert "Traceback" not in pv("identity", "show", "nora").err
    assert "Traceback" in pv("identity", "show", "nora", "--debug").err


def test_users_empty_prompt_bank_is_refused(pv: Pv, mara: str, home: Path) -> None:
    (home / "config/prompts").mkdir(parents=True)
    (home / "config/prompts/empty.toml").write_text("prompts = []")
    before = everything(home)
    answer = pv("train", mara, "--prompts", "empty")
    assert (answer.status, "No prompt in empty" in answer.err) == (3, True)
    assert everything(home) == before


def test_error_names_the_invalid_key_of_user_settings(pv: Pv, mara: str, home: Path) -> None:
    (home / "config/presets").mkdir(parents=True)
    (home / "config/presets/mine.toml").write_text("[model]\nwidht = 3\n")
    answer = pv("presets", "show", "mine")
    assert (answer.status, "model.widht: unknown setting; did you mean 'width'?" in answer.err) == (
        2,
        True,
    )
    (home / "config/config.toml").write_text("[training]\niterations = 'x'\n")
    answer = pv("train", mara)
    assert (answer.status, "training.iterations: is 'x', not a whole number" in answer.err) == (
        2,
        True,
    )


def test_life_cycle_of_an_identity(pv: Pv, mara: str, home: Path) -> None:
    assert [each["name"] for each in pv("identity", "list", "--json").json["identities"]] == [
        "mara"
    ]
    assert pv("identity", "show", "mara", "--json").json["class"] == "woman"
    assert pv("identity", "rename", "mara", "nora").status == 0
    assert Path(pv("identity", "export", "nora", "--json").json["path"]).is_file()
    assert pv("identity", "remove", "nora", "--yes").status == 0
    assert everything(home / "data") == {}
    assert pv("identity", "import", "nora.tar", "--name", "again", "--json").json["name"] == "again"


def test_removing_an_identity_lists_its_runs(pv: Pv, run: RunFolder) -> None:
    assert "mara-1" in pv("identity", "remove", "mara", "--yes").err


def test_removing_an_identity_lists_its_clips_and_batches(
    pv: Pv, run: RunFolder, home: Path
) -> None:
    demo, out = home / "data/demo" / run.name, home / "elsewhere"
    for folder in (demo, out):
        folder.mkdir(parents=True)
    item = RenderItem(
        identity="mara",
        prompt="<V> woman runs",
        seed=0,
        setup=0,
        clip=str(out / "mara/runs/seed-0"),
    )
    setup = Setup(model=ModelConfig(base_model="base"))
    batch = make_batch([item], RenderJob(items="", setups=(setup,), out=str(out), versions={}))
    other = make_batch(
        [dataclasses.replace(item, identity="nora")],
        RenderJob(items="", setups=(setup,), out=str(home / "others"), versions={}),
    )
    answer = pv("identity", "remove", "mara", "--yes", "--json")
    expected = {
        "runs": [run.name],
        "demos": [str(demo)],
        "batches": [str(batch.path)],
        "renders": [str(out)],
    }
    assert answer.json["left"] == expected
    assert all(str(path) in answer.err for path in (demo, batch.path, out))
    assert str(other.path) not in answer.err


def test_life_cycle_of_a_prompt_bank(pv: Pv) -> None:
    assert pv("prompts", "add", "mine", "<V> {noun} runs").status == 0
    assert pv("prompts", "add", "mine", "<V> {noun} sleeps").out == "mine has 2 prompts.\n"
    assert pv("prompts", "show", "mine").out == "<V> {noun} runs\n<V> {noun} sleeps\n"
    Path("more.txt").write_text("<V> swims\n")
    assert pv("prompts", "import", "more", "more.txt", "--json").json["prompts"] == 1
    assert {"default", "mine", "more"} <= {
        bank["name"] for bank in pv("prompts", "list", "--json").json["banks"]
    }


def test_every_shipped_preset_can_be_shown(pv: Pv) -> None:
    for preset in pv("presets", "list", "--json").json["presets"]:
        shown = pv("presets", "show", preset["name"], "--json").json
        assert shown["settings"]["training"]["iterations"] > 0


def test_broken_run_does_not_hide_others(pv: Pv, run: RunFolder, mara: str) -> None:
    broken = new_run(run.path.parent, mara)
    broken.config.write_text("no toml")
    broken.status.write_text("{")
    listed = pv("runs", "list", "--json").json["runs"]
    assert [each["run"] for each in listed] == ["mara-1", "mara-2"]
    assert listed[0]["problem"] == ""
    assert "config.toml" in listed[1]["problem"]
    assert "status.json of mara-2 is unreadable" in listed[1]["problem"]
    assert pv("identity", "show", mara, "--json").json["runs"] == ["mara-1"]


def test_watching_a_finished_run_without_terminal_prints_its_result(pv: Pv, run: RunFolder) -> None:
    assert pv("runs", "watch", run.name).out == "mara-1 is finished.\n"


def test_show_and_export_print_the_effect_of_the_adapter(pv: Pv, run: RunFolder) -> None:
    run.write_checkpoint(800, {ADAPTER_FILE: small_adapter()})
    assert "step 800: median rms of B·A: q 0." in pv("runs", "show", "mara-1").out
    assert "Effect at step 800: median rms of B·A: q 0." in pv("runs", "export", "mara-1").err
    run.write_checkpoint(900, {ADAPTER_FILE: small_adapter(scale=0.0)})
    for words in (("show", "mara-1", "--json"), ("export", "mara-1", "other", "--json")):
        answer = pv("runs", *words)
        assert answer.json["effect"]["rms"] == {"q": 0, "k": 0, "v": 0}
        assert "Warning: the adapter mara-1@900 changes almost nothing" in answer.err


def test_run_can_be_shown_exported_and_removed(pv: Pv, run: RunFolder) -> None:
    assert [each["run"] for each in pv("runs", "list", "--json").json["runs"]] == ["mara-1"]
    shown = pv("runs", "show", "mara-1", "--json").json
    assert (shown["state"], shown["checkpoints"], shown["settings"]["prompts"]) == (
        "finished",
        [800],
        ["<V> woman runs"],
    )
    exported = pv("runs", "export", "mara-1", "--json").json
    assert Path(exported["path"]).read_bytes() == b"weights"
    assert pv("runs", "export", "mara-1").status == 3
    assert pv("runs", "remove", "mara-1", "--yes").status == 0
    assert not run.path.exists()


def test_exported_adapter_is_private(pv: Pv, run: RunFolder) -> None:
    (source,) = run.checkpoints.rglob("adapter.safetensors")
    source.chmod(0o644)
    before = os.umask(0o022)
    try:
        exported = Path(pv("runs", "export", "mara-1", "--json").json["path"])
    finally:
        os.umask(before)
    assert exported.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["file", "dangling link", "folder"])
def test_export_does_not_overwrite_files(
    pv: Pv, run: RunFolder, tmp_path: Path, there: str
) -> None:
    target = tmp_path / "mine.safetensors"
    if there == "file":
        target.write_bytes(b"mine")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "elsewhere")
    before = everything(tmp_path)
    answer = pv("runs", "export", "mara-1", str(target))
    assert (answer.status, "Choose another name" in answer.err) == (3, True)
    assert everything(tmp_path) == before
    assert not (tmp_path / "elsewhere").exists()


def test_export_does_not_overwrite_a_file_created_meanwhile(
    pv: Pv, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mine.safetensors"

    def copy(content: Any, file: Any) -> None:
        target.write_bytes(b"of another program")
        file.write(content.read())

    monkeypatch.setattr("shutil.copyfileobj", copy)
    assert pv("runs", "export", "mara-1", str(target)).status == 3
    assert everything(target.parent)["mine.safetensors"] == b"of another program"
    assert not list(tmp_path.glob(".*writing"))


def test_failed_export_leaves_no_files(
    pv: Pv, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fills_up(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", fills_up)
    (tmp_path / "out").mkdir()
    assert pv("runs", "export", "mara-1", str(tmp_path / "out/mine.safetensors")).status == 5
    assert not list((tmp_path / "out").iterdir())


def test_export_works_without_hard_links(
    pv: Pv, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("os.link", refused)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out/mine.safetensors"
    assert pv("runs", "export", "mara-1", str(target)).status == 0
    assert (target.read_bytes(), [*target.parent.iterdir()]) == (b"weights", [target])
    assert pv("runs", "export", "mara-1", str(target)).status == 3


def test_live_run_cannot_be_removed(pv: Pv, run: RunFolder) -> None:
    with run.lock():
        answer = pv("runs", "remove", "mara-1", "--yes")
    assert (answer.status, run.path.exists()) == (75, True)


def test_removing_runs_names_the_refused_ones_and_removes_the_others(
    pv: Pv, run: RunFolder
) -> None:
    other = new_run(run.path.parent, "mara")
    shutil.copy(run.config, other.config)
    with run.lock():
        answer = pv("runs", "remove", "mara-1", other.name, "mara-9", "--yes")
    assert (answer.status, answer.out) == (6, f"Removed {other.name}.\n")
    assert "mara-1: " in answer.err and "mara-9: No run named 'mara-9'." in answer.err
    assert (run.path.exists(), other.path.exists()) == (True, False)


def test_runs_are_filtered_by_words(pv: Pv, run: RunFolder) -> None:
    failed = new_run(run.path.parent, "nora")
    shutil.copy(run.config, failed.config)
    failed.write_exit(ExitRecord(status=1, state=State.FAILED))
    for words, found in {
        "failed": ["nora-1"],
        "state:finished": ["mara-1"],
        "identity:mara": ["mara-1", "nora-1"],
        "TINY run:nora": ["nora-1"],
        "run:failed": [],
    }.items():
        answer = pv("runs", "list", *words.split(), "--json")
        assert [each["run"] for each in answer.json["runs"]] == found, words
        assert answer.err == f"{len(found)} of 2 runs.\n"


def test_run_is_shown_with_rounded_figures(pv: Pv, run: RunFolder) -> None:
    write_events(run, [step_event(800, seconds=2.468, icr=0.31777)])
    run.write_best(BestCheckpoint(step=800, likeness=0.41234))
    shown = pv("runs", "show", "mara-1").out
    assert "2.5" in shown and "ICR 0.318" in shown
    assert not re.search(r"\d\.\d{4}", shown)
    row = pv("runs", "list").out.splitlines()[1]
    assert {"finished", "0.41", "0.318", "2.5"} <= set(row.split())


def test_process_has_the_exit_status_and_errors_on_stderr(home: Path) -> None:
    pv = Path(sys.executable).with_name("pv")
    env = {**os.environ, "PV_HOME": str(home)}
    left = subprocess.run(
        [pv, "identity", "show", "nora"], capture_output=True, text=True, env=env, check=False
    )
    assert (left.returncode, left.stdout) == (4, "")
    assert left.stderr.startswith("Error: No identity named 'nora'.")
    assert "\x1b" not in left.stderr


def test_demo_run_with_other_weights_is_not_reused(run: RunFolder, mara: str) -> None:
    person = Library().get(mara)
    assert newest_demo_run(person) is None
    ours = prepare(choose(mara, "tiny"))
    found = newest_demo_run(person)
    assert found is not None
    assert found.path == ours.path


def test_run_shows_the_licences_of_its_models(pv: Pv, mara: str) -> None:
    faces = str(presets_dir() / "tiny/faces")
    assert (
        pv("models", "add", "faces", faces, "--link", "--licence", "theirs, research only").status
        == 0
    )
    run = prepare(choose(mara, "tiny", sets=["identity_reward.package=models:faces"]))
    assert pv("runs", "show", run.name, "--json").json["settings"]["licences"] == [
        "faces: theirs, research only"
    ]


def test_runs_are_kept_when_an_identity_is_renamed(pv: Pv, run: RunFolder, mara: str) -> None:
    began = pv("runs", "show", run.name, "--json").json["started"]
    os.utime(run.config, (1e9, 1e9))
    assert pv("identity", "rename", mara, "nora").status == 0
    assert pv("runs", "show", run.name, "--json").json["started"] < began
    assert pv("identity", "show", "nora", "--json").json["runs"] == [run.name]
    (clip,) = pv("render", "nora", "<V> woman runs", "--dry-run", "--json").lines
    assert clip["identity"] == "nora"
    assert pv("runs", "show", run.name, "--json").json["identity"] == "nora"


def test_interrupted_rename_is_completed_by_the_same_command(
    pv: Pv, run: RunFolder, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Library, "rename", interrupt)
        assert pv("identity", "rename", mara, "nora").status != 0
    assert Library().names() == [mara]
    assert pv("identity", "show", mara, "--json").json["runs"] == [run.name]
    assert pv("identity", "rename", mara, "nora").status == 0
    assert pv("identity", "show", "nora", "--json").json["runs"] == [run.name]
    assert pv("runs", "show", run.name, "--json").json["settings"]["identity"]["folder"] == str(
        Library().get("nora").folder
    )


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_new_identity_with_an_old_name_does_not_get_the_old_adapter(
    pv: Pv, run: RunFolder, mara: str
) -> None:
    library = Library()
    assert pv("identity", "remove", mara, "--yes").status == 0
    with library.staging() as staging:
        (staging / FACES_FILE).write_text("[]")
        (staging / EMBEDDINGS_FILE).write_bytes(b"another face")
        library.adopt(staging, mara, "woman", "yes")
    assert pv("identity", "show", mara, "--json").json["runs"] == []
    assert pv("render", mara, "<V> woman runs", "--dry-run").status == 4
    refused = pv("render", mara, "<V> woman runs", "--dry-run", "--run", run.name)
    assert refused.status == 2
    assert "another identity of that name" in refused.err


def test_exports_are_private(pv: Pv, mara: str, tmp_path: Path) -> None:
    assert pv("identity", "export", mara, str(tmp_path / "mara.tar")).status == 0
    assert (tmp_path / "mara.tar").stat().st_mode & 0o777 == 0o600


def test_runs_are_compared_by_results_settings_and_evaluation(pv: Pv, mara: str) -> None:
    first = finished_run("mara")
    second = finished_run("mara", preset="tiny-2")
    second.write_best(BestCheckpoint(step=200, likeness=0.61))
    assert "Run `pv eval mara-1 mara-2`" in pv("runs", "compare", "mara-1", "mara-2").out
    write_report(second)
    answer = pv("runs", "compare", "mara-1", "mara-2")
    rows = [re.split(r"\s{2,}", line) for line in answer.out.splitlines() if line]
    assert ["likeness, best", "0.610 at 200"] in rows
    assert ["preset", "tiny", "tiny-2"] in rows
    assert ["Likeness", "0.420 [0.350, 0.490]"] in rows
    assert ["Likeness (reward)", "0.800 [0.730, 0.870]"] in rows
    assert "Alarm: mara-2: adapter: the clips move less" in answer.out
    found = pv("runs", "compare", "mara-2", first.name, "--json").json
    assert found["settings"] == {"preset": {"mara-2": "tiny-2", "mara-1": "tiny"}}
    assert found["metrics"]["clip_t"]["mara-2"]["mean"] == 24.98
    assert pv("runs", "compare", "mara-1", "nobody").status == 4


def test_notes_and_tags_of_a_run(pv: Pv, run: RunFolder) -> None:
    assert "has no note" in pv("runs", "note", run.name).out
    pv("runs", "note", run.name, "best so far", "--tag", "paper", "--tag", "old")
    answer = pv("runs", "note", run.name, "--untag", "old", "--json").json
    assert answer == {"run": run.name, "note": "best so far", "tags": ["paper"]}
    (listed,) = pv("runs", "list", "--json").json["runs"]
    assert (listed["note"], listed["tags"]) == ("best so far", ["paper"])
    assert pv("runs", "note", run.name, "x" * 70_000).status == 2
    run.notes.write_text("[]")
    (broken,) = pv("runs", "list", "--json").json["runs"]
    assert broken["problem"].startswith("notes.json of mara-1 is unreadable")
