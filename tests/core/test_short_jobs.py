"""Jobs that check photos, run like an engine: from a run folder to results."""

import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from PIL import Image
from safetensors.torch import load_file

from pvtool_core.errors import FaceRefused, InputRefused
from pvtool_core.faces.analyzer import Face
from pvtool_core.faces.enroll import Portrait, check_likeness, choose
from pvtool_core.settings.jobs import EnrollJob, IdentityRef, TrainJob
from tests.support.render_jobs import Engine


def noise(side: int = 128, seed: int = 0) -> Image.Image:
    """Return a picture of noise, in which the small detector finds a face, as in any picture."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))


@pytest.fixture
def identify_job(job: TrainJob, tmp_path: Path) -> Callable[..., EnrollJob]:
    def make(*pictures: Path, threshold: float = 0.5, face: int = 0) -> EnrollJob:
        staging = tmp_path / "staging"
        staging.mkdir(exist_ok=True)
        settings = job.sections()
        settings["identity_reward"] = dataclasses.replace(
            job.identity_reward, detection_threshold=threshold
        )
        ref = IdentityRef(name="ann", noun="woman", folder=str(staging))
        return EnrollJob(**settings, identity=ref, pictures=tuple(map(str, pictures)), face=face)

    return make


def test_photo_gets_a_crop_and_an_embedding_of_each_recogniser(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    noise().save(tmp_path / "ann.png")
    assert run(identify_job(tmp_path / "ann.png")).status == 0
    staging = tmp_path / "staging"
    (found,) = json.loads((staging / "faces.json").read_text())
    assert found["picture"] == "ann.png"
    assert (np.asarray(Image.open(staging / found["reference"])) == np.asarray(noise())).all()
    assert Image.open(staging / found["face"]).size == (112, 112)
    embeddings = load_file(staging / "embeddings.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in embeddings.items()} == {
        "rec.onnx": (1, 16),
        "other.onnx": (1, 16),
    }
    assert all(torch.allclose(tensor.norm(dim=-1), torch.ones(1)) for tensor in embeddings.values())


def test_stored_photo_is_upright_and_without_place_and_time(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90°
    exif[0x010F] = "the camera's maker"
    exif.get_ifd(0x8825)[2] = (48.0, 12.0, 30.0)
    wide = noise().crop((0, 0, 128, 96))
    wide.save(tmp_path / "ann.jpg", exif=exif, quality=95)
    assert run(identify_job(tmp_path / "ann.jpg")).status == 0
    kept = Image.open(tmp_path / "staging/references/000.png")
    assert kept.size == (96, 128)
    turned = np.asarray(Image.open(tmp_path / "ann.jpg").convert("RGB").rotate(-90, expand=True))
    assert (np.asarray(kept) == turned).all()
    assert not kept.getexif()
    assert not kept.info
    assert not any(
        b"maker" in path.read_bytes()
        for path in (tmp_path / "staging").rglob("*.*")
        if path.is_file()
    )


def cut_off(path: Path) -> None:
    content = io.BytesIO()
    noise().save(content, "JPEG")
    path.write_bytes(content.getvalue()[:3000])


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "text": (lambda path: path.write_text("I am no picture"), "BadPicture", "unknown image format"),
    "empty": (lambda path: path.write_bytes(b""), "BadPicture", "unknown image format"),
    "cut-off": (cut_off, "BadPicture", "corrupt or truncated"),
    "enormous": (
        lambda path: Image.new("1", (13_000, 13_000)).save(path, "PNG"),
        "BadPicture",
        "13000 × 13000",
    ),
    "bomb": (
        lambda path: Image.new("1", (30_000, 30_000)).save(path, "PNG"),
        "BadPicture",
        "too large",
    ),
    "a line": (
        lambda path: Image.new("RGB", (2000, 12)).save(path, "PNG"),
        "FaceRefused",
        "No face found",
    ),
    "small": (lambda path: noise(30).save(path, "PNG"), "FaceRefused", "too small"),
    "blurred": (
        lambda path: noise(3).resize((256, 256), Image.Resampling.BICUBIC).save(path, "PNG"),
        "FaceRefused",
        "blurred",
    ),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_unusable_picture_is_refused_and_leaves_no_files(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path, name: str
) -> None:
    make, kind, words = BAD_PICTURES[name]
    noise().save(tmp_path / "good.png")
    make(tmp_path / f"{name}.jpg")
    ended = run(identify_job(tmp_path / "good.png", tmp_path / f"{name}.jpg"))
    assert (ended.status, ended.kind) == (3, kind)
    assert f"{name}.jpg" in ended.message
    assert words in ended.message
    assert not list((tmp_path / "staging").iterdir())


def test_a_picture_without_a_face_is_refused(
    run: Engine, identify_job: Callable[..., EnrollJob], tmp_path: Path
) -> None:
    noise().save(tmp_path / "hill.png")
    ended = run(identify_job(tmp_path / "hill.png", threshold=0.95))
    assert (ended.status, ended.message) == (3, "No face found in hill.png.")


def faces_at(*lefts: float) -> list[Face]:
    return [
        Face(np.array([x, 0, x + 50, 50], np.float32), 0.9, np.zeros((5, 2), np.float32))
        for x in lefts
    ]


def test_one_of_several_faces_must_be_selected() -> None:
    with pytest.raises(FaceRefused, match=r"Several faces found in group\.png \(2 were found\)"):
        choose(Path("group.png"), faces_at(0, 60), 0)
    assert choose(Path("group.png"), faces_at(0, 60), 2).bbox[0] == 60
    with pytest.raises(InputRefused, match=r"No face 3 in group\.png: 2 found"):
        choose(Path("group.png"), faces_at(0, 60), 3)
    with pytest.raises(InputRefused, match=r"No face 2 in group\.png: 1 found"):
        choose(Path("group.png"), faces_at(0), 2)


def test_photo_of_another_person_is_refused() -> None:
    face, empty = faces_at(0)[0], np.zeros((2, 2, 3), np.uint8)
    portraits = [
        Portrait(Path(f"{name}.png"), empty, face, empty) for name in ("a", "b", "odd", "c")
    ]
    same, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    check_likeness([portraits[0], portraits[1]], np.stack([same, same]))
    with pytest.raises(FaceRefused, match=r"odd\.png does not match the other photos"):
        check_likeness(portraits, np.stack([same, same, other, same]))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_embedding_that_is_not_finite_fails(
    run: Engine,
    identify_job: Callable[..., EnrollJob],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    noise().save(tmp_path / "ann.png")

    def broken(recognizer: ArcFaceONNX, crop: Any) -> Any:
        return np.full((1, 16), value, np.float32)

    monkeypatch.setattr(ArcFaceONNX, "get_feat", broken)
    ended = run(identify_job(tmp_path / "ann.png"))
    assert ended.status == 1
    assert "embeddings by rec.onnx are not finite" in ended.message
    assert not (tmp_path / "staging/embeddings.safetensors").exists()
