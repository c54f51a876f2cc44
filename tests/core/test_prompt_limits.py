"""What a text encoder does not read of a prompt is named, and a keyword in that part is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from pvtool_core.backbones import load_backbone
from pvtool_core.config import ModelConfig, TrainJob
from pvtool_core.errors import BadPrompt, ExitStatus
from pvtool_core.paths import presets_dir
from pvtool_core.prompt_limits import check_prompts_fit, prompt_limit
from tests.core.jobs import Engine
from tests.families import FAMILIES, Family

CLIP = presets_dir() / "tiny/clip"  # CLIP's own vocabulary


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Tokenizer files as Stable Diffusion 1.5 has them."""
    folder = tmp_path_factory.mktemp("sd")
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(CLIP / name, folder / "tokenizer")
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return ModelConfig(base_model=str(folder))


@pytest.fixture(scope="module")
def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(str(CLIP / "vocab.json"), str(CLIP / "merges.txt"))


def test_two_prompts_that_differ_past_the_limit_are_named_with_the_part_that_is_cut(
    stable_diffusion: ModelConfig,
) -> None:
    beginning = "a <V> woman " + "red " * 70
    cuts = check_prompts_fit(stable_diffusion, [beginning + "dancing at night", beginning + "asleep", "a <V> man"])
    assert [cut.lost for cut in cuts] == ["dancing at night", "asleep"]
    assert all("75 tokens" in cut.message and repr(cut.lost) in cut.message for cut in cuts)


def test_a_keyword_past_the_limit_is_refused(stable_diffusion: ModelConfig) -> None:
    for words in (80, 74, 73):  # wholly, or with its last character
        with pytest.raises(BadPrompt, match="keyword <V> is cut off") as refusal:
            check_prompts_fit(stable_diffusion, ["red " * words + "<V>"])
        assert refusal.value.status is ExitStatus.REFUSED
    assert check_prompts_fit(stable_diffusion, ["red " * 72 + "<V>"]) == []


def test_a_negative_prompt_may_be_cut_and_is_named(stable_diffusion: ModelConfig) -> None:
    (cut,) = check_prompts_fit(stable_diffusion, ["a <V> man"], "ugly " * 80 + "<V>")
    assert cut.lost.startswith("ugly")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(max_size=200))
def test_prompts_are_counted_as_transformers_counts_them(
    stable_diffusion: ModelConfig, clip_tokenizer: CLIPTokenizer, prompt: str
) -> None:
    limit = prompt_limit(stable_diffusion)
    assert limit is not None
    tokens = clip_tokenizer(prompt, add_special_tokens=False).input_ids
    assert (limit.cut(prompt) is not None) == (len(tokens) > 75)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_is_named_as_cut_changes_nothing_in_the_model_and_what_is_not_does(family: Family, models: Path) -> None:
    job = family.job(models)
    words = "<V> " + "ab cd " * 300
    limit = prompt_limit(job.model)
    assert limit is not None
    cut = limit.cut(words)
    assert cut is not None
    kept = words[: len(words) - len(cut.lost)]
    spare = 60 if family.name == "hunyuan-video" else 2  # the small model's template is not of 95 tokens sharp
    same, other = kept + "zzzz " + cut.lost[5:], kept[:-spare] + "z" + kept[-spare + 1 :]
    backbone = load_backbone(job.model, job.sampler, [words, same, other])
    embeds = [backbone.prompt_embeds(each)["prompt_embeds"] for each in (words, same, other)]
    assert torch.equal(embeds[0], embeds[1])
    assert not torch.equal(embeds[0], embeds[2])


def test_training_warns_of_prompts_that_are_cut(run: Engine, job: TrainJob) -> None:
    long = "a <V> woman waving " + "and waving " * 10
    short = dataclasses.replace(job.training, iterations=1)
    assert run(dataclasses.replace(job, prompts=(*job.prompts, long), training=short)).status == 0
    warnings = [event["message"] for event in run.events if event["type"] == "warning"]
    assert any("cut off" in warning and "a <V> woman waving" in warning for warning in warnings)
    assert any("semantic reward" in warning for warning in warnings)


def test_a_model_without_a_tokenizer_is_left_to_its_loader(tmp_path: Path) -> None:
    assert prompt_limit(ModelConfig(base_model=str(tmp_path))) is None
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{")
    assert prompt_limit(ModelConfig(base_model=str(tmp_path), config=f"{tmp_path}/.")) is None
