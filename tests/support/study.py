"""Render folders for studies, and raters who answer them."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pvtool_core.batches.clips import write_sidecar
from pvtool_core.media.encode import write_clip
from pvtool_core.settings.jobs import EncodingConfig
from pvtool_core.study.answers import Answer, Answers
from pvtool_core.study.questions import QUESTIONS, Choice
from pvtool_core.study.session import screens
from pvtool_core.study.study_items import Study
from pvtool_core.study.study_key import Kind, StudyKey

PROMPT = "<V> woman waves at the sea & smiles"
GIF = EncodingConfig(formats=("gif",))
_SIDE = 32


def write_render(
    folder: Path,
    identities: Sequence[str] = ("ada", "mara"),
    seeds: int = 2,
    brightness: int = 90,
    adapter: str = "adapter.safetensors",
    encoding: EncodingConfig = GIF,
) -> Path:
    """Write clips and sidecars like `pv render`, and return the folder.

    A white bar moves over a background of this brightness.
    """
    for number, identity in enumerate(identities):
        for seed in range(seeds):
            clip = folder / identity / "waves-0123456789ab" / f"seed-{seed:06d}"
            clip.parent.mkdir(parents=True, exist_ok=True)
            frames = np.full((4, _SIDE, _SIDE, 3), (brightness, 60 * number, 40 * seed), np.uint8)
            for index, frame in enumerate(frames):
                frame[8 * index : 8 * index + 4] = 255
            facts = {"identity": identity, "prompt": PROMPT, "seed": seed, "run": "", "step": 0}
            write_clip(clip, frames, 8, facts, encoding)
            model = {"model": {"fps": 8}, "adapter": adapter}
            write_sidecar(clip, "fingerprint", encoding, {**facts, **model})
    return folder


def photos(folder: Path, identities: Sequence[str] = ("ada", "mara")) -> dict[str, Path]:
    """Write a reference photo of each identity."""
    from PIL import Image

    found = {name: folder / f"{name}.png" for name in identities}
    for number, path in enumerate(found.values()):
        Image.new("RGB", (64, 80), (60, 90 * number, 200)).save(path)
    return found


Judge = Callable[[str, str, str], Choice]
"""A choice between the methods on the left and on the right, for a question."""


def prefers(strengths: Mapping[str, float], seed: int, tie: float = 0.15) -> Judge:
    """Return a judge who chooses by strength and chance."""
    draw = random.Random(seed)

    def judge(left: str, right: str, _: str) -> Choice:
        if draw.random() < tie:
            return Choice.TIE
        share = strengths[left] / (strengths[left] + strengths[right])
        return Choice.LEFT if draw.random() < share else Choice.RIGHT

    return judge


def answer(study: Study, key: StudyKey, rater: str, judge: Judge, careful: bool = True) -> Answers:
    """Answer a study as one rater; a careless one chooses the left clip in all checks."""
    items = key.by_name()
    given: dict[str, Answer] = {}
    for screen in screens(study.items, rater):
        item = items[screen.item.name]
        left, right = item.clips[screen.left], item.clips[screen.right]
        if item.kind is Kind.REPEAT:
            first = given[item.again]
            swapped = {Choice.LEFT: Choice.RIGHT, Choice.RIGHT: Choice.LEFT}
            choices = {name: swapped.get(each, each) for name, each in first.choices.items()}
        elif item.kind is Kind.SET:
            choices = {each.name: judge(left, right, each.name) for each in QUESTIONS}
        else:
            sure = Choice.TIE
            if item.right:
                sure = Choice.LEFT if screen.left == item.right else Choice.RIGHT
            choices = {each.name: sure if careful else Choice.LEFT for each in QUESTIONS}
        given[item.name] = Answer(
            item=item.name, left=screen.left, right=screen.right, choices=choices
        )
    return Answers(study=study.name, rater=rater, answers=tuple(given.values()))
