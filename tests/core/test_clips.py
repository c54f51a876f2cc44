"""Clips: settings that change a file change its name, and only complete clips count."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pvtool_core.batches.clips import Names, is_whole, read_clip_record, sidecar_path, write_sidecar
from pvtool_core.errors import InputRefused
from pvtool_core.settings.jobs import EncodingConfig, RenderItem, Setup
from pvtool_core.settings.presets import Presets
from pvtool_core.settings.schema import Settings
from pvtool_core.settings.toml import merge
from tests.support.hostile import deadline, link_to_device

__all__ = ["deadline"]


def settings(**change: dict[str, Any]) -> Settings:
    return Presets().get("tiny").settings(merge({"model": {"fingerprint": "0123"}}, change))


def path(
    changed: Settings | None = None, prompt: str = "<V> man runs", adapter: str = "ab"
) -> Path:
    return Path(names(changed or settings()).path(Path("out"), "mara", prompt, 3, adapter))


def names(settings: Settings, upscale: int = 1) -> Names:
    return Names(Setup.of(settings), upscale)


def test_clip_path_is_readable() -> None:
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
def test_name_depends_on_settings_that_change_the_file(change: dict[str, Any]) -> None:
    assert path(settings(**change)) != path()


def test_name_depends_on_adapter_and_exact_prompt() -> None:
    assert len({path(), path(adapter="cd"), path(adapter=""), path(prompt="<V> man, runs")}) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"base_model": "/elsewhere", "device": "cpu", "threads": 1}},
        {"training": {"iterations": 7}},
        {"semantic_reward": {"weight": 0.5}},
    ],
)
def test_name_does_not_depend_on_other_settings(change: dict[str, Any]) -> None:
    assert path(settings(**change)) == path()


def test_name_of_base_clip_does_not_depend_on_start() -> None:
    assert path(settings(adapter={"start": 0.5}), adapter="") == path(adapter="")


MP4 = EncodingConfig()
BOTH = EncodingConfig(formats=("mp4", "gif"))


def test_clip_is_complete_only_with_all_files_unchanged(tmp_path: Path) -> None:
    clip = tmp_path / "seed-000003"
    mp4, gif = (clip.with_name(f"{clip.name}.{suffix}") for suffix in ("mp4", "gif"))
    mp4.write_bytes(b"video")
    assert not is_whole(clip, "f", MP4)
    write_sidecar(clip, "f", MP4, {"seed": 3})
    assert is_whole(clip, "f", MP4)
    assert not is_whole(clip, "f", BOTH)
    gif.write_bytes(b"picture")
    write_sidecar(clip, "f", EncodingConfig(formats=("gif",)), {"seed": 3})
    assert is_whole(clip, "f", BOTH)
    mp4.write_bytes(b"vide0")
    assert not is_whole(clip, "f", MP4)
    sidecar_path(clip).unlink()
    assert not is_whole(clip, "f", EncodingConfig(formats=("gif",)))


def test_clip_with_other_inputs_or_settings_is_not_complete(tmp_path: Path) -> None:
    clip = tmp_path / "seed-000003"
    clip.with_suffix(".mp4").write_bytes(b"video")
    write_sidecar(clip, "f", MP4, {"seed": 3})
    assert not is_whole(clip, "g", MP4)
    assert not is_whole(clip, "f", EncodingConfig(codec="av1"))


def test_folder_of_frames_is_complete_with_all_frames(tmp_path: Path) -> None:
    clip, png = tmp_path / "seed-000003", EncodingConfig(formats=("png",))
    frames = tmp_path / "seed-000003"
    frames.mkdir()
    for number in range(3):
        (frames / f"{number:04}.png").write_bytes(b"frame")
    write_sidecar(clip, "f", png, {"seed": 3})
    assert is_whole(clip, "f", png)
    (frames / "0001.png").unlink()
    assert not is_whole(clip, "f", png)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"fingerprint": "f"}'])
def test_clip_with_invalid_sidecar_is_not_complete(content: str, tmp_path: Path) -> None:
    sidecar_path(tmp_path / "clip").write_text(content)
    assert not is_whole(tmp_path / "clip", "f", MP4)


def test_seed_prompt_adapter_and_upscaling_are_in_the_fingerprint() -> None:
    item = RenderItem(identity="mara", prompt="<V> man runs", seed=3, adapter_sha256="ab", clip="")
    others = [{"seed": 4}, {"prompt": "<V> man sits"}, {"adapter_sha256": "cd"}]
    marks = {names(settings()).fingerprint(replace(item, **change)) for change in ({}, *others)}
    marks.add(names(settings(), upscale=2).fingerprint(item))
    assert len(marks) == 5


def test_clips_share_a_trajectory_only_with_equal_prefix() -> None:
    ours = names(settings())
    assert ours.trajectory("p", 3) == names(settings(), upscale=2).trajectory("p", 3)
    others = {
        ours.trajectory("p", 4),
        ours.trajectory("q", 3),
        names(settings(sampler={"guidance_scale": 2.0})).trajectory("p", 3),
    }
    assert ours.trajectory("p", 3) not in others


def test_base_clip_is_the_same_for_all_starts() -> None:
    """It therefore belongs to one lease and one shard."""
    later = names(settings(adapter={"start": 0.5}))
    assert later.path(Path("out"), "base", "p", 3) == names(settings()).path(
        Path("out"), "base", "p", 3
    )
    assert later.trajectory("p", 3) == names(settings()).trajectory("p", 3)
    assert later.setup_key != names(settings()).setup_key


def written(tmp_path: Path, kind: str = "mp4") -> tuple[Path, EncodingConfig]:
    """Write a clip with its sidecar."""
    clip, encoding = tmp_path / "seed-000003", EncodingConfig(formats=(kind,))
    if kind == "png":
        clip.mkdir()
        (clip / "0000.png").write_bytes(b"frame")
    else:
        clip.with_suffix(".mp4").write_bytes(b"clip")
    write_sidecar(
        clip, "f", encoding, {"identity": "mara", "prompt": "<V>", "seed": 3, "adapter": ""}
    )
    assert is_whole(clip, "f", encoding)
    return clip, encoding


SIDECARS = [
    *[b"", b"[]", b"[" * 99_999, b'{"fingerprint": "f"}', b'{"fingerprint": "f", "files": []}'],
    *[
        b'{"fingerprint": "f", "files": {"seed-000003.mp4": 3}}',
        b'{"fingerprint": "f", "files": null}',
        b"\xff",
    ],
    *[b'{"fingerprint": "f", "files": {"seed-000003.mp4": {"how": "mp4 h264"}}}', b" " * (1 << 21)],
]


@pytest.mark.parametrize("content", SIDECARS, ids=range(len(SIDECARS)))
def test_clip_with_foreign_sidecar_is_not_complete_and_cannot_be_scored(
    tmp_path: Path, content: bytes
) -> None:
    clip, encoding = written(tmp_path)
    sidecar_path(clip).write_bytes(content)
    assert not is_whole(clip, "f", encoding)
    with pytest.raises(InputRefused, match=r"seed-000003\.json is not a sidecar of pv"):
        read_clip_record(sidecar_path(clip))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, link_to_device])
def test_pipe_instead_of_clip_or_sidecar_does_not_block(
    tmp_path: Path, make: Callable[[Path], None], deadline: None
) -> None:
    for kind, name in (
        ("mp4", "seed-000003.json"),
        ("mp4", "seed-000003.mp4"),
        ("png", "seed-000003/0000.png"),
    ):
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        clip, encoding = written(folder, kind)
        (folder / name).unlink()
        make(folder / name)
        assert not is_whole(clip, "f", encoding)


def test_a_sidecar_may_be_a_link(tmp_path: Path) -> None:
    clip, encoding = written(tmp_path)
    sidecar_path(clip).rename(tmp_path / "kept")
    sidecar_path(clip).symlink_to("kept")
    assert is_whole(clip, "f", encoding)
    assert read_clip_record(sidecar_path(clip))["identity"] == "mara"
