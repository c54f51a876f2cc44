"""The tiny preset: other libraries load its files, and its models have the expected quality."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from insightface.app import FaceAnalysis
from PIL import Image

from pvtool_core.faces.analyzer import FaceAnalyzer, align
from pvtool_core.models.locate import resolve_settings
from pvtool_core.paths import presets_dir
from pvtool_core.rewards import SemanticScorer
from pvtool_core.settings.presets import Presets
from pvtool_core.store.prompts import KEYWORD
from pvtool_core.tinyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    CLOTHES,
    draw_people,
    draw_scenes,
    still,
)

TINY = presets_dir() / "tiny"
SAMPLES = sorted((TINY / "samples").glob("*.png"))
LARGEST = 40 * 2**20


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < LARGEST


def test_insightface_loads_the_package_and_finds_each_sample_person(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(TINY / "faces")
    app = FaceAnalysis("tiny", root=str(tmp_path), providers=["CPUExecutionProvider"])
    app.prepare(-1, det_size=(128, 128))
    for path in SAMPLES:
        (face,) = app.get(np.asarray(Image.open(path).convert("RGB"))[..., ::-1])
        assert face.kps.shape == (5, 2)
        assert face.embedding.shape == (128,)


def test_both_recognisers_distinguish_people() -> None:
    names = ("rec_reward.onnx", "rec_metric.onnx")
    analyzer = FaceAnalyzer(TINY / "faces", "det_tiny.onnx", names, 128, 0.5, threads=1)
    people = draw_people(12, torch.Generator().manual_seed(9_700_000))
    crops: list[list[np.ndarray]] = []
    for seed in (1, 2):
        pictures, _ = still(people, draw_scenes(12, torch.Generator().manual_seed(seed)), 0)
        frames = (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        crops.append([align(frame, analyzer.detect(frame)[0].landmarks) for frame in frames])
    for name in names:
        first, second = (analyzer.embed(each, name) for each in crops)
        similarity = first @ second.T
        assert similarity.diagonal().min() > 0.5
        assert similarity[~np.eye(12, dtype=bool)].mean() < 0.1


@pytest.mark.slow
def test_diffusers_loads_the_pipeline_and_clips_match_their_prompts() -> None:
    pipeline = AnimateDiffPipeline.from_pretrained(
        TINY / "animatediff", dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a <V> man in a red sweater nodding on a beach, smiling"
    made: Any = pipeline(
        prompt,
        num_frames=8,
        height=64,
        width=64,
        num_inference_steps=16,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    )
    scorer = SemanticScorer(
        resolve_settings(Presets().get("tiny").settings()).semantic_reward, torch.device("cpu")
    )
    (frames,) = made.frames
    right = scorer.score(frames, prompt).mean()
    assert right > scorer.score(frames, prompt.replace("on a beach", "in a library")).mean() + 0.1
    assert (
        right > scorer.score(frames, prompt.replace("a red sweater", "a green jacket")).mean() + 0.1
    )


def test_evaluation_prompts_have_pairs_of_place_and_clothes_not_in_training() -> None:
    seen, unseen = (
        tomllib.loads((presets_dir() / f"prompts/{name}.toml").read_text())["prompts"]
        for name in ("tiny", "tiny-unseen")
    )
    assert len(seen) == len(set(seen)) == 50
    assert all(
        KEYWORD in prompt and any(action in prompt for action in ACTIONS)
        for prompt in [*seen, *unseen]
    )

    def pair(prompt: str) -> tuple[str, str]:
        return next(each for each in BACKGROUNDS if each in prompt), next(
            each for each in CLOTHES if each in prompt
        )

    assert not set(map(pair, seen)) & set(map(pair, unseen))
