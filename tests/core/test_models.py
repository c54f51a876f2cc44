"""Models from a hub, an address or files: complete, verified, or not installed."""

import errno
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pvtool_core.errors import (
    BadName,
    BrokenWeights,
    Busy,
    DiskFull,
    ExitStatus,
    InputRefused,
    Missing,
    NameTaken,
    SettingsError,
    Unreachable,
    WeightsMissing,
)
from pvtool_core.models import downloads
from pvtool_core.models.adding import add
from pvtool_core.models.fetching import Listener, fetch
from pvtool_core.models.hub import is_the_hub
from pvtool_core.models.installed import Models, ModelState, licences, missing_models
from pvtool_core.models.locate import resolve
from pvtool_core.models.pickles import problem_of
from pvtool_core.models.registry import Registry, model_folder
from pvtool_core.settings.presets import Presets
from tests.support.hub import COMMIT, Hub, serve
from tests.support.pipelines import pipeline
from tests.support.weight_files import onnx, safetensors

LARGE = 3 * 2**20 + 17  # bytes: several chunks of a download


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return archive.getvalue()


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Code:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self) -> Any:
        return (os.remove, ("somebody's file",))


class Recorder(NamedTuple):
    sentences: list[str]
    listener: Listener


@pytest.fixture
def recorder() -> Recorder:
    sentences: list[str] = []
    return Recorder(sentences, Listener(sentences.append, lambda file, done, total: None))


def known(tmp_path: Path, text: str) -> Models:
    """Return models with a user's registry."""
    (tmp_path / "models.toml").write_text(text)
    return Models(Registry(shipped=tmp_path / "none.toml", own=tmp_path / "models.toml"))


def test_shipped_entries_have_licences_and_sources() -> None:
    registry = Registry()
    entries = [registry.get(name) for name in registry.names()]
    assert {"realistic-vision", "antelopev2", "buffalo_l", "hpsv2", "hpsv2.1", "hunyuan-video"} <= {
        *registry.names()
    }
    assert all(entry.sources and entry.terms and entry.licence != "not known" for entry in entries)
    published = [item for entry in entries for item in entry.sha256.items()]
    assert all(len(digest) == 64 or f"-{digest}." in path for path, digest in published)
    assert all(len(digest) == 32 for entry in entries for digest in entry.md5.values())
    assert all(len(digest) == 40 for entry in entries for digest in entry.git.values())
    assert all(path in entry.required() for entry in entries for path in entry.digests())
    assert {entry.name for entry in entries if entry.commercial == "no"} == {
        "adaface-ir101",
        "antelopev2",
        "buffalo_l",
    }


def test_registry_is_not_a_preset() -> None:
    assert not {"registry", "models"} & {*Presets().names()}


HUB_ENTRY = "[a]\ntitle='x'\nsources=[{hub='x/y'}]"


@pytest.mark.parametrize(
    "text",
    [
        "[a]",
        "[a]\ntitle='x'\nsources=[{}]",
        "[a]\ntitle='x'\nsources=[{address='http://x/y.zip'}]",
        "a=1",
        "[a]\ntitel='x'",
        f"{HUB_ENTRY}\nsha256={{'y.onnx'='1234567'}}",
        f"{HUB_ENTRY}\nchannels={{'y.onnx'='bgr'}}",
        f"{HUB_ENTRY}\nsha256={{'y.onnx'='12345678'}}\nchannels={{'y.onnx'='bgr'}}",
        f"{HUB_ENTRY}\nsha256={{'y.onnx'='{'0' * 64}'}}\nchannels={{'y.onnx'='brg'}}",
    ],
)
def test_error_names_the_users_invalid_entry(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        known(tmp_path, text)


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/../b", "/a", "a--b/c", "..", ".fetching"])
def test_name_cannot_escape_the_models_folder(name: str) -> None:
    with pytest.raises(BadName):
        model_folder(name)


def test_only_needed_weights_of_a_repository_are_fetched(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = pipeline()
    models = Models()
    assert fetch(models, "org/base", recorder.listener)
    folder = resolve("org/base")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == {"model_index.json", "unet/config.json", "unet/model.safetensors"}
    assert (folder / "unet/model.safetensors").read_bytes() == hub.repositories["org/base"][
        "unet/model.safetensors"
    ]
    manifest = models.manifest("org/base")
    assert manifest is not None
    assert (manifest.origin, manifest.licence) == (f"org/base@{COMMIT}", "mit (by its card)")
    assert all(file.published for file in manifest.files)
    assert models.state("org/base") is ModelState.HERE


def test_only_variant_of_a_component_is_used_instead_of_its_pickle(
    hub: Hub, recorder: Recorder
) -> None:
    files = pipeline()
    del files["unet/model.safetensors"]
    hub.repositories["org/half"] = files
    fetch(Models(), "org/half", recorder.listener)
    folder = resolve("org/half") / "unet"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == files["unet/model.fp16.safetensors"]


def test_a_pipeline_of_pickles_is_refused_before_anything_is_fetched(
    hub: Hub, recorder: Recorder
) -> None:
    files = pipeline()
    hub.repositories["org/pickled"] = {
        name: file for name, file in files.items() if "unet/model" not in name
    }
    hub.repositories["org/pickled"]["unet/model.bin"] = b"pickle"
    with pytest.raises(InputRefused, match=r"org/pickled has no \.safetensors in unet"):
        fetch(Models(), "org/pickled", recorder.listener)
    assert not any("model.bin" in each for each in map(str, hub.asked))


def test_files_of_a_killed_installation_are_reported_and_not_reused(
    hub: Hub, tmp_path: Path
) -> None:
    models = Models()
    models.staging("mine").mkdir(parents=True)
    (models.staging("mine") / "big.safetensors.part").write_bytes(b"begun")
    assert models.state("mine") is ModelState.PARTIAL
    assert models.entry("mine").title == "of your own"
    (tmp_path / "small.safetensors").write_bytes(safetensors(bytes(64)))
    add(models, "mine", [tmp_path / "small.safetensors"])
    assert [path.name for path in model_folder("mine").iterdir()] == ["small.safetensors"]


def test_complete_model_needs_no_network(
    hub: Hub, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/base"] = pipeline()
    models = Models()
    fetch(models, "org/base", recorder.listener)
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not fetch(models, "org/base", recorder.listener)
    assert len(hub.asked) == asked
    assert models.verify("org/base")
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        fetch(models, "org/other", recorder.listener)


def test_interrupted_download_resumes(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = {"model.safetensors": safetensors(os.urandom(LARGE))}
    hub.cut_after = [2**20, 2**20]
    fetch(Models(), "org/base", recorder.listener)
    assert [wanted for _, wanted in hub.asked] == ["", f"bytes={2**20}-", f"bytes={2**21}-"]
    assert Models().verify("org/base")


def test_download_restarts_without_range_support(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = {"model.safetensors": safetensors(os.urandom(LARGE))}
    hub.cut_after, hub.knows_ranges = [2**20], False
    fetch(Models(), "org/base", recorder.listener)
    assert Models().verify("org/base")


def test_stalled_download_times_out_and_resumes_next_time(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = {"model.safetensors": safetensors(os.urandom(LARGE))}
    hub.cut_after = [2**20, *[0] * downloads.TRIES]
    models = Models()
    with pytest.raises(Unreachable, match=r"the connection ended after 1048576 of"):
        fetch(models, "org/base", recorder.listener)
    assert (models.state("org/base"), models.size("org/base")) == (ModelState.PARTIAL, 2**20)
    with pytest.raises(WeightsMissing):
        resolve("org/base")
    hub.asked.clear()
    assert fetch(models, "org/base", recorder.listener)
    assert [wanted for _, wanted in hub.asked] == [f"bytes={2**20}-"]


def test_killed_fetch_resumes_in_another_process(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = {
        "config.json": b"{}",
        "model.safetensors": safetensors(os.urandom(8 * LARGE)),
    }
    hub.slow = 0.02
    pv = Path(sys.executable).with_name("pv")
    with subprocess.Popen([pv, "models", "fetch", "org/base"], stderr=subprocess.PIPE) as process:
        part = Models().staging("org/base") / "model.safetensors.part"
        until = time.monotonic() + 20
        while not (part.is_file() and part.stat().st_size > 2**20):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not model_folder("org/base").exists()
    reached = part.stat().st_size
    hub.slow = 0
    hub.asked.clear()
    assert fetch(Models(), "org/base", recorder.listener)
    assert [(path.rsplit("/", 1)[-1], wanted) for path, wanted in hub.asked] == [
        ("model.safetensors", f"bytes={reached}-")
    ]
    assert Models().verify("org/base")


def test_file_with_wrong_hash_is_deleted(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = pipeline()
    for name, algorithm in (("config.json", "git"), ("model.safetensors", "sha256")):
        hub.wrong = {name}
        with pytest.raises(BrokenWeights, match=f"{name} does not have the published {algorithm}"):
            fetch(Models(), "org/base", recorder.listener)
        assert not model_folder("org/base").exists()
        assert not list(Models().root.rglob(f"{name}*"))
    hub.wrong = set()
    assert fetch(Models(), "org/base", recorder.listener)


def test_hash_in_the_registry_has_priority_over_the_hubs(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    hub.repositories["org/reward"] = {"model.safetensors": safetensors(bytes(64))}
    source = "sources=[{hub='org/reward', files=['model.safetensors']}]"
    text = f"[reward]\ntitle='x'\n{source}\n[reward.md5]\n'model.safetensors'='{'0' * 32}'"
    with pytest.raises(BrokenWeights, match="published md5"):
        fetch(known(tmp_path, text), "reward", recorder.listener)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors(bytes(64))[:-1], "is truncated: "),
        (safetensors(bytes(64))[:20], "is truncated"),
        (b"<html>not here</html>", "is not a safetensors file"),
        (b"", "is not a safetensors file"),
        (safetensors(bytes(64)) + b"more", "longer than its header"),
    ],
)
def test_repository_with_a_corrupt_file_is_refused(
    hub: Hub, recorder: Recorder, content: bytes, words: str
) -> None:
    hub.repositories["org/base"] = {"model.safetensors": content}
    with pytest.raises(BrokenWeights, match=words):
        fetch(Models(), "org/base", recorder.listener)
    assert not model_folder("org/base").exists()


def test_error_names_missing_shard_or_component(hub: Hub, recorder: Recorder) -> None:
    index = json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode()
    hub.repositories["org/base"] = {
        "model.safetensors.index.json": index,
        "model-1.safetensors": safetensors(bytes(64)),
    }
    with pytest.raises(
        BrokenWeights, match=r"model-2.safetensors, which other files use, is missing"
    ):
        fetch(Models(), "org/base", recorder.listener)
    hub.repositories["org/base"]["model-2.safetensors"] = safetensors(bytes(64))
    assert fetch(Models(), "org/base", recorder.listener)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_error_of_the_hub_says_what_to_do(hub: Hub, recorder: Recorder, status: int) -> None:
    hub.refusals["/api/models/org/base/revision/main"] = status
    with pytest.raises(Unreachable, match=f"\\({status}\\)") as caught:
        fetch(Models(), "org/base", recorder.listener)
    assert ("HF_TOKEN" in caught.value.hint) == (status != 404)
    assert caught.value.status is ExitStatus.MISSING


def test_error_for_unreachable_hub_says_what_to_do(hub: Hub, recorder: Recorder) -> None:
    with pytest.raises(
        Unreachable, match=r"Cannot reach http://127.0.0.1:9: Connection refused"
    ) as caught:
        fetch(Models(), "org/base", recorder.listener, "http://127.0.0.1:9/")
    assert "pv models add" in caught.value.hint


def test_error_for_address_that_is_not_a_hub(hub: Hub, recorder: Recorder) -> None:
    hub.files["/api/models/x"] = b""
    with pytest.raises(Unreachable):
        fetch(Models(), "org/base", recorder.listener, f"{hub.address}/somewhere")


@pytest.mark.parametrize("explicit", [False, True])
def test_token_is_sent_to_a_mirror_only_if_enabled(
    explicit: bool, hub: Hub, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.repositories["org/base"] = pipeline()
    fetch(Models(), "org/base", recorder.listener, send_token=explicit)
    assert hub.tokens == ({"Bearer secret"} if explicit else {""})


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("https://huggingface.co", True),
        ("https://HuggingFace.co:443/", True),
        ("https://eu.hf.co", True),
        ("http://huggingface.co", False),
        ("https://huggingface.co@evil.example", False),
        ("https://huggingface.co.evil.example", False),
        ("https://nothuggingface.co", False),
        ("https://evil.example/huggingface.co", False),
        ("https://huggingface.co:8443", False),
        ("https://[", False),
    ],
)
def test_hosts_of_the_hub_are_matched_exactly(address: str, own: bool) -> None:
    assert is_the_hub(address) is own


def test_only_web_addresses_are_fetched(hub: Hub, recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    local = (tmp_path / "secret").as_uri()
    with pytest.raises(Unreachable, match="only http and https"):
        fetch(Models(), "org/base", recorder.listener, local)
    hub.repositories["org/base"] = {"model.safetensors": safetensors(bytes(64))}
    hub.redirects[f"/org/base/resolve/{COMMIT}/model.safetensors"] = local.replace("file:", "ftp:")
    with pytest.raises(Unreachable, match=r"redirects to .*: not allowed"):
        fetch(Models(), "org/base", recorder.listener)


@pytest.mark.parametrize(
    "answer",
    [b"[" * 100_000, b"[]", b'{"sha": "x", "siblings": [{"rfilename": "a", "size": "b"}]}'],
)
def test_hostile_listing_is_refused(answer: bytes, hub: Hub, recorder: Recorder) -> None:
    hub.files["/mirror/api/models/org/base/revision/main"] = answer
    with pytest.raises(Unreachable, match="is not a hub: unexpected response"):
        fetch(Models(), "org/base", recorder.listener, f"{hub.address}/mirror")


@pytest.mark.parametrize(
    "source",
    [
        "{hub='org/x', into='../../..'}",
        "{hub='org/x', into='/etc'}",
        "{hub='org/x', into='a/../../b'}",
        "{hub='org/x', files=['../x']}",
        "{hub='../../api'}",
        "{address='file:///etc/passwd'}",
        "{address='ftp://x/y.onnx'}",
        "{address='https://x/..'}",
        "{address='https:///y.onnx'}",
        "{address='https://x/y.zip', files=['../../x.onnx']}",
    ],
)
def test_source_outside_the_models_folder_or_the_web_is_refused(
    source: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="invalid"):
        known(tmp_path, f"[a]\ntitle='x'\nsources=[{source}]")


def test_token_is_not_sent_after_a_redirect(
    hub: Hub, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    content = safetensors(os.urandom(LARGE))
    hub.repositories["org/base"] = {"model.safetensors": content}
    with serve() as elsewhere:
        elsewhere.files["/blob"] = content
        elsewhere.cut_after = [2**20]
        hub.redirects[f"/org/base/resolve/{COMMIT}/model.safetensors"] = f"{elsewhere.address}/blob"
        fetch(Models(), "org/base", recorder.listener, send_token=True)
        assert [wanted for _, wanted in elsewhere.asked] == ["", f"bytes={2**20}-"]
        assert (hub.tokens, elsewhere.tokens) == ({"Bearer secret"}, {""})


def test_file_outside_the_folder_is_not_written(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = {
        "../../../evil.safetensors": safetensors(bytes(64)),
        "model.safetensors": safetensors(bytes(64)),
    }
    fetch(Models(), "org/base", recorder.listener)
    assert hub.fetched() == ["model.safetensors"]


def test_missing_disk_space_is_reported_before_the_download(
    hub: Hub, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/base"] = pipeline()
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(10, 9, 1))  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(DiskFull) as caught:
        fetch(Models(), "org/base", recorder.listener)
    assert "org/base needs" in caught.value.hint
    assert hub.asked == []


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_full_disk_keeps_the_downloaded_part(
    hub: Hub, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/base"] = {"model.safetensors": safetensors(os.urandom(LARGE))}
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull) as caught:
        fetch(Models(), "org/base", recorder.listener)
    assert "Free disk space and run the command again" in caught.value.hint
    assert not model_folder("org/base").exists()
    monkeypatch.setattr(os, "fsync", real)
    hub.asked.clear()
    assert fetch(Models(), "org/base", recorder.listener)
    assert hub.asked == []


FACES = {
    "pack/inner/det.onnx": onnx(50),
    "pack/inner/rec.onnx": onnx(60),
    "pack/unwanted.onnx": onnx(10),
}


def face_models(hub: Hub, tmp_path: Path, archive: bytes, digest: str = "") -> Models:
    hub.files["/pack.zip"] = archive
    hub.files["/judge.onnx"] = onnx(70)
    digest = digest or hashlib.sha256(archive).hexdigest()
    files = "['det.onnx', 'rec.onnx']"
    about = f"size={len(archive)}, sha256='{digest}', files={files}"
    pack = f"{{address='{hub.address}/pack.zip', {about}}}"
    rest = "licence='theirs'\ncommercial='no'\nterms='research only'"
    return known(
        tmp_path,
        f"[faces]\ntitle='x'\n{rest}\nsources=[{pack}, {{address='{hub.address}/judge.onnx'}}]",
    )


def test_an_archive_is_unpacked_flat_beside_files_from_elsewhere(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    models = face_models(hub, tmp_path, zipped(FACES))
    fetch(models, "faces", recorder.listener)
    there = {path.name: path.read_bytes() for path in resolve("models:faces").iterdir()}
    assert there == {"det.onnx": onnx(50), "rec.onnx": onnx(60), "judge.onnx": onnx(70)}
    assert {file.path: file.published for file in models.verify("faces")} == {
        "det.onnx": True,
        "judge.onnx": False,  # without a published hash the first download is the reference
        "rec.onnx": True,
    }


def test_non_commercial_licence_is_shown_before_the_download(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    models = face_models(hub, tmp_path, zipped(FACES), digest="0" * 64)
    with pytest.raises(BrokenWeights):
        fetch(models, "faces", recorder.listener)
    assert recorder.sentences == [
        "The licence of faces: theirs (research only). It forbids commercial use."
    ]
    hub.licence, hub.repositories["org/base"] = "cc-by-nc-4.0", pipeline()
    fetch(Models(), "org/base", recorder.listener)
    assert "It forbids commercial use." in recorder.sentences[-1]


@pytest.mark.parametrize(
    ("archive", "words"),
    [(b"no zip", "is not a zip file"), (zipped({"det.onnx": onnx()}), "pack.zip lacks 'rec.onnx'")],
)
def test_archive_without_the_expected_files_is_refused(
    hub: Hub, recorder: Recorder, tmp_path: Path, archive: bytes, words: str
) -> None:
    with pytest.raises(BrokenWeights, match=words):
        fetch(face_models(hub, tmp_path, archive), "faces", recorder.listener)
    assert not model_folder("faces").exists()


def test_only_corrupt_or_missing_files_are_fetched_again(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = pipeline()
    models = Models()
    fetch(models, "org/base", recorder.listener)
    folder = resolve("org/base")
    weights = folder / "unet/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        BrokenWeights, match=r"org/base/unet/model.safetensors does not have its original sha256"
    ) as caught:
        models.verify("org/base")
    assert "pv models fetch org/base" in caught.value.hint
    (folder / "model_index.json").unlink()
    with pytest.raises(BrokenWeights, match=r"model_index.json is missing"):
        models.verify("org/base")
    assert models.state("org/base") is ModelState.PARTIAL
    hub.asked.clear()
    fetch(models, "org/base", recorder.listener)
    assert sorted(hub.fetched()) == ["model.safetensors", "model_index.json"]
    assert models.verify("org/base")


def test_verify_distinguishes_missing_and_corrupt_files(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = pipeline()
    models = Models()
    fetch(models, "org/base", recorder.listener)
    (resolve("org/base") / "unet/config.json").unlink()
    with pytest.raises(WeightsMissing, match=r"org/base/unet/config.json"):
        models.verify("org/base")
    with pytest.raises(WeightsMissing):
        models.verify("hpsv2")
    with pytest.raises(Missing):
        models.verify("nothing")


def test_two_processes_do_not_fetch_the_same_model(hub: Hub, recorder: Recorder) -> None:
    hub.repositories["org/base"] = pipeline()
    with Models().lock("org/base"), pytest.raises(Busy):
        fetch(Models(), "org/base", recorder.listener)


def test_users_folder_is_copied_or_linked(hub: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "unet").mkdir(parents=True)
    (mine / "unet/model.safetensors").write_bytes(safetensors(bytes(64)))
    models = Models()
    assert add(models, "copied", [mine]) == []
    assert add(models, "linked", [mine], link=True, licence="mine alone") == []
    (mine / "unet/model.safetensors").write_bytes(safetensors(b"x" * 64))
    assert models.verify("copied")
    with pytest.raises(BrokenWeights):
        models.verify("linked")
    assert models.entry("linked").licence_line == "mine alone"
    models.remove("linked")
    models.remove("copied")
    assert (mine / "unet/model.safetensors").is_file()
    assert not {"linked", "copied"} & {*models.names()}


def test_known_model_can_be_added_partly_and_fetched_for_the_rest(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    models = face_models(hub, tmp_path, zipped(FACES))
    (tmp_path / "judge.onnx").write_bytes(onnx(70))
    assert add(models, "faces", [tmp_path / "judge.onnx"]) == ["det.onnx", "rec.onnx"]
    assert models.state("faces") is ModelState.PARTIAL
    fetch(models, "faces", recorder.listener)
    assert hub.fetched() == ["pack.zip"]
    assert models.state("faces") is ModelState.HERE


@pytest.mark.parametrize("algorithm", ["sha256", "git"])
def test_first_digits_of_a_sha256_and_the_hash_of_a_blob_are_checked(
    algorithm: str, hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    content = onnx(70)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    digest = {"sha256": hashlib.sha256(content).hexdigest()[:8], "git": blob}[algorithm]
    source = f"sources=[{{address='{hub.address}/rec.onnx'}}]"
    models = known(tmp_path, f"[a]\ntitle='x'\n{source}\n{algorithm}={{'rec.onnx'='{digest}'}}")
    hub.files["/rec.onnx"] = onnx(71)
    with pytest.raises(BrokenWeights, match=f"published {algorithm}"):
        fetch(models, "a", recorder.listener)
    hub.files["/rec.onnx"] = content
    assert fetch(models, "a", recorder.listener)
    (record,) = models.verify("a")
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert record.published


def test_added_files_of_a_known_model_must_have_the_published_hash(
    hub: Hub, tmp_path: Path
) -> None:
    digest = hashlib.sha256(onnx(70)).hexdigest()
    models = known(
        tmp_path,
        f"[faces]\ntitle='x'\nsources=[{{address='http://x/rec.onnx'}}]\nsha256={{'rec.onnx'='{digest}'}}",
    )
    (tmp_path / "rec.onnx").write_bytes(onnx(71))
    with pytest.raises(BrokenWeights, match=r"rec.onnx does not have the published sha256"):
        add(models, "faces", [tmp_path / "rec.onnx"])
    (tmp_path / "other.onnx").write_bytes(onnx(70))
    with pytest.raises(InputRefused, match=r"other.onnx is not a file of faces"):
        add(models, "faces", [tmp_path / "other.onnx"])
    with pytest.raises(InputRefused, match=r"lacks rec.onnx"):
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty/det.onnx").write_bytes(onnx())
        add(models, "faces", [tmp_path / "empty"])
    (tmp_path / "rec.onnx").write_bytes(onnx(70))
    assert add(models, "faces", [tmp_path / "rec.onnx"]) == []
    with pytest.raises(NameTaken):
        add(models, "faces", [tmp_path / "rec.onnx"])


def test_pickle_is_accepted_only_with_tensors_only(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    models = Models()
    (tmp_path / "good.pt").write_bytes(
        pickled({"state_dict": {"weight": torch.zeros(3)}, "epoch": 3})
    )
    (tmp_path / "code.pt").write_bytes(pickled({"weight": Code()}))
    (tmp_path / "cut.pt").write_bytes(pickled({"weight": torch.zeros(3)})[:-200])
    assert "does not load as a file of tensors" in (problem_of(tmp_path / "cut.pt") or "")
    with pytest.raises(BrokenWeights, match="could run code when loaded"):
        add(models, "code", [tmp_path / "code.pt"])
    assert models.state("code") is ModelState.MISSING
    assert add(models, "good", [tmp_path / "good.pt"]) == []
    hub.repositories["org/code"] = {"model.bin": pickled({"weight": Code()})}
    with pytest.raises(BrokenWeights, match="could run code when loaded"):
        fetch(models, "org/code", recorder.listener)
    assert not model_folder("org/code").exists()


@pytest.mark.parametrize("cut", [1, 3, 30])
def test_users_truncated_file_is_refused(hub: Hub, tmp_path: Path, cut: int) -> None:
    for name, content in (
        ("a.onnx", onnx()),
        ("a.safetensors", safetensors(bytes(64))),
        ("a.json", b"{" + b" " * 30 + b"}"),
    ):
        (tmp_path / name).write_bytes(content[:-cut])
        with pytest.raises(BrokenWeights, match=f"{name} is"):
            add(Models(), "mine", [tmp_path / name])


def header(table: object, content: bytes = b"") -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + content


def tensor(first: Any, end: Any, shape: Any = (4,), dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


HOSTILE = {
    "deep": (header(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "huge offset": (
        header(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,1e400]}}'),
        "invalid shape or place",
    ),
    "negative": (header({"a": tensor(-4, 0)}), "invalid shape or place"),
    "backwards": (header({"a": tensor(4, 0)}, bytes(4)), "invalid shape or place"),
    "fraction": (header({"a": tensor(0, 4.0)}, bytes(4)), "invalid shape or place"),
    "truth": (header({"a": tensor(False, 4)}, bytes(4)), "invalid shape or place"),
    "shape": (header({"a": tensor(0, 4, "4")}, bytes(4)), "invalid shape or place"),
    "overlap": (header({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), "tensors overlap at 'b'"),
    "gap": (
        header({"a": tensor(0, 4), "b": tensor(6, 10)}, bytes(10)),
        "tensors leave a gap at 'b'",
    ),
    "too many bytes": (header({"a": tensor(0, 8)}, bytes(8)), "more or fewer bytes"),
    "format": (header({"a": tensor(0, 4, dtype="X9")}, bytes(4)), "unknown number format"),
    "format list": (header({"a": tensor(0, 4, dtype=[])}, bytes(4)), "unknown number format"),
    "metadata": (header({"__metadata__": {"a": 1}}), "invalid metadata"),
    "a list": (header([]), "is not a safetensors file"),
    "a number": (header({"a": 3}), "is not a safetensors file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_header_is_refused(kind: str, hub: Hub, tmp_path: Path) -> None:
    content, words = HOSTILE[kind]
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BrokenWeights, match=words):
        add(Models(), "mine", [tmp_path / "a.safetensors"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"[" * 100_000),
        ("model_index.json", b"[]"),
        ("model_index.json", b'{"_class_name": []}'),
        ("a.index.json", b"3"),
        ("a.index.json", b'{"weight_map": []}'),
        ("a.index.json", b'{"weight_map": {"a": 3}}'),
        ("a.index.json", b'{"weight_map": {"a": "../../evil.safetensors"}}'),
    ],
)
def test_hostile_json_is_refused(name: str, content: bytes, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(InputRefused):
        add(Models(), "mine", [folder])


def test_a_pipe_is_not_read(hub: Hub, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(BrokenWeights, match="is not a regular file"):
        add(Models(), "mine", [tmp_path / "a.safetensors"])


def test_manually_copied_files_count_once_complete(
    hub: Hub, recorder: Recorder, tmp_path: Path
) -> None:
    models = face_models(hub, tmp_path, zipped(FACES))
    folder = model_folder("faces")
    folder.mkdir(parents=True)
    for path, content in FACES.items():
        (folder / Path(path).name).write_bytes(content)
    assert models.lacking("faces") == ["judge.onnx"]
    with pytest.raises(WeightsMissing, match=r"faces/judge.onnx"):
        models.verify("faces")
    (folder / "judge.onnx").write_bytes(onnx(70))
    assert models.state("faces") is ModelState.HERE
    assert len(models.verify("faces")) == 4


def test_settings_list_licences_and_missing_models(hub: Hub, tmp_path: Path) -> None:
    settings = Presets().get("animatediff").settings({"model": {"base_model": "org/base"}})
    assert missing_models(settings) == [
        "org/base",
        "animatediff-motion-adapter-v1-5-3",
        "antelopev2",
        "hpsv2.1",
    ]
    model_folder("antelopev2").mkdir(parents=True)
    assert "antelopev2" in missing_models(settings)
    for file in Registry().get("antelopev2").required():
        (model_folder("antelopev2") / file).write_bytes(onnx())
    assert "antelopev2" not in missing_models(settings)
    there = (
        Presets()
        .get("animatediff")
        .settings({"identity_reward": {"package": str(model_folder("antelopev2"))}})
    )
    assert "antelopev2: insightface's model licence (non-commercial research only)" in licences(
        there
    )
    assert licences(Presets().get("tiny").settings()) == ()


def test_error_for_missing_model_names_the_download_command(hub: Hub) -> None:
    for name, command in (
        ("models:hpsv2/x.pt", "pv models fetch hpsv2`"),
        ("org/base", "pv models fetch org/base`"),
    ):
        with pytest.raises(WeightsMissing) as caught:
            resolve(name)
        assert command in caught.value.hint
    with pytest.raises(WeightsMissing) as caught:
        resolve("models:mine")
    assert "fetch" not in caught.value.hint
