"""Prompts longer than a text encoder's limit cause a warning; a truncated keyword is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from tokenizers.models import Unigram
from transformers import CLIPTokenizer

from pvtool_core.backbones import load_backbone
from pvtool_core.errors import BadPrompt, ExitStatus
from pvtool_core.models.prompt_limits import (
    LLAMA_AFTER,
    LLAMA_BEFORE,
    LLAMA_TOKENS,
    PromptLimit,
    check_prompts_fit,
    prompt_limits,
)
from pvtool_core.paths import presets_dir
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.schema import ModelConfig
from tests.support.families import FAMILIES, HUNYUAN_VIDEO, WAN, Family
from tests.support.render_jobs import Engine, item, render_job

CLIP = presets_dir() / "tiny/clip"  # the vocabulary of CLIP


def limit_of(model: ModelConfig) -> PromptLimit:
    limits = prompt_limits(model)
    assert limits is not None
    return limits.first


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """Write the tokenizer files of Stable Diffusion 1.5."""
    folder = tmp_path_factory.mktemp("sd")
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(CLIP / name, folder / "tokenizer")
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return ModelConfig(base_model=str(folder))


@pytest.fixture(scope="module")
def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(str(CLIP / "vocab.json"), str(CLIP / "merges.txt"))


def test_warning_shows_the_truncated_part_of_prompts(
    stable_diffusion: ModelConfig,
) -> None:
    beginning = "a <V> woman " + "red " * 70
    cuts = check_prompts_fit(
        stable_diffusion, [beginning + "dancing at night", beginning + "asleep", "a <V> man"]
    )
    assert [cut.lost for cut in cuts] == ["dancing at night", "asleep"]
    assert all("75 tokens" in cut.message and repr(cut.lost) in cut.message for cut in cuts)


def test_keyword_beyond_the_limit_is_refused(stable_diffusion: ModelConfig) -> None:
    for words in (80, 74, 73):  # the whole keyword or its last character is truncated
        with pytest.raises(BadPrompt, match="keyword <V> is cut off") as refusal:
            check_prompts_fit(stable_diffusion, ["red " * words + "<V>"])
        assert refusal.value.status is ExitStatus.REFUSED
    assert check_prompts_fit(stable_diffusion, ["red " * 72 + "<V>"]) == []


def test_truncated_noun_after_the_keyword_is_refused(
    stable_diffusion: ModelConfig,
) -> None:
    prompt = "red " * 72 + "<V> woman waving"
    with pytest.raises(BadPrompt, match="noun 'woman' of the keyword <V> is cut off"):
        check_prompts_fit(stable_diffusion, [prompt], noun="woman")
    (cut,) = check_prompts_fit(stable_diffusion, [prompt], noun="man")
    assert cut.lost == "woman waving"
    (cut,) = check_prompts_fit(stable_diffusion, [prompt[4:]], noun="woman")
    assert cut.lost == "waving"


def test_truncated_negative_prompt_causes_a_warning(stable_diffusion: ModelConfig) -> None:
    (cut,) = check_prompts_fit(stable_diffusion, ["a <V> man"], "ugly " * 80 + "<V>")
    assert cut.lost.startswith("ugly")
    assert "of the negative prompt 'ugly" in cut.message


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.text(max_size=200))
def test_token_counts_equal_those_of_transformers(
    stable_diffusion: ModelConfig, clip_tokenizer: CLIPTokenizer, prompt: str
) -> None:
    limit = limit_of(stable_diffusion)
    tokens = clip_tokenizer(prompt, add_special_tokens=False).input_ids
    assert (limit.cut(prompt) is not None) == (len(tokens) > 75)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_exactly_the_reported_part_has_no_effect_on_the_embeddings(
    family: Family, models: Path
) -> None:
    job = family.job(models)
    words = "<V> " + "ab cd " * 300
    limit = limit_of(job.model)
    cut = limit.cut(words)
    assert cut is not None
    kept = words[: len(words) - len(cut.lost)]
    same, other = kept + "zzzz " + cut.lost[5:], kept[:-2] + "z" + kept[-1:]
    backbone = load_backbone(job.model, job.sampler, [words, same, other])
    embeds = [backbone.prompt_embeds(each)["prompt_embeds"] for each in (words, same, other)]
    assert torch.equal(embeds[0], embeds[1])
    assert not torch.equal(embeds[0], embeds[2])


def test_template_of_hunyuan_video_equals_diffusers() -> None:
    template, start = DEFAULT_PROMPT_TEMPLATE["template"], DEFAULT_PROMPT_TEMPLATE["crop_start"]
    assert template == f"{LLAMA_BEFORE}{{}}{LLAMA_AFTER}"
    assert 256 + int(start) == LLAMA_TOKENS


def test_truncation_in_hunyuan_videos_second_encoder_is_a_warning(
    models: Path,
) -> None:
    job = HUNYUAN_VIDEO.job(models)
    words = "a blue coat, " * 8
    (cut,) = check_prompts_fit(job.model, [words + "<V> woman"], noun="woman")
    assert "second text encoder, CLIP, reads 75 tokens" in cut.message
    assert "by the first text encoder only" in cut.message
    assert cut.lost.endswith("<V> woman")
    kept = words[: len(words) - len(cut.lost) + len("<V> woman")]
    same, other = kept + "zz", "z" + kept[1:]
    backbone = load_backbone(job.model, job.sampler, [words + "<V> woman", same, other])
    pooled = [
        backbone.prompt_embeds(each)["pooled_prompt_embeds"]
        for each in (words + "<V> woman", same, other)
    ]
    assert torch.equal(pooled[0], pooled[1])
    assert not torch.equal(pooled[0], pooled[2])
    with pytest.raises(BadPrompt, match="keyword <V> is cut off"):
        check_prompts_fit(job.model, [words * 10 + "<V> woman"])


def test_wan_counts_the_preprocessed_prompt(models: Path) -> None:
    limit = limit_of(WAN.job(models).model)
    assert limit.cut("<V> " + "&lt;" * 300) is None  # 300 characters in the tokenizer
    cut = limit.cut("<V> " + "&lt;" * 600)
    assert cut is not None
    assert set(cut.lost) == {"<"}


def test_normalised_text_is_counted() -> None:
    letters = Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0), ("m", -1.0), (".", -1.0)], 0))
    letters.normalizer = normalizers.NFKC()  # pyright: ignore[reportAttributeAccessIssue]
    assert (
        PromptLimit(letters, 30).cut("\u33c2" * 7) is None
    )  # "a.m." as one character of three bytes
    cut = PromptLimit(letters, 30).cut("\u33c2" * 9)
    assert cut is not None
    assert cut.lost == "\u33c2" * 2


def test_batch_warns_of_truncated_prompts_and_renders_them(
    run: Engine, job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / "home"))
    long = "a <V> woman waving " + "and waving " * 10
    assert (
        run(
            render_job(job, item(tmp_path / "out/long", prompt=long), item(tmp_path / "out/short"))
        ).status
        == 0
    )
    (warning,) = [event for event in run.events if event["type"] == "warning"]
    assert "cut off" in warning["message"]
    assert long.endswith(warning["cut"])


def test_training_warns_of_truncated_prompts(run: Engine, job: TrainJob) -> None:
    long = "a <V> woman waving " + "and waving " * 10
    short = dataclasses.replace(job.training, iterations=1)
    assert run(dataclasses.replace(job, prompts=(*job.prompts, long), training=short)).status == 0
    warnings = [event["message"] for event in run.events if event["type"] == "warning"]
    assert any("cut off" in warning and "a <V> woman waving" in warning for warning in warnings)
    assert any("semantic reward" in warning for warning in warnings)


def test_model_without_tokenizer_is_not_checked(tmp_path: Path) -> None:
    assert prompt_limits(ModelConfig(base_model=str(tmp_path))) is None
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{")
    assert prompt_limits(ModelConfig(base_model=str(tmp_path), config=f"{tmp_path}/.")) is None
    assert prompt_limits(ModelConfig(base_model=str(tmp_path / "nowhere"))) is None
