"""`pv models`, and the models section of `pv doctor`, as text and JSON."""

from pathlib import Path

import pytest

from pvtool.cli import doctor
from pvtool_core.models.registry import model_folder
from tests.support.commands import Pv, everything
from tests.support.hub import Hub
from tests.support.pipelines import pipeline
from tests.support.weight_files import onnx, safetensors


@pytest.fixture
def base(hub: Hub, pv: Pv) -> str:
    """Return a downloaded model."""
    hub.repositories["org/base"] = pipeline()
    assert pv("models", "fetch", "org/base").status == 0
    return "org/base"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("show nothing", 4, "No model named 'nothing'."),
        ("show antelope", 4, "Did you mean 'antelopev2'?"),
        ("show ../x", 3, "Invalid name '../x' for a model."),
        ("fetch nothing", 4, "No model named 'nothing'."),
        ("fetch org/nothing", 4, "not found (404)."),
        (
            "fetch org/base --from http://127.0.0.1:9",
            4,
            "Cannot reach http://127.0.0.1:9: Connection refused.",
        ),
        ("fetch", 2, "Missing argument"),
        ("add mine nothing.pt", 4, "No file or folder named 'nothing.pt'."),
        ("add mine page.safetensors", 3, "page.safetensors is not a safetensors file."),
        ("add a/b/c page.safetensors", 3, "Invalid name 'a/b/c' for a model."),
        ("add hpsv2 page.safetensors", 3, "page.safetensors is not a file of hpsv2."),
        (
            "verify hpsv2",
            4,
            "Weights not found: hpsv2.\nDownload them with `pv models fetch hpsv2`.",
        ),
        ("remove hpsv2", 4, "No model on this machine named 'hpsv2'."),
    ],
)
def test_invalid_input_is_refused_without_changes(
    pv: Pv, hub: Hub, home: Path, words: str, status: int, sentence: str
) -> None:
    Path("page.safetensors").write_text("<html>")
    before = everything(home)
    answer = pv("models", *words.split())
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert (answer.status, answer.out) == (status, "")
    assert {name for name in everything(home) if "/.locks/" not in name} == set(before)


def test_life_cycle_of_a_model(pv: Pv, hub: Hub, base: str) -> None:
    (row,) = [row for row in pv("models", "list", "--json").json["models"] if row["name"] == base]
    assert (row["state"], row["commercial"], row["licence"]) == (
        "here",
        "conditions",
        "mit (by its card)",
    )
    assert row["size"] == sum(
        path.stat().st_size for path in model_folder(base).rglob("*") if path.is_file()
    )
    shown = pv("models", "show", base, "--json").json
    assert (shown["path"], shown["lacks"]) == (str(model_folder(base)), [])
    assert {file["path"] for file in shown["files"]} == {
        "model_index.json",
        "unet/config.json",
        "unet/model.safetensors",
    }
    assert "org/base@" in pv("models", "show", base).out
    assert (
        pv("models", "fetch", base).out == f"org/base is already installed: {model_folder(base)}\n"
    )
    assert pv("models", "verify").out == "org/base: its 3 files are as published.\n"
    assert pv("models", "remove", base).status == 2
    assert pv("models", "remove", base, "--yes").out == "Removed org/base.\n"
    assert base not in pv("models", "list").out


def test_corrupt_file_is_reported_and_fetched_again(pv: Pv, hub: Hub, base: str) -> None:
    weights = model_folder(base) / "unet/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    answer = pv("models", "verify", base)
    assert answer.status == 3
    assert "org/base/unet/model.safetensors is truncated" in answer.err
    assert "Download them with `pv models fetch org/base`." in answer.err
    weights.unlink()
    assert pv("models", "verify", base).status == 4
    assert pv("models", "fetch", base, "--json").json["fetched"] is True
    assert weights.read_bytes() == content


def test_exit_status_for_wrong_hash_is_3_and_for_full_disk_5(
    pv: Pv, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/base"] = pipeline()
    hub.wrong = {"model.safetensors"}
    answer = pv("models", "fetch", "org/base", "--json")
    assert (answer.status, answer.json["error"]["kind"]) == (3, "BrokenWeights")
    hub.repositories["org/huge"] = {"model.safetensors": safetensors(b"x")}
    monkeypatch.setattr(Hub, "listing", huge_listing)
    answer = pv("models", "fetch", "org/huge", "--json")
    assert (answer.status, answer.json["error"]["kind"]) == (5, "DiskFull")
    assert "org/huge needs 1048576.0 GiB more" in answer.json["error"]["hint"]


def huge_listing(hub: Hub, path: str) -> dict[str, object]:
    """Return a repository larger than any disk."""
    return {"sha": "0" * 40, "siblings": [{"rfilename": "model.safetensors", "size": 2**50}]}


def test_failure_of_one_model_keeps_the_others(pv: Pv, hub: Hub) -> None:
    hub.repositories["org/base"] = pipeline()
    answer = pv("models", "fetch", "org/nothing", "org/base")
    assert (answer.status, "1 of 2 failed." in answer.err, "org/nothing: " in answer.err) == (
        6,
        True,
        True,
    )
    assert model_folder("org/base").is_dir()


def test_progress_and_licence_are_printed_to_stderr(pv: Pv, hub: Hub) -> None:
    hub.repositories["org/base"] = {"model.safetensors": safetensors(bytes(3 * 2**20))}
    hub.licence = "cc-by-nc-4.0"
    answer = pv("models", "fetch", "org/base", "--json")
    assert answer.json["licence"] == "cc-by-nc-4.0 (by its card)"
    said = answer.err.splitlines()
    assert (
        said[0] == "The licence of org/base: cc-by-nc-4.0 (by its card). It forbids commercial use."
    )
    assert said[-1].startswith("org/base, MiB 3/3")


def test_training_on_users_weights_shows_their_licence(pv: Pv, hub: Hub, home: Path) -> None:
    Path("w600k_r50.onnx").write_bytes(onnx())
    answer = pv("models", "add", "antelopev2", "w600k_r50.onnx")
    assert (answer.status, "does not have the published sha256" in answer.err) == (3, True)
    answer = pv(
        "models", "add", "mine", "w600k_r50.onnx", "--link", "--licence", "mine alone", "--json"
    )
    assert (answer.status, answer.json["licence"], answer.json["lacks"]) == (0, "mine alone", [])
    assert (model_folder("mine") / "w600k_r50.onnx").is_symlink()
    assert pv("models", "verify", "mine", "--json").json == {
        "name": "mine",
        "files": 1,
        "published": 0,
    }


def test_doctor_names_the_download_command_for_each_preset(pv: Pv, hub: Hub, home: Path) -> None:
    (home / "config/presets").mkdir(parents=True)
    (home / "config/presets/mine.toml").write_text(
        "[model]\nbase_model = 'models:realistic-vision'\n"
        "[identity_reward]\npackage = 'models:antelopev2'\n"
        "[semantic_reward]\ncheckpoint = 'models:hpsv2/HPS_v2_compressed.pt'\n"
        "[evaluation]\nrecognizer = 'w600k_r50.onnx'\n"
    )
    assert doctor.weights()["tiny"] == "here"
    assert "run `pv models fetch realistic-vision antelopev2 hpsv2`" in doctor.weights()["mine"]
    model_folder("hpsv2").mkdir(parents=True)
    (model_folder("hpsv2") / "HPS_v2_compressed.pt").write_bytes(b"weights")
    assert "run `pv models fetch realistic-vision antelopev2`" in doctor.weights()["mine"]


def test_doctor_names_the_system_package_that_opencv_needs() -> None:
    whole = {"compute": {}, "codecs": {}, "weights": {"tiny": "here"}}
    error = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    assert doctor.problems({**whole, "pictures": {"opencv": "4.12.0"}}) == []
    assert doctor.problems({**whole, "pictures": {"error": error}}) == ["pictures"]
    (cure,) = doctor.cures({**whole, "pictures": {"error": error}})
    assert "libgl1" in cure
