"""Settings are read back as written, and all mistakes are reported together."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvtool_core.errors import ExitStatus, SettingsError
from pvtool_core.settings.jobs import (
    EvaluateJob,
    IdentityRef,
    RenderItem,
    Subject,
    TrainJob,
    read_job,
    write_job,
)
from pvtool_core.settings.overrides import parse_overrides, setting_help, setting_keys
from pvtool_core.settings.schema import (
    ControlConfig,
    EvaluationConfig,
    IdentityRewardConfig,
    ModelConfig,
    SamplerConfig,
    Settings,
    TrainingConfig,
    check_model,
)
from pvtool_core.settings.toml import Table, from_table, merge, to_table
from pvtool_core.store.prompts import KEYWORD

SETTINGS = Settings(
    model=ModelConfig(base_model="base"),
    identity_reward=IdentityRewardConfig(package="faces"),
    evaluation=EvaluationConfig(recognizer="metric.onnx"),
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def table() -> Table:
    return to_table(SETTINGS)


def mistakes(broken: Table) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        from_table(Settings, broken)
    assert caught.value.status == ExitStatus.USAGE
    return {mistake.key: mistake.problem for mistake in caught.value.mistakes}


@given(
    prompts=st.lists(words, min_size=1).map(tuple),
    learning_rate=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
    seeds=st.lists(st.integers(0, 2**62)).map(tuple),
    path=words,
)
def test_saved_job_is_read_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory,
    prompts: tuple[str, ...],
    learning_rate: float,
    seed: int,
    seeds: tuple[int, ...],
    path: str,
) -> None:
    job = TrainJob(
        **replace(
            SETTINGS,
            training=TrainingConfig(learning_rate=learning_rate, seed=seed),
            evaluation=EvaluationConfig(recognizer="metric.onnx", seeds=seeds),
        ).sections(),
        run="mara-1",
        identity=IdentityRef(name="mara", noun="woman", folder=path),
        prompts=prompts,
        versions={"torch": "2.11"},
    )
    file = tmp_path_factory.mktemp("job") / "config.toml"
    write_job(file, job)
    assert read_job(file) == job


def test_a_job_with_one_identity_in_its_file_has_one_subject(tmp_path: Path) -> None:
    mara = IdentityRef(name="mara", noun="woman", folder="/people/mara", fingerprint="abc")
    job = TrainJob(**SETTINGS.sections(), run="mara-1", identity=mara, prompts=("<V> runs",))
    write_job(tmp_path / "config.toml", job)
    text = (tmp_path / "config.toml").read_text()
    assert "[identity]" in text and "subjects" not in text
    read = read_job(tmp_path / "config.toml")
    assert isinstance(read, TrainJob)
    assert read.subjects == (Subject(identity=mara),)
    assert Subject(identity=mara).keyword == KEYWORD


def test_a_render_item_has_its_identity_and_adapter_as_subject() -> None:
    item = RenderItem(identity="mara", prompt="<V> runs", seed=1, adapter="/a.st", clip="c")
    (subject,) = item.subjects
    assert (subject.identity.name, subject.keyword, subject.adapter) == ("mara", KEYWORD, "/a.st")
    assert "subjects" not in vars(item)


def test_an_evaluation_has_a_subject_for_each_identity() -> None:
    people = tuple(IdentityRef(name=name, folder=f"/{name}") for name in ("ann", "ben"))
    job = EvaluateJob(**SETTINGS.sections(), identities=people, clips=(), out="")
    assert [subject.identity for subject in job.subjects] == list(people)


def test_all_mistakes_are_reported_at_once_with_the_nearest_key() -> None:
    broken = merge(
        table(),
        {"model": {"widht": 64, "height": "tall"}, "training": {"iterations": True}, "adaptor": {}},
    )
    found = mistakes(broken)
    assert found.keys() == {"model.widht", "model.height", "training.iterations", "adaptor"}
    assert "did you mean 'width'" in found["model.widht"]
    assert "did you mean 'adapter'" in found["adaptor"]
    assert found["training.iterations"] == "is True, not a whole number"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "width", 63),
        ("model", "width", 0),
        ("model", "family", "unknown"),
        ("model", "dtype", "int8"),
        ("sampler", "num_inference_steps", 0),
        ("adapter", "start", 1.0),
        ("adapter", "start", -0.1),
        ("training", "learning_rate", math.nan),
        ("training", "learning_rate", math.inf),
        ("training", "gradient", "half"),
        ("evaluation", "seeds", [1, "2"]),
        ("evaluation", "seeds", 3),
    ],
)
def test_a_value_out_of_its_range_is_refused(section: str, key: str, value: object) -> None:
    (found,) = mistakes(merge(table(), {section: {key: value}}))
    assert found.startswith(f"{section}.{key}")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"adapter": {"alpha": 8}}, "adapter.alpha"),
        ({"semantic_reward": {"frames": 17}}, "semantic_reward.frames"),
        ({"evaluation": {"recognizer": "glintr100.onnx"}}, "evaluation.recognizer"),
        ({"model": {"trim_prompt": True}}, "model.trim_prompt"),
        (
            {"model": {"family": "hunyuan-video"}, "sampler": {"negative_prompt": "ugly"}},
            "sampler.negative_prompt",
        ),
        ({"model": {"family": "hunyuan-video", "offload": True}}, "training.recompute"),
        ({"model": {"family": "hunyuan-video"}, "adapter": {"layers": "cross"}}, "adapter.layers"),
        ({"model": {"family": "wan", "offload": True, "storage": "nf4"}}, "model.offload"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: Table, key: str) -> None:
    assert key in mistakes(merge(table(), change))


def test_control_settings_without_a_controlnet_are_accepted_for_every_family() -> None:
    wan = ModelConfig(base_model="", family="wan", num_frames=17)
    unused, used = (ControlConfig(model=model, weight=0.5) for model in ("", "/net"))
    assert not [*check_model(replace(wan, control=unused), SamplerConfig())]
    (found,) = check_model(replace(wan, control=used), SamplerConfig())
    assert str(found) == "model.control: is not supported by wan, only by animatediff"


def test_unsupported_offload_is_reported_once() -> None:
    model = ModelConfig(base_model="", storage="int8", offload=True)
    found = [mistake.key for mistake in check_model(model, SamplerConfig())]
    assert found == ["model.offload", "model.storage"]


def test_settings_without_default_are_required() -> None:
    broken = table()
    del broken["identity_reward"]
    del broken["model"]["base_model"]
    assert mistakes(broken) == {
        "identity_reward.package": "is missing",
        "model.base_model": "is missing",
    }


def test_integer_is_accepted_as_float_and_not_the_reverse() -> None:
    assert from_table(Settings, merge(table(), {"adapter": {"start": 0}})).adapter.start == 0.0
    assert mistakes(merge(table(), {"adapter": {"rank": 16.0}})) == {
        "adapter.rank": "is 16.0, not a whole number"
    }


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("training.iterations=5", {"training": {"iterations": 5}}),
        ("model.device=cuda:1", {"model": {"device": "cuda:1"}}),
        ("sampler.negative_prompt=a=b", {"sampler": {"negative_prompt": "a=b"}}),
        ("evaluation.seeds=[1, 2]", {"evaluation": {"seeds": [1, 2]}}),
        (" adapter.start = 0.5 ", {"adapter": {"start": 0.5}}),
    ],
)
def test_override_is_parsed_by_the_type_of_its_setting(word: str, expected: Table) -> None:
    assert parse_overrides([word]) == expected


def test_every_invalid_override_is_reported() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_overrides(
            [
                "nonsense",
                "=1",
                "training.iterations=many",
                "adapter.rank=-1",
                "training.iteration=5",
            ]
        )
    assert [mistake.key for mistake in caught.value.mistakes] == [
        "nonsense",
        "",
        "training.iterations",
        "adapter.rank",
        "training.iteration",
    ]
    assert caught.value.message.startswith("Cannot use --set: ")
    assert caught.value.message.endswith("did you mean 'training.iterations'?")


@pytest.mark.parametrize("value", ["[" * 4000, "9" * 5000, "{a" + ".a" * 5000 + "=1}"])
def test_error_for_long_override_is_short(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_overrides([f"training.iterations={value}"])
    assert "training.iterations: is '" in caught.value.message
    assert len(caught.value.message) < 200


@given(words)
def test_any_override_is_accepted_or_a_settings_error(word: str) -> None:
    for text in (
        word,
        f"training.iterations={word}",
        f"evaluation.seeds={word}",
        f"model.device={word}",
    ):
        try:
            from_table(Settings, merge(table(), parse_overrides([text])))
        except SettingsError as error:
            assert error.mistakes


def test_every_setting_has_a_description() -> None:
    assert set(setting_help()) == set(setting_keys())
    assert all(setting_help().values())


def test_invalid_toml_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("kind = ")
    with pytest.raises(SettingsError, match="syntax"):
        read_job(tmp_path / "config.toml")


def test_an_unknown_kind_of_job_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('kind = "dance"')
    with pytest.raises(SettingsError, match="'dance'"):
        read_job(tmp_path / "config.toml")
