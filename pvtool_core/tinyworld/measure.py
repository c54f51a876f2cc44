"""Measure the saved preset on unseen people and scenes: `scores.json`, for the model card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pvtool_core.faces.analyzer import Face, FaceAnalyzer, load_recognizer
from pvtool_core.tinyworld.autoencoder import decode, encode, psnr
from pvtool_core.tinyworld.crowd import Looks
from pvtool_core.tinyworld.image_text import accuracy
from pvtool_core.tinyworld.pictures import damaged, draw_stills
from pvtool_core.tinyworld.recognizers import aligned
from pvtool_core.tinyworld.world import draw_people, draw_scenes, still

PEOPLE = 200
SEED = 9_500_000


def measure(
    out: Path,
    vae: Any,
    image_text_models: dict[str, nn.Module],
    tokenizer: Any,
    looks: dict[str, Looks],
) -> dict[str, Any]:
    """Measure every judge with each rendering of people in `looks`, and write the scores."""
    _, _, pictures, _ = draw_stills(PEOPLE, Generator().manual_seed(SEED))
    again = decode(vae, encode(vae, pictures))
    scores: dict[str, Any] = {
        "vae": {"psnr": psnr(again, pictures)},
        **{name: accuracy(model, tokenizer) for name, model in image_text_models.items()},
        "detector": {name: detection(out / "faces", look) for name, look in looks.items()},
        "false_faces": false_faces(out / "faces"),
    }
    for name in ("rec_reward", "rec_metric"):
        recognizer = load_recognizer(out / f"faces/{name}.onnx")
        scores[name] = {
            kind: verification(recognizer, looks["drawn"], look) for kind, look in looks.items()
        }
        scores[name]["washed_out"] = washed_out(recognizer)
    rounded = json.loads(json.dumps(scores), parse_float=lambda text: round(float(text), 4))
    (out / "scores.json").write_text(json.dumps(rounded, indent=2) + "\n")
    return rounded


def detection(faces: Path, look: Looks) -> dict[str, float]:
    """Return the fraction of pictures with exactly one detected face, and the landmark error.

    The error is in 64ths of the frame.
    """
    pictures, landmarks = look(
        draw_people(PEOPLE, Generator().manual_seed(SEED)), Generator().manual_seed(SEED + 1)
    )
    found = [_detected(_analyzer(faces), picture) for picture in pictures]
    errors = [
        float(np.linalg.norm(points - truth.numpy(), axis=-1).mean()) * 64 / pictures.shape[-1]
        for points, truth in zip(found, landmarks, strict=True)
        if points is not None
    ]
    return {
        "one_found": len(errors) / len(found),
        "landmark_error": sum(errors) / max(len(errors), 1),
    }


def faces_found(faces: Path, pictures: Tensor) -> float:
    """Return the fraction of pictures with exactly one detected face."""
    analyzer = _analyzer(faces)
    return sum(_detected(analyzer, picture) is not None for picture in pictures) / len(pictures)


def false_faces(faces: Path) -> dict[str, float]:
    """Return the fraction of heads without features, and of smears, in which a face is detected."""
    generator = Generator().manual_seed(SEED)
    people, scenes = draw_people(PEOPLE, generator), draw_scenes(PEOPLE, generator)
    blank, _ = still(people, scenes, 0, features=False)
    smear = functional.interpolate(
        still(people, scenes, 0)[0], size=(7, 7), mode="bilinear", antialias=True
    )
    kinds = {
        "without_features": blank,
        "smeared": functional.interpolate(smear, size=(64, 64), mode="bicubic"),
    }
    analyzer = _analyzer(faces)
    return {
        kind: sum(bool(_faces(analyzer, picture.clamp(0, 1))) for picture in pictures) / PEOPLE
        for kind, pictures in kinds.items()
    }


@torch.no_grad()
def verification(recognizer: nn.Module, reference: Looks, look: Looks) -> dict[str, float]:
    """Return the mean cosine of the same person, of different people, and the area under the curve.

    A drawn reference is compared with another view of each person.
    """
    people = draw_people(PEOPLE, Generator().manual_seed(SEED))
    sides: list[Tensor] = []
    for index, view in enumerate((reference, look)):
        generator = Generator().manual_seed(SEED + index)
        pictures, landmarks = view(people, generator)
        crops = aligned(pictures, landmarks, generator, harm=False)
        sides.append(functional.normalize(recognizer(crops), dim=-1))
    similarity = sides[0] @ sides[1].T
    same, others = similarity.diagonal(), similarity[~torch.eye(PEOPLE, dtype=torch.bool)]
    area = (same[:, None] > others[None]).float().mean()
    return {
        "same": float(same.mean()),
        "others": float(others.mean()),
        "area_under_curve": float(area),
    }


@torch.no_grad()
def washed_out(recognizer: nn.Module) -> float:
    """Return the mean cosine of a person's reference with the same head without features.

    A high value means that washed-out faces could raise the reward.
    """
    generator = Generator().manual_seed(SEED)
    people, scenes = draw_people(PEOPLE, generator), draw_scenes(PEOPLE, generator)
    whole, landmarks = still(people, scenes, 0)
    blank, _ = still(people, scenes, 0, features=False)
    one, two = (
        functional.normalize(recognizer(aligned(each, landmarks, generator, harm=False)), dim=-1)
        for each in (whole, damaged(blank, generator))
    )
    return float((one * two).sum(-1).mean())


def _analyzer(faces: Path) -> FaceAnalyzer:
    return FaceAnalyzer(faces, "det_tiny.onnx", (), 128, 0.5, threads=1)


def _detected(analyzer: FaceAnalyzer, picture: Tensor) -> Any:
    """Return the landmarks, or None unless exactly one face is found."""
    found = _faces(analyzer, picture)
    return found[0].landmarks if len(found) == 1 else None


def _faces(analyzer: FaceAnalyzer, picture: Tensor) -> list[Face]:
    return analyzer.detect((picture.permute(1, 2, 0) * 255).round().byte().numpy())
