"""Other contents of the tiny preset: sample people, and the prompt banks."""

from pathlib import Path

import tomli_w
import torch
from PIL import Image
from torch import Generator

from pvtool_core.tinyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    WORD_ORDERS,
    draw_people,
    draw_scenes,
    still,
)

SAMPLES = ("ada-woman", "ben-man", "cleo-woman", "dan-man", "eve-woman", "finn-man")
SIZE = 256
FIRST_SEED = 8_000_000
"""Far from the seeds of all training data."""


def save_samples(folder: Path) -> None:
    """Write one photo of each sample person, 256 × 256, without hands."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(SAMPLES):
        generator = Generator().manual_seed(FIRST_SEED + index)
        person, scene = (
            draw_people(1, generator, name.rpartition("-")[2]),
            draw_scenes(1, generator),
        )
        scene.action.clamp_(min=1)
        picture, _ = still(person, scene, 0, size=SIZE)
        Image.fromarray((picture[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(
            folder / f"{name}.png"
        )


def save_prompts(folder: Path) -> None:
    """Write 50 training prompts and 8 evaluation prompts.

    The 8 combine backgrounds with clothes in pairs that none of the 50 has.
    """
    places, garments = len(BACKGROUNDS), len(CLOTHES)
    held_out = [(place, (place + 2) % garments) for place in range(places)] + [(0, 5), (3, 1)]
    free = [
        (place, garment)
        for place in range(places)
        for garment in range(garments)
        if (place, garment) not in held_out
    ]
    rows = {
        "tiny": (
            [free[index % len(free)] for index in range(50)],
            "50 prompts in the vocabulary of the tiny world",
        ),
        "tiny-unseen": (
            held_out,
            "Evaluation prompts for models trained with the bank `tiny`, which has none of them",
        ),
    }
    for name, (pairs, description) in rows.items():
        prompts = [_prompt(index, place, garment) for index, (place, garment) in enumerate(pairs)]
        (folder / f"{name}.toml").write_text(
            tomli_w.dumps({"description": description, "prompts": prompts})
        )


def _prompt(index: int, place: int, garment: int) -> str:
    generator = Generator().manual_seed(index)
    action, mood = (
        (index * 2 + index // 5) % len(ACTIONS),
        int(torch.randint(len(EXPRESSIONS), (), generator=generator)),
    )
    words = WORD_ORDERS[index % len(WORD_ORDERS)]
    return words(
        "<V> {noun}", CLOTHES[garment], ACTIONS[action], BACKGROUNDS[place], EXPRESSIONS[mood]
    )
