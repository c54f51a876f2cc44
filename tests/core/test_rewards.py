"""The rewards: eq. 2 to 4 of the paper, preprocessing, and gradients of pixels."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pvtool_core.rewards import (
    IdentityScorer,
    SemanticScorer,
    colour_jitter,
    identity_reward,
    landmark_jitter,
    level_penalty,
    nearest_face,
    semantic_reward,
)
from pvtool_core.settings.jobs import TrainJob

SCORES = torch.tensor([0.21, 0.24, 0.22, 0.25])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_identity_is_the_cosine_with_the_mean_of_the_references() -> None:
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert identity_reward(torch.tensor([1.0, 0.0]), references) == pytest.approx(math.sqrt(0.5))
    assert identity_reward(torch.tensor([-1.0, -1.0]), references) == pytest.approx(-1)


def test_semantics_is_the_divergence_of_target_from_source() -> None:
    target = torch.tensor([0.25, 0.25, 0.24, 0.21])
    v_target, v_source = (torch.softmax(100 * each, 0) for each in (target, SCORES))
    expected = float((v_target * (v_target / v_source).log()).sum())
    assert semantic_reward(target, SCORES, 100.0) == pytest.approx(expected, rel=1e-5)
    assert semantic_reward(SCORES, target, 100.0) != pytest.approx(expected, rel=1e-2)


def test_semantics_is_zero_for_equal_scores_one_frame_or_a_common_drop() -> None:
    assert semantic_reward(SCORES, SCORES, 100.0) == 0
    assert semantic_reward(SCORES[:1], SCORES[1:2], 100.0) == 0
    assert semantic_reward(SCORES - 0.1, SCORES, 100.0) == pytest.approx(0, abs=1e-5)


def test_level_penalty_grows_with_a_common_drop_and_not_with_a_rise() -> None:
    assert level_penalty(SCORES - 0.1, SCORES) == pytest.approx(0.1, abs=1e-6)
    assert level_penalty(SCORES + 0.1, SCORES) == 0


def test_semantics_is_nearly_zero_without_temperature() -> None:
    target = SCORES.flip(0)
    assert (
        semantic_reward(target, SCORES, 1.0) < 1e-3 < 0.1 < semantic_reward(target, SCORES, 100.0)
    )


@pytest.mark.parametrize("word", ["waving ", "速", "wave,"])
def test_texts_longer_than_the_context_are_detected(job: TrainJob, word: str) -> None:
    scorer = SemanticScorer(job.semantic_reward, torch.device("cpu"))
    counts = [count for count in range(1, 80) if not scorer.cut_prompts(["<V> " + word * count])]
    longest = len(counts)
    assert counts == list(range(1, longest + 1))
    assert 3 < longest < 79
    pictures = torch.rand(1, 3, 32, 32, generator=generator())
    kept, cut, more = (
        scorer.score(pictures, "<V> " + word * n) for n in (longest, longest + 30, longest + 60)
    )
    assert torch.equal(cut, more)
    assert not torch.equal(kept, scorer.score(pictures, "<V> " + word * (longest - 1)))


@pytest.fixture
def semantic(job: TrainJob) -> SemanticScorer:
    return SemanticScorer(job.semantic_reward, torch.device("cpu"))


def test_score_is_the_cosine_of_open_clip_features(semantic: SemanticScorer, job: TrainJob) -> None:
    import open_clip

    frames = torch.rand(2, 3, 16, 16, generator=generator())
    model: Any = open_clip.create_model(f"local-dir:{job.semantic_reward.model}").eval()
    mean, std = (
        torch.tensor(each)[:, None, None]
        for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    image = model.encode_image((frames - mean) / std)
    text = model.encode_text(
        open_clip.get_tokenizer("ViT-B-32", context_length=16)(["a woman waving"])
    )
    expected = torch.cosine_similarity(image, text)
    assert torch.allclose(semantic.score(frames, "a <V> woman waving"), expected, atol=1e-6)


def test_keyword_is_removed_from_scored_text(semantic: SemanticScorer) -> None:
    frames = torch.rand(2, 3, 32, 32, generator=generator())
    assert torch.equal(semantic.score(frames, "a <V> woman"), semantic.score(frames, "a woman"))
    assert not torch.equal(semantic.score(frames, "a woman"), semantic.score(frames, "a man"))


def test_scores_do_not_depend_on_the_other_frames(semantic: SemanticScorer) -> None:
    frames = torch.rand(3, 3, 32, 32, generator=generator())
    together = semantic.score(frames, "a woman")
    assert torch.allclose(
        torch.cat([semantic.score(frame[None], "a woman") for frame in frames]), together, atol=1e-6
    )


def test_a_semantic_gradient_reaches_every_pixel_and_no_weight(semantic: SemanticScorer) -> None:
    frames = torch.rand(1, 3, 16, 16, generator=generator()).requires_grad_()
    semantic.score(frames, "a woman").sum().backward()
    assert frames.grad is not None
    assert (frames.grad != 0).float().mean() > 0.99


def test_jitter_stays_in_range_and_uses_the_generator() -> None:
    crops = torch.rand(2, 3, 112, 112, generator=generator())
    once, again, other = (colour_jitter(crops, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert 0 <= once.min() <= once.max() <= 1
    assert 0.001 < (once - crops).abs().mean() < 0.2


class Pixels(nn.Module):
    """A recogniser that returns a few pixels, so that equal faces have equal embeddings."""

    def forward(self, crops: Tensor) -> Tensor:
        return crops[:, :, 8::16, 8::16].flatten(1) - 0.5


def test_identity_compares_aligned_faces_and_has_a_gradient() -> None:
    from pvtool_core.faces.analyzer import TEMPLATE

    face, stranger = (
        functional.interpolate(torch.rand(1, 3, 7, 7, generator=generator(seed)), 112)
        for seed in (0, 9)
    )
    landmarks = torch.tensor(TEMPLATE)
    frame = face[0].clone().requires_grad_()
    for seed in range(5):
        same, other = (
            IdentityScorer(Pixels(), photo).score(frame, landmarks, generator(seed))
            for photo in (face, stranger)
        )
        assert same > 0.9 > 0.5 > other
        same.backward()
    assert frame.grad is not None
    assert frame.grad.abs().sum() > 0


def test_face_at_the_originals_position_is_used_among_several() -> None:
    expected = torch.full((5, 2), 10.0)
    near, far = expected + 1, expected + 20
    assert nearest_face([far, near], expected) is near
    assert nearest_face([], expected) is None


def test_views_of_a_face_differ_in_position_and_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pvtool_core.faces.analyzer import TEMPLATE

    landmarks = torch.tensor(TEMPLATE)
    frame, photo = (
        torch.rand(3, 112, 112, generator=generator()),
        torch.rand(1, 3, 112, 112, generator=generator(9)),
    )
    assert (views_of(frame, photo, 1)[0] - frame).abs().mean() > 0.01  # change of colours
    with monkeypatch.context() as patched:
        patched.setattr("pvtool_core.rewards.colour_jitter", unchanged)
        assert torch.allclose(views_of(frame, photo, 1)[0], frame, atol=1e-3)
        assert differ(views_of(frame, photo, 3))
    with monkeypatch.context() as patched:
        patched.setattr("pvtool_core.rewards.landmark_jitter", copied)
        assert differ(views_of(frame, photo, 3))
    assert torch.allclose(views_of(frame, photo, 3, augment=False)[0], frame, atol=1e-3)
    moved = landmark_jitter(landmarks, 2000, generator())
    assert torch.allclose(moved.mean(0), landmarks, atol=0.3)
    assert moved.std(0).mean() == pytest.approx(0.05 * 35.2, rel=0.05)


def unchanged(crops: Tensor, _: torch.Generator) -> Tensor:
    return crops


def copied(landmarks: Tensor, count: int, _: torch.Generator) -> Tensor:
    return landmarks.expand(count, 5, 2)


def differ(crops: Tensor) -> bool:
    return all(
        (crops[i] - crops[j]).abs().mean() > 0.01 for i in range(len(crops)) for j in range(i)
    )


def views_of(frame: Tensor, photo: Tensor, views: int, augment: bool = True) -> Tensor:
    """Return the crops that the recogniser gets; the score must be their mean similarity."""
    from pvtool_core.faces.analyzer import TEMPLATE

    seen: list[Tensor] = []

    class Watched(Pixels):
        def forward(self, crops: Tensor) -> Tensor:
            seen.append(crops)
            return super().forward(crops)

    score = IdentityScorer(Watched(), photo, views, augment).score(
        frame, torch.tensor(TEMPLATE), generator()
    )
    references, faces = (functional.normalize(Pixels()(crops), dim=-1) for crops in seen)
    assert score == pytest.approx((faces @ references.T).mean().item(), abs=1e-5)
    assert len(faces) == (views if augment else 1)
    assert augment or torch.equal(seen[0], photo)
    return seen[1]
