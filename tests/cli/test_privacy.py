"""Files are in PV_HOME and readable by their owner only; other libraries report no usage."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pvtool_core.batches.folder import new_batch, write_items
from pvtool_core.models.fingerprints import with_fingerprints
from pvtool_core.paths import presets_dir
from pvtool_core.permissions import use_umask_for
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder, new_run
from tests.support.commands import Pv, everything
from tests.support.sample_data import add_identity_of_noise

PV = Path(sys.executable).with_name("pv")
SWITCHES = (
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
    "RAY_USAGE_STATS_ENABLED",
    "DO_NOT_TRACK",
)


def loose(root: Path) -> list[str]:
    """Return every path from `root` down that other users may access, except links."""
    paths = [path for path in (root, *root.rglob("*")) if not path.is_symlink()]
    return [str(path) for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.slow
def test_an_added_identity_is_private_and_nothing_is_written_outside_of_pv_home(
    tmp_path: Path,
) -> None:
    """Real processes at a usual umask, without switches that disable usage reports."""
    home, user, scratch = (tmp_path / name for name in ("pv", "user", "scratch"))
    user.mkdir()
    scratch.mkdir()
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", *SWITCHES))
    }
    env |= {"HOME": str(user), "TMPDIR": str(scratch), "PV_HOME": str(home)}
    photo = presets_dir() / "tiny/samples/ada-woman.png"
    words = [
        "identity",
        "add",
        "ada",
        str(photo),
        "--adult",
        "--consent",
        "A drawn person.",
        "--json",
    ]
    added = subprocess.run(
        [PV, *words], env=env, umask=0o022, capture_output=True, text=True, check=False
    )
    assert added.returncode == 0, added.stderr
    assert loose(home / "data") + loose(home / "cache") == []
    assert [path for folder in (user, scratch) for path in folder.rglob("*")] == []


def test_runs_and_batches_are_created_private(home: Path, run: RunFolder) -> None:
    batch = new_batch(home / "data/batches")
    write_items(batch.items, [])
    assert loose(run.path) + loose(batch.path) == []


def test_only_clips_in_a_chosen_folder_follow_the_umask(home: Path) -> None:
    before = os.umask(0o022)
    try:
        for out, mask in (
            (None, 0o077),
            (home / "data/demo/ada-1", 0o077),
            (home.parent / "clips", 0o022),
        ):
            use_umask_for(out, 0o022)
            assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_permissions_of_readable_folders_are_corrected_by_the_next_command(
    pv: Pv, home: Path, mara: str
) -> None:
    sample, outside = home / "data/runs/mara-1/samples/step-1/0.mp4", home.parent / "theirs.txt"
    sample.parent.mkdir(parents=True)
    for file in (sample, outside):
        file.write_text("x")
        file.chmod(0o644)
    (home / "data/link").symlink_to(outside)
    (home / "data").chmod(0o755)
    assert pv("identity", "list").status == 0
    assert loose(home / "data") == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


@pytest.mark.slow
@pytest.mark.usefixtures("engines_in_process")
def test_clips_sidecars_and_exports_have_no_path_no_user_name_and_no_statement(
    pv: Pv,
    tmp_path: Path,
    models: Path,
    job: TrainJob,
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / 'mallory\'s "café" $(x)'
    monkeypatch.setenv("PV_HOME", str(home))
    monkeypatch.setenv("LOGNAME", "mallory")
    add_identity_of_noise("ann")
    assert pv("identity", "consent", "ann", "--consent", "mallory said yes").status == 0
    base = shutil.copytree(models / "animatediff", home / "base")
    style = shutil.copy(adapters["strong"], home / "style.safetensors")
    run = new_run(home / "data/runs", "ann")
    model = with_fingerprints(dataclasses.replace(job.model, base_model=str(base)))
    own = dataclasses.replace(job, run=run.name, identity=Library().get("ann").ref, model=model)
    short = dataclasses.replace(
        own.training, iterations=1, checkpoint_every=1, sample_every=1, score_samples=False
    )
    write_job(run.config, dataclasses.replace(own, training=short))
    assert pv("runs", "resume", run.name).status == 0
    formats = ("--format", ",".join(FORMATS))
    words = ("<V> runs", "--lora", str(style), *formats, "--sheet", "--base", "--no-likeness")
    answer = pv("render", "ann", *words, "--out", "clips")
    assert answer.status == 0, answer.err
    exported = ("adapter.safetensors", "--comfyui", "workflow.json")
    assert pv("runs", "export", run.name, *exported).status == 0
    found = everything(Path())
    suffixes = {Path(name).suffix for name in found}
    assert {".mp4", ".gif", ".webp", ".png", ".json", ".safetensors"} <= suffixes
    found |= {f"run/{name}": content for name, content in everything(run.path / "samples").items()}
    private = (b"mallory", str(tmp_path).encode(), str(models).encode())
    leaks = [(name, each) for name in found for each in private if each in found[name]]
    assert leaks == []
    (clip,) = Path("clips/ann").rglob("*.mp4")
    again = pv("render", "--from", str(clip), "--dry-run", "--json").lines
    renders = Path("renders").absolute()
    assert [each["path"] for each in again] == [str(renders / clip.relative_to("clips"))]


def test_usage_reports_are_disabled_unless_the_user_enables_them() -> None:
    code = f"import os, pvtool_core; print([os.environ[name] for name in {SWITCHES!r}])"
    env = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env=env | more, capture_output=True, text=True, check=True
        ).stdout
        for more in ({}, {"DO_NOT_TRACK": "0"})
    ]
    assert found == ["['1', '1', '0', '1']\n", "['1', '1', '0', '0']\n"]
