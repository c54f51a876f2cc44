"""Semantic scores equal those of hpsv2 for the same checkpoint, in float16 approximately."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pvtool_core.open_clip_model import ImageText
from pvtool_core.rewards import SemanticScorer, letterbox
from pvtool_core.settings.schema import SemanticRewardConfig
from tests.support.hpsv2_reference import new_reference_model, reference_scores, register

SIDE = 56
SMALL_VIT_H: dict[str, Any] = {  # HPSv2's architecture, ViT-H-14, with fewer and narrower layers
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 3,
        "width": 64,
        "head_width": 16,
        "patch_size": 14,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 2},
}
SIZES = [(48, 80), (80, 48), (100, 100), (SIDE, SIDE), (30, 20), (480, 832)]
PROMPT = "a woman in a red coat, walking her dog"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return hpsv2's model and its preprocessing."""
    register("ViT-small-14", SMALL_VIT_H, tmp_path_factory.mktemp("configs"))
    torch.manual_seed(0)
    return new_reference_model("ViT-small-14")


@pytest.fixture(scope="module", params=["HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"])
def checkpoint(
    request: pytest.FixtureRequest, theirs: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write a checkpoint like the published one: a pickle of `{"state_dict": …}` in float16."""
    generator = torch.Generator().manual_seed(len(request.param))
    weights = {
        name: (value + 0.05 * torch.randn(value.shape, generator=generator)).half()
        for name, value in theirs[0].state_dict().items()
    }
    path = tmp_path_factory.mktemp("hpsv2") / request.param
    torch.save({"state_dict": weights}, path)
    return path


def settings(checkpoint: Path) -> SemanticRewardConfig:
    return SemanticRewardConfig(model="ViT-small-14", checkpoint=str(checkpoint))


def pictures() -> list[Image.Image]:
    """Return noise of several shapes, which has sharp edges."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in SIZES]


def frame(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


def test_scores_equal_hpsv2(checkpoint: Path, theirs: tuple[Any, Any]) -> None:
    expected = torch.tensor(reference_scores(*theirs, pictures(), PROMPT, checkpoint))
    scorer = SemanticScorer(settings(checkpoint), torch.device("cpu"))
    ours = torch.cat([scorer.score(frame(picture), PROMPT) for picture in pictures()])
    assert (ours - expected).abs().max() < 1e-6
    assert expected.std() > 1e-2


def test_preprocessing_equals_hpsv2(theirs: tuple[Any, Any]) -> None:
    *preparation, normalize = theirs[1].transforms
    for picture in pictures():
        prepared: Any = picture
        for step in preparation:
            prepared = step(prepared)
        assert torch.allclose(letterbox(frame(picture), SIDE)[0], prepared, atol=1e-6)
    assert tuple(normalize.normalize.mean) == (0.48145466, 0.4578275, 0.40821073)


def test_gradient_reaches_the_picture_and_not_the_padding(checkpoint: Path) -> None:
    scorer = SemanticScorer(settings(checkpoint), torch.device("cpu"))
    wide = frame(pictures()[0]).requires_grad_()
    scorer.score(wide, PROMPT).sum().backward()
    assert wide.grad is not None
    assert (wide.grad != 0).float().mean() > 0.99


def test_float16_model_returns_nearly_equal_float32_scores(checkpoint: Path) -> None:
    exact, _ = score_and_gradient(checkpoint, torch.float32, 1.0)
    ours, _ = score_and_gradient(checkpoint, torch.float16, 1.0)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 1e-3


@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e4])
def test_float16_gradient_neither_underflows_nor_overflows(checkpoint: Path, weight: float) -> None:
    """The gradient of a small difference of scores is below 6e-8, the smallest float16."""
    _, exact = score_and_gradient(checkpoint, torch.float32, weight)
    _, ours = score_and_gradient(checkpoint, torch.float16, weight)
    assert torch.cosine_similarity(ours.flatten(), exact.flatten(), dim=0) > 0.999
    assert ours.norm() == pytest.approx(float(exact.norm()), rel=1e-2)


def score_and_gradient(
    checkpoint: Path, dtype: torch.dtype, weight: float
) -> tuple[Tensor, Tensor]:
    """Return scores (2,) and the gradient of their weighted difference for the pictures."""
    reader = ImageText(settings(checkpoint), torch.device("cpu"), dtype)
    shown = torch.randn(
        2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    scores = reader.of_pictures(shown) @ reader.of_text(PROMPT)
    (weight * (scores[0] - scores[1])).backward()
    assert shown.grad is not None
    return scores.detach(), shown.grad
