"""Run commands like a user: arguments in, exit status and output out, in a temporary home."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from pvtool.cli.main import main
from pvtool_core.settings.jobs import TrainJob, write_job
from pvtool_core.settings.schema import EvaluationConfig, IdentityRewardConfig, ModelConfig
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Library
from pvtool_core.store.liveness import State
from pvtool_core.store.runs import ADAPTER_FILE, ExitRecord, RunFolder, new_run
from tests.support.commands import Answer, Pv


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set PV_HOME, and a current folder beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def pv(home: Path, capfd: pytest.CaptureFixture[str]) -> Pv:
    """Run a command in this process."""

    def run(*words: str) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main(words)
        out, err = capfd.readouterr()
        return Answer(int(left.value.code or 0), out, err)

    return run


@pytest.fixture
def mara(home: Path) -> str:
    """Add an identity like an identify job, with empty pictures."""
    library = Library()
    with library.staging() as staging:
        face = {"picture": "a.jpg", "reference": "references/000.png", "face": "faces/000.png"}
        found = {**face, "score": 0.9, "bbox": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5}
        for file in (face["reference"], face["face"]):
            (staging / file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (112, 112)).save(staging / file)
        save_file({"rec": np.array([[0.6, 0.8]], np.float32)}, staging / EMBEDDINGS_FILE)
        (staging / FACES_FILE).write_text(json.dumps([found]))
        library.adopt(staging, "mara", "woman", "yes")
    return "mara"


@pytest.fixture
def run(home: Path, mara: str) -> RunFolder:
    """Create a finished run with one checkpoint."""
    folder = new_run(home / "data/runs", mara)
    job = TrainJob(
        model=ModelConfig(base_model="base"),
        identity_reward=IdentityRewardConfig(package="faces"),
        evaluation=EvaluationConfig(recognizer="metric.onnx"),
        run=folder.name,
        preset="tiny",
        identity=Library().get(mara).ref,
        prompts=("<V> woman runs",),
    )
    write_job(folder.config, job)
    folder.write_checkpoint(800, {ADAPTER_FILE: b"weights"})
    folder.write_exit(ExitRecord(status=0, state=State.FINISHED))
    return folder
