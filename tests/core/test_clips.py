"""Clips: what changes a file changes its name, and only a whole clip counts."""

from pathlib import Path
from typing import Any

import pytest

from pvtool_core.clips import clip_path, is_whole, sidecar_path, write_sidecar
from pvtool_core.config import Settings, merge
from pvtool_core.weights import Presets


def settings(**change: dict[str, Any]) -> Settings:
    return Presets().get("tiny").settings(merge({"model": {"fingerprint": "0123"}}, change))


def path(changed: Settings | None = None, prompt: str = "<V> man runs", adapter: str = "ab") -> Path:
    return clip_path(Path("out"), "mara", prompt, 3, changed or settings(), adapter)


def test_a_clip_lies_where_people_find_it() -> None:
    assert path().parent.name.startswith("man-runs-")
    assert (path().parent.parent, path().name) == (Path("out/mara"), "seed-000003")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"fingerprint": "4567"}},
        {"model": {"width": 72}},
        {"model": {"num_frames": 9}},
        {"model": {"fps": 12}},
        {"model": {"dtype": "bfloat16"}},
        {"sampler": {"num_inference_steps": 17}},
        {"sampler": {"guidance_scale": 7.0}},
        {"sampler": {"negative_prompt": "blur"}},
        {"adapter": {"start": 0.5}},
    ],
)
def test_what_changes_the_file_changes_the_name(change: dict[str, Any]) -> None:
    assert path(settings(**change)) != path()


def test_another_adapter_or_a_prompt_of_the_same_words_is_another_clip() -> None:
    assert len({path(), path(adapter="cd"), path(adapter=""), path(prompt="<V> man, runs")}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"base_model": "/elsewhere", "device": "cpu", "threads": 1}},
        {"training": {"iterations": 7}},
        {"semantic_reward": {"weight": 0.5}},
    ],
)
def test_what_does_not_change_the_file_does_not_change_the_name(change: dict[str, Any]) -> None:
    assert path(settings(**change)) == path()


def test_where_the_adapter_begins_does_not_matter_without_one() -> None:
    assert path(settings(adapter={"start": 0.5}), adapter="") == path(adapter="")


def test_only_a_clip_with_all_its_files_as_written_is_whole(tmp_path: Path) -> None:
    clip = tmp_path / "seed-000003"
    mp4, gif = (clip.with_name(f"{clip.name}.{suffix}") for suffix in ("mp4", "gif"))
    mp4.write_bytes(b"video")
    assert not is_whole(clip, ["mp4"])
    write_sidecar(clip, ["mp4"], {"seed": 3})
    assert is_whole(clip, ["mp4"])
    assert not is_whole(clip, ["mp4", "gif"])
    gif.write_bytes(b"picture")
    write_sidecar(clip, ["gif"], {"seed": 3})
    assert is_whole(clip, ["mp4", "gif"])
    mp4.write_bytes(b"vide0")
    assert not is_whole(clip, ["mp4"])
    sidecar_path(clip).unlink()
    assert not is_whole(clip, ["gif"])
