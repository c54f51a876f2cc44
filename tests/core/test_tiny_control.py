"""The ControlNet of the tiny world: its control images, and its training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Generator

from pvtool_core.backbones.control import read_frames
from pvtool_core.models.base_models import check_controlnet
from pvtool_core.paths import presets_dir
from pvtool_core.settings.schema import ControlConfig
from pvtool_core.tinyworld.controlnet import train_control
from pvtool_core.tinyworld.world import ACTIONS, Scenes, draw_people, draw_scenes, pose, still

PEOPLE = 20


@pytest.fixture
def scenes() -> Scenes:
    """Return the same scene for all people, with each action."""
    scenes = draw_scenes(1, Generator().manual_seed(5))[torch.zeros(PEOPLE, dtype=torch.long)]
    return replace(scenes, action=torch.arange(PEOPLE) % len(ACTIONS))


def test_a_pose_shows_where_the_face_of_any_person_is(scenes: Scenes) -> None:
    people = draw_people(PEOPLE, Generator().manual_seed(6))
    for frame in (0, 3):
        _, drawn = still(people, scenes, frame)
        _, posed = pose(scenes, frame)
        assert torch.allclose(drawn.mean(1), posed.mean(1), atol=1e-4)


def test_a_pose_depends_only_on_place_size_and_action(scenes: Scenes) -> None:
    other = draw_scenes(PEOPLE, Generator().manual_seed(7))
    looks = {
        name: getattr(other, name) for name in ("background", "clothes", "expression", "light")
    }
    shown, _ = pose(scenes, 3)
    assert torch.equal(shown, pose(replace(scenes, **looks), 3)[0])
    assert len(shown.flatten(1).unique(dim=0)) == len(ACTIONS)


def test_training_writes_a_controlnet_and_control_frames(tmp_path: Path) -> None:
    train_control(presets_dir() / "tiny", tmp_path, steps=2)
    check_controlnet(tmp_path / "controlnet", presets_dir() / "tiny/animatediff")
    folders = sorted((tmp_path / "control-frames").iterdir())
    assert [folder.name for folder in folders] == sorted(
        action.replace(" ", "-") for action in ACTIONS
    )
    config = ControlConfig(model=str(tmp_path / "controlnet"), frames=str(folders[0]))
    assert len({picture.tobytes() for picture in read_frames(config, 8)}) > 4
