"""Application for a single screen, and sample identities and clips."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from textual.app import App
from textual.screen import Screen

from pvtool.dashboard import keys
from pvtool.dashboard.messages import OpenRun
from pvtool_core.paths import presets_dir
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Identity, Library

SAMPLES = presets_dir() / "tiny/samples"


class ScreenApp(App[None]):
    """Application with one screen that records navigation and the results of forms."""

    TITLE = "pv"
    BINDINGS = keys.APP

    def __init__(self, screen: Callable[[], Screen[Any]]) -> None:
        super().__init__()
        self._first = screen
        self.destinations: list[str] = []
        self.results: list[object] = []

    def on_mount(self) -> None:
        """Show the screen."""
        self.push_screen(self._first(), self.results.append)

    def action_show_mode(self, mode: str) -> None:
        """Record the mode."""
        self.destinations.append(mode)

    def on_open_run(self, message: OpenRun) -> None:
        """Record the run."""
        self.destinations.append(message.run)


def add_identity(
    name: str, noun: str = "woman", embeddings: Sequence[Sequence[float]] = ((1.0, 0.0),)
) -> Identity:
    """Add an identity with a photo per embedding, as an enroll job writes it, without an engine."""
    library = Library()
    with library.staging() as staging:
        faces = [_face(number) for number in range(len(embeddings))]
        for file in (face[key] for face in faces for key in ("reference", "face")):
            (staging / file).parent.mkdir(exist_ok=True)
            Image.open(SAMPLES / "ada-woman.png").convert("RGB").resize((64, 64)).save(
                staging / file
            )
        save_file({"rec": torch.tensor(embeddings)}, staging / EMBEDDINGS_FILE)
        (staging / FACES_FILE).write_text(json.dumps(faces))
        return library.adopt(staging, name, noun, f"{name} agreed.")


def add_identity_of_noise(name: str) -> Identity:
    """Add an identity with one photo of noise, in which the random detector finds a face."""
    library = Library()
    with library.staging() as staging:
        files = {"reference": "references/000.png", "face": "faces/000.png"}
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 255, (112, 112, 3), dtype=torch.uint8, generator=generator)
        for file in files.values():
            (staging / file).parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.numpy()).save(staging / file)
        found = {"score": 0.9, "bbox": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5}
        save_file({"rec": torch.tensor([[0.6, 0.8]])}, staging / EMBEDDINGS_FILE)
        (staging / FACES_FILE).write_text(json.dumps([{"picture": "a.jpg", **files, **found}]))
        return library.adopt(staging, name, "woman", "yes")


def _face(number: int) -> dict[str, Any]:
    files = {"reference": f"references/{number:03d}.png", "face": f"faces/{number:03d}.png"}
    detection = {"score": 0.9, "bbox": [0, 0, 9, 9], "landmarks": [[1, 1]] * 5}
    return {"picture": f"holiday-{number}.jpg", **files, **detection}


def clip(
    path: Path, frames: int = 6, size: tuple[int, int] = (64, 48), milliseconds: int = 100
) -> Path:
    """Write a clip of a blue bar that moves down a constant red background."""
    images = [Image.new("RGB", size, RED) for _ in range(frames)]
    for number, image in enumerate(images):
        top = number * 4 % size[1]
        image.paste(BLUE, (0, top, size[0], top + 4))
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return path


RED, BLUE = (220, 28, 36), (20, 60, 196)
