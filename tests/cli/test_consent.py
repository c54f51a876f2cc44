"""Consent is asked for and recorded; revoked or expired, it stops training and rendering."""

import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pvtool_core import PvError, render, train
from pvtool_core.batches.clips import model_facts
from pvtool_core.batches.folder import new_batch, write_items
from pvtool_core.hashes import sha256_of
from pvtool_core.media.metadata import xmp
from pvtool_core.models.locate import locate_style
from pvtool_core.paths import presets_dir
from pvtool_core.settings.jobs import RenderItem, write_job
from pvtool_core.settings.schema import LoraConfig, ModelConfig
from pvtool_core.settings.toml import to_table
from pvtool_core.store.consent_record import local_today
from pvtool_core.store.identities import IDENTITY_FILE, Library
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder
from pvtool_core.store.summary import job_of
from tests.support.adapter_files import small_adapter
from tests.support.commands import Pv, everything

TOMORROW, YESTERDAY = (str(local_today() + timedelta(days)) for days in (1, -1))
REVOKED = "The consent of mara was revoked on"


def expire(pv: Pv, home: Path, name: str = "mara") -> None:
    """Let the recorded last day pass."""
    assert pv("identity", "consent", name, "--expires", TOMORROW).status == 0
    record = home / "data/identities" / name / IDENTITY_FILE
    record.write_text(record.read_text().replace(TOMORROW, YESTERDAY))


def make_old(home: Path, name: str = "mara") -> None:
    """Remove what records of older versions lack."""
    record = home / "data/identities" / name / IDENTITY_FILE
    record.write_text(record.read_text().partition("[consent_terms]")[0])


@pytest.mark.parametrize("words", [(), ("--consent", ""), ("--consent", "  ")])
def test_identity_is_not_added_without_statement_or_terminal(
    pv: Pv, home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    Path("photo.png").write_bytes(b"x")
    before = everything(home.parent)
    answer = pv("identity", "add", "ann", "photo.png", *words)
    assert answer.status == 2
    assert "A consent statement is required: who agreed, when, and to what." in answer.err
    assert '--consent "ann agreed on' in answer.err
    assert everything(home.parent) == before


QUESTIONS = (b"an adult?", b"private, tests or public", b"Do you confirm it?")


def on_a_terminal(home: Path, *answers: bytes) -> tuple[int, str]:
    """Run `pv identity add` on a terminal with typed answers; return its status and output."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "pvtool.cli.main", "identity", "add", "ann", "photo.png"]
    env = {**os.environ, "PV_HOME": str(home), "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=env
    ) as process:
        os.close(terminal)
        shown = b""
        left = list(zip(QUESTIONS, answers, strict=False))
        while True:
            try:
                block = os.read(controller, 4096)
            except OSError:  # the other end was closed
                break
            if not block:
                break
            shown += block
            if left and left[0][0] in shown:
                os.write(controller, left.pop(0)[1])
    os.close(controller)
    return process.returncode, shown.decode(errors="replace")


def test_terminal_shows_the_statement_and_no_adds_nothing(home: Path) -> None:
    Path("photo.png").write_bytes(b"x")
    status, shown = on_a_terminal(home, b"y\n", b"tests\n", b"n\n")
    assert "has agreed to have videos generated of them" in shown
    assert "to be shown in tests and evaluations" in shown
    assert "Nothing was added: consent was not confirmed." in shown
    assert status == 130
    assert Library().names() == []


def test_yes_on_a_terminal_continues_with_the_photo(home: Path) -> None:
    status, shown = on_a_terminal(home, b"y\n", b"\n", b"y\n")
    assert status == 3
    assert "photo.png not found" in shown.split("Do you confirm it?")[1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--consent", "yes"), "A statement that the person is an adult is required."),
        (("--consent", "yes", "--adult", "--scope", "x"), "Invalid scope 'x'."),
        (("--consent", "yes", "--adult", "--expires", "May"), "Invalid date 'May'."),
        (("--consent", "yes", "--adult", "--expires", YESTERDAY), "is in the past."),
    ],
)
def test_terms_of_a_statement_are_checked(pv: Pv, words: tuple[str, ...], reason: str) -> None:
    Path("photo.png").write_bytes(b"x")
    answer = pv("identity", "add", "ann", "photo.png", *words)
    assert (answer.status, reason in answer.err) == (2, True), answer.err


def test_minor_is_refused_on_a_terminal(home: Path) -> None:
    status, shown = on_a_terminal(home, b"n\n")
    assert (status, "the person is not an adult" in shown) == (3, True)


def refusals(pv: Pv, run: RunFolder) -> dict[str, tuple[int, str]]:
    """Return status and errors of every command that would train or render Mara."""
    render = ("render", "mara", "<V> woman runs")
    commands = (
        ("train", "mara"),
        ("runs", "resume", run.name),
        ("runs", "resume", run.name, "--detach"),
        render,
        (*render, "--dry-run"),
        (*render, "--run", run.name),
        ("eval", run.name),
        ("runs", "average", f"{run.name}@1", f"{run.name}@2"),
        ("runs", "export", run.name, "mara.safetensors"),
    )
    answers = {" ".join(words): pv(*words) for words in commands}
    return {words: (answer.status, answer.err) for words, answer in answers.items()}


@pytest.fixture
def stopped(run: RunFolder) -> RunFolder:
    """Return a run with checkpoints that can be resumed."""
    for step in (1, 2, 900):
        run.write_checkpoint(step, {ADAPTER_FILE: small_adapter(step)})
    run.clear_exit()
    job = job_of(run)
    judges = dataclasses.replace(job.evaluation, prompts="tiny")
    write_job(run.config, dataclasses.replace(job, evaluation=judges))
    return run


def test_revoked_identity_is_neither_trained_nor_rendered(
    pv: Pv, home: Path, stopped: RunFolder
) -> None:
    assert pv("identity", "revoke", "mara").status == 0
    before = everything(home / "data")
    for words, (status, text) in refusals(pv, stopped).items():
        assert (status, REVOKED in text) == (3, True), (words, text)
        assert "pv identity consent mara --consent TEXT" in text
    for call in (lambda: train("mara"), lambda: render(stopped.name, "<V> runs", "out")):
        with pytest.raises(PvError, match=REVOKED):
            call()
    assert everything(home / "data") == before


def test_expired_identity_is_refused_until_a_new_statement(
    pv: Pv, home: Path, stopped: RunFolder
) -> None:
    expire(pv, home)
    for words, (status, text) in refusals(pv, stopped).items():
        expected = f"The consent of mara expired on {YESTERDAY}"
        assert (status, expected in text) == (3, True), (words, text)
    assert pv("identity", "consent", "mara", "--expires", "never").status == 0
    assert REVOKED not in pv("render", "mara", "<V> runs", "--dry-run").err


def test_run_with_a_forged_identity_folder_is_refused(
    pv: Pv, home: Path, stopped: RunFolder
) -> None:
    forged = home.parent / "forged"
    shutil.copytree(home / "data/identities/mara", forged)
    assert pv("identity", "revoke", "mara").status == 0
    job = job_of(stopped)
    identity = dataclasses.replace(job.identity, folder=str(forged), name="nora", consent="")
    write_job(stopped.config, dataclasses.replace(job, identity=identity))
    answer = pv("runs", "resume", stopped.name)
    assert (answer.status, "The consent of nora was revoked" in answer.err) == (3, True)


def test_copy_of_a_revoked_identity_under_another_name_is_refused(pv: Pv, mara: str) -> None:
    assert pv("identity", "export", mara, "mara.tar").status == 0
    assert pv("identity", "revoke", mara).status == 0
    assert pv("identity", "remove", mara, "--yes").status == 0
    assert pv("identity", "import", "mara.tar", "--name", "nora").status == 0
    answer = pv("train", "nora")
    assert (answer.status, "The consent of nora was revoked" in answer.err) == (3, True)


def test_exported_adapter_of_a_revoked_identity_is_refused_as_a_style_lora(
    pv: Pv, stopped: RunFolder
) -> None:
    """Also after its identity was removed; it has no metadata, as those of older versions."""
    assert pv("runs", "export", stopped.name, "style.safetensors").status == 0
    assert pv("identity", "revoke", "mara").status == 0
    assert pv("identity", "remove", "mara", "--yes").status == 0
    model = ModelConfig(base_model="base", loras=(LoraConfig(file="style.safetensors"),))
    with pytest.raises(PvError, match="The consent of a removed identity was revoked on"):
        locate_style(model)


def test_revocation_lists_what_exists_and_how_to_delete_it(
    pv: Pv, home: Path, stopped: RunFolder
) -> None:
    assert pv("runs", "export", stopped.name, "a b.safetensors").status == 0
    clip = Path("out/mara/runs-0123/seed-000003").absolute()
    clip.parent.mkdir(parents=True)
    clip.with_suffix(".json").write_text("{}")
    batch = new_batch(home / "data/batches")
    item = RenderItem(
        identity="mara", prompt="<V>", seed=3, clip=str(clip), adapter="a", run=stopped.name
    )
    write_items(batch.items, [item])
    found = pv("identity", "revoke", "mara", "--json").json
    assert found["runs"] == [stopped.name]
    assert found["adapters"] == [f"{stopped.name}@{step}" for step in (1, 2, 800, 900)]
    exported = str(Path("a b.safetensors").absolute())
    assert found["exports"] == [exported]
    assert found["clips"] == {str(clip.parents[1]): 1}
    shown = pv("identity", "revoke", "mara").out
    assert f"pv runs remove {stopped.name}" in shown
    assert f"rm '{exported}'" in shown
    assert f"rm -r {clip.parents[1]}" in shown


def test_old_record_is_readable_and_trains_with_a_warning(pv: Pv, home: Path, mara: str) -> None:
    make_old(home)
    shown = pv("identity", "consent", mara, "--json").json
    assert (shown["scope"], shown["adult"], shown["consent_state"]) == (None, None, "incomplete")
    assert "unknown" in pv("identity", "consent", mara).out
    warning = "Complete it with `pv identity consent mara --scope private --adult`."
    assert warning in pv("train", mara, "--set", "model.base_model=nowhere").err
    assert pv("identity", "consent", mara, "--scope", "private").status == 2
    changed = pv("identity", "consent", mara, "--scope", "tests", "--adult", "--json").json
    assert (changed["scope"], changed["consent_state"], changed["consent"]) == (
        "tests",
        "valid",
        "yes",
    )


def test_changed_photos_are_reported_and_need_a_new_statement(
    pv: Pv, home: Path, mara: str
) -> None:
    photo = home / "data/identities/mara/references/000.png"
    photo.write_bytes(photo.read_bytes() + b"more")
    assert "The photos of mara have changed" in pv("identity", "show", mara).err
    refused = pv("identity", "consent", mara, "--scope", "public")
    assert (refused.status, "covers other photos" in refused.err) == (2, True)
    again = pv("identity", "consent", mara, "--scope", "public", "--consent", "agreed again")
    assert (again.status, "have changed" in again.err) == (0, False)


def test_revoked_consent_needs_a_new_statement(pv: Pv, mara: str) -> None:
    first = pv("identity", "consent", mara, "--json").json["consent_sha256"]
    assert pv("identity", "revoke", mara).status == 0
    refused = pv("identity", "consent", mara, "--scope", "public")
    assert (refused.status, "was revoked: a new statement is needed" in refused.err) == (2, True)
    again = pv("identity", "consent", mara, "--consent", "agreed again", "--json").json
    assert (again["consent_state"], again["revoked"]) == ("valid", None)
    assert again["consent_sha256"] != first
    assert REVOKED not in pv("render", mara, "<V> runs").err


@pytest.mark.slow
@pytest.mark.usefixtures("engines_in_process")
def test_photo_of_a_generator_is_refused_unless_allowed_which_is_recorded(pv: Pv) -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp().decode())
    with Image.open(presets_dir() / "tiny/samples/ada-woman.png") as sample:
        sample.save("ada.png", pnginfo=info)
    words = ("identity", "add", "ada", "ada.png", "--adult", "--consent", "a drawing")
    refused = pv(*words)
    assert (refused.status, "ada.png is marked as generated by AI" in refused.err) == (3, True)
    assert Library().names() == []
    assert pv(*words, "--allow-generated").status == 0
    (face,) = Library().get("ada").record.faces
    assert face.generated == "trainedAlgorithmicMedia"


def test_clip_of_a_revoked_identity_is_not_rendered_again(pv: Pv, stopped: RunFolder) -> None:
    job, adapter = job_of(stopped), stopped.path / "checkpoints/step-000900" / ADAPTER_FILE
    facts = {
        "identity": "mara",
        "prompt": "<V> woman runs",
        "seed": 0,
        "run": stopped.name,
        "step": 900,
        "adapter": ADAPTER_FILE,
        "adapter_sha256": sha256_of(adapter),
        "adapter_start": 0.75,
        "model": model_facts(job.model),
        "sampler": to_table(job.sampler),
        "upscale": {"factor": 1},
        "files": {},
    }
    Path("seed-000000.json").write_text(json.dumps(facts))
    assert pv("render", "--from", "seed-000000.json", "--dry-run").status == 0
    assert pv("identity", "revoke", "mara").status == 0
    refused = pv("render", "--from", "seed-000000.json")
    assert (refused.status, REVOKED in refused.err) == (3, True)
