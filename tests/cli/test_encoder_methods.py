"""`pv render --method`: clips of identities by encoder methods, without a run."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from PIL import Image

from pvtool_core import render_by_method
from pvtool_core.api.evaluate import folder_clips
from pvtool_core.errors import UsageError
from pvtool_core.media.decode import frames_of
from pvtool_core.media.metadata import read_facts
from pvtool_core.methods.id_animator import IdAnimator
from pvtool_core.settings.jobs import TrainJob
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import MethodConfig
from pvtool_core.settings.toml import merge, to_table
from pvtool_core.store.identities import Library
from tests.support.commands import Pv
from tests.support.small_methods import save_consisid, save_id_animator, use_random_faces

pytestmark = pytest.mark.usefixtures("engines_in_process")
PROMPT = "a <V> {noun} waving"
Render = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of both methods."""
    folder = tmp_path_factory.mktemp("weights")
    save_id_animator(folder / "id-animator")
    save_consisid(folder / "consisid")
    return folder


@pytest.fixture
def presets(home: Path, job: TrainJob, weights: Path) -> Path:
    """Write presets of the small models, which replace the shipped ones; return their folder."""
    folder = Presets().own
    folder.mkdir(parents=True)
    sampler = {"num_inference_steps": 2, "negative_prompt": "ugly"}
    animator = MethodConfig(
        name="id-animator",
        weights=str(weights / "id-animator/animator.ckpt"),
        image_encoder=str(weights / "id-animator/image_encoder"),
        scale=0.8,
    )
    write_preset(folder, job, "id-animator", {"sampler": sampler, "method": to_table(animator)})
    faces = {name: str(weights / "id-animator/animator.ckpt") for name in ("weights", "detector")}
    model = {
        "family": "consisid",
        "base_model": str(weights / "consisid"),
        "num_frames": 9,
    }
    own = {"model": model, "sampler": sampler, "method": {"name": "consisid", **faces}}
    write_preset(folder, job, "consisid", own)
    return folder


def write_preset(folder: Path, job: TrainJob, name: str, changes: dict[str, Any]) -> None:
    sections = ("model", "sampler", "identity_reward", "semantic_reward", "evaluation")
    table = {section: to_table(getattr(job, section)) for section in sections}
    content = merge({"preset": {"description": "small"}}, table, changes)
    (folder / f"{name}.toml").write_text(tomli_w.dumps(content))


@pytest.fixture
def with_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ConsisID run without its optional packages, with random conditions of a photo."""
    own = dataclasses.replace(METHODS["consisid"], packages=())
    monkeypatch.setitem(METHODS, "consisid", own)
    use_random_faces(monkeypatch)


@pytest.fixture
def render(pv: Pv, mara: str, presets: Path) -> Render:
    def rendered(*words: str) -> list[Any]:
        answer = pv("render", "mara", PROMPT, *words, "--no-likeness", "--json")
        assert answer.status == 0, answer.err
        return answer.lines

    return rendered


def sidecar(clip: Any) -> Any:
    return json.loads(Path(clip["path"]).with_suffix(".json").read_text())


def folders(clips: list[Any]) -> set[str]:
    return {Path(clip["path"]).parent.name for clip in clips}


def test_method_renders_an_identity_beside_its_base_model(render: Render) -> None:
    clip, base = render("--method", "id-animator", "--base")
    assert (clip["identity"], clip["method"], clip["run"]) == ("mara", "id-animator", "")
    assert base["identity"] == "base"
    assert "method" not in base
    assert (frames_of(Path(clip["path"])) != frames_of(Path(base["path"]))).any()
    record, plain = sidecar(clip), sidecar(base)
    method = record["method"]
    assert method["name"] == "id-animator"
    assert method["scale"] == 0.8
    assert len(method["fingerprint"]) == 16
    assert record["places"]["method"]["weights"].endswith("animator.ckpt")
    assert record["adapter"] == ""
    assert not {"method", "reference"} & plain.keys()
    facts = read_facts(Path(clip["path"]))
    assert (facts["method"], facts["reference"]) == (method, record["reference"])
    clips, run = folder_clips(Path(clip["path"]).parents[2])
    assert [(each.identity, each.method) for each in clips] == [
        ("mara", "base"),
        ("mara", "id-animator"),
    ]
    assert run == ""


def test_existing_clip_is_skipped_until_photos_or_weights_change(
    render: Render, weights: Path, presets: Path
) -> None:
    first = render("--method", "id-animator")
    assert [clip["status"] for clip in render("--method", "id-animator")] == ["skipped"]
    assert [clip["status"] for clip in render("--method", "id-animator", "--dry-run")] == ["there"]
    crop = Library().get("mara").faces[0]
    plain = crop.read_bytes()
    Image.new("RGB", (112, 112), "red").save(crop)
    second = render("--method", "id-animator")
    assert [clip["status"] for clip in second] == ["done"]
    crop.write_bytes(plain)
    preset = presets / "id-animator.toml"
    preset.write_text(preset.read_text().replace("scale = 0.8", "scale = 0.5"))
    third = render("--method", "id-animator")
    assert len(folders(first + second + third)) == 3


@pytest.mark.usefixtures("with_packages")
def test_several_methods_multiply_the_clips_and_rows_name_theirs(
    render: Render, pv: Pv, tmp_path: Path
) -> None:
    clips = render("--method", "consisid", "--method", "id-animator", "--seed", "0,1")
    assert [(clip["method"], clip["seed"]) for clip in clips] == [
        ("consisid", 0),
        ("consisid", 1),
        ("id-animator", 0),
        ("id-animator", 1),
    ]
    assert frames_of(Path(clips[0]["path"])).shape == (9, 32, 32, 3)
    (tmp_path / "rows.csv").write_text(f"prompt,method,seed\n{PROMPT},consisid,1\n")
    answer = pv("render", "mara", "--prompts", str(tmp_path / "rows.csv"), "--json", "--dry-run")
    assert [(each["path"], each["status"]) for each in answer.lines] == [
        (clips[1]["path"], "there")
    ]


def test_clip_is_rendered_again_from_its_sidecar(render: Render, pv: Pv) -> None:
    (clip,) = render("--method", "id-animator")
    answer = pv("render", "--from", clip["path"], "--json", "--dry-run")
    assert [(each["path"], each["status"]) for each in answer.lines] == [(clip["path"], "there")]
    words = ("--from", clip["path"], "--seed", "5", "--no-likeness", "--json")
    (again,) = pv("render", *words).lines
    assert (again["method"], again["seed"], again["status"]) == ("id-animator", 5, "done")
    assert Path(again["path"]).parent == Path(clip["path"]).parent
    alone = shutil.copy(clip["path"], Path(clip["path"]).parents[3] / "alone.mp4")
    answer = pv("render", "--from", str(alone))
    assert answer.status == 4
    assert "Use the clip with its sidecar" in answer.err


def test_failed_clips_can_be_repeated_by_their_method_which_gets_no_keyword(
    render: Render, pv: Pv, presets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []

    def broken(_: object, prompt: str, *__: object) -> None:
        prompts.append(prompt)
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(IdAnimator, "render", broken)
        answer = pv("render", "mara", PROMPT, "--method", "id-animator", "--base", "--out", "clips")
    assert (answer.status, prompts) == (6, ["a woman waving"]), answer.err
    (row,) = map(json.loads, Path("clips/failed.jsonl").read_text().splitlines())
    assert (row["method"], row["reason"]) == ("id-animator", "ValueError: broken.")
    answer = pv("render", "--prompts", "clips/failed.jsonl", "--out", "clips", "--json")
    assert [(clip["method"], clip["status"]) for clip in answer.lines] == [("id-animator", "done")]


def test_python_api_renders_by_a_method(mara: str, presets: Path) -> None:
    rendering = render_by_method(
        "id-animator", mara, PROMPT, "clips", seeds=(4,), overrides={"model": {"num_frames": 2}}
    )
    (file,) = rendering.wait()
    assert frames_of(file).shape[0] == 2
    with pytest.raises(UsageError, match="Unknown method"):
        render_by_method("magic", mara, PROMPT, "clips")


def test_folder_of_a_method_is_evaluated_by_the_models_of_its_preset(
    render: Render, pv: Pv
) -> None:
    render("--method", "id-animator", "--base", "--out", "clips")
    answer = pv("eval", "clips", "--metrics", "likeness", "--json")
    assert answer.status == 0, answer.err
    assert set(answer.json["methods"]) == {"id-animator", "base"}
    assert "other.onnx" in str(answer.json["metrics"]["likeness"]["weights"])


def test_likeness_of_a_clip_is_measured_by_the_models_of_the_preset(
    pv: Pv, mara: str, presets: Path
) -> None:
    answer = pv("render", "mara", PROMPT, "--method", "id-animator", "--json")
    assert answer.status == 0, answer.err
    assert answer.lines[0]["likeness"]["recognizer"] == "other.onnx"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--method", "magic"), 2, "Unknown method 'magic'"),
        (("--method", "id-animator", "--run", "mara-1"), 2, "--method and --run"),
        (("--method", "id-animator", "--strength", "0.5"), 2, "strength does not apply"),
        (("--method", "id-animator", "--start", "0.5"), 2, "start does not apply"),
        (("--method", "consisid"), 4, "pip install pvtool[consisid]"),
    ],
)
def test_wrong_options_and_missing_packages_are_refused(
    pv: Pv, mara: str, presets: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    answer = pv("render", "mara", PROMPT, *words)
    assert (answer.status, message in answer.err) == (status, True), answer.err


@pytest.mark.usefixtures("with_packages")
def test_consisid_has_no_base_model_and_no_training(pv: Pv, mara: str, presets: Path) -> None:
    answer = pv("render", "mara", PROMPT, "--method", "consisid", "--base")
    assert (answer.status, "Omit --base." in answer.err) == (2, True), answer.err
    for words in (("train", "mara"), ("train", "mara", "--plan")):
        answer = pv(*words, "--preset", "consisid")
        assert (answer.status, "pv render --method consisid" in answer.err) == (2, True)


def test_missing_weights_are_named_with_the_command_that_fetches_them(pv: Pv, mara: str) -> None:
    answer = pv("render", "mara", PROMPT, "--method", "id-animator")
    assert answer.status == 4
    assert "pv models fetch realistic-vision-v6" in answer.err


def test_a_sweep_renders_a_method_without_training(pv: Pv, mara: str, presets: Path) -> None:
    file = presets.parent / "methods.toml"
    file.write_text(
        '[sweep]\npreset = "id-animator"\nidentities = ["mara"]\n'
        '[[variant]]\nname = "IDAnimator"\nmethod = "id-animator"\n'
        "[evaluation]\nprompts = 'tiny-unseen'\nmost_prompts = 1\nseeds = [0]\n"
        'metrics = ["likeness", "motion"]\n'
    )
    assert pv("sweep", str(file), "--plan", "--json").json["runs"] == 0
    answer = pv("sweep", str(file), "--json")
    assert answer.status == 0, answer.err
    assert "training" not in answer.err
    rows = {row["name"]: row for row in answer.json["rows"]}
    assert rows["IDAnimator"]["clips"] == 1
    assert "likeness" in rows["IDAnimator"]["means"]
