"""Judges clips by what training did not see: the paper's metrics, before and after.

It reads files, made by a render job with and without the adapter, and shares no code with the rewards but what opens
models. Likeness is judged by a recogniser that training never saw; that of the reward is reported beside it, for when
it runs ahead of the other one the reward is being fooled. No number of likeness is to be read without the share of
frames with a face.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from pvtool_core.backbones import resolve_device
from pvtool_core.batches.clips import read_clip_record
from pvtool_core.errors import InputRefused, NotFinite
from pvtool_core.faces.analyzer import FaceAnalyzer, align, largest
from pvtool_core.files import replace_file
from pvtool_core.media.contact_sheet import SheetRow, write_contact_sheet
from pvtool_core.media.decode import Pixels, frames_of
from pvtool_core.media.photos import read_picture
from pvtool_core.open_clip_model import ImageText
from pvtool_core.settings.jobs import EvaluateJob, IdentityRef
from pvtool_core.settings.schema import SemanticRewardConfig
from pvtool_core.store.prompts import without_keyword

GAP_ALARM = 0.2
SCORERS = "Check the face recognisers and the image-text model: `pv models verify`."
CLIPS_ON_SHEET = 8

Report = Callable[..., None]


@dataclass(frozen=True)
class Scores:
    """What one clip scores, or the mean of several.

    Likeness is the cosine with the person's mean embedding, and 0 for a frame without a face. `prompt_score` is 100
    times the cosine of image and text, `consistency` the cosine of neighbouring frames' image embeddings. `motion` is
    how far the face's landmarks go from frame to frame, `dense_motion` how far all pixels go, in per cent of the width
    and without flicker (see `steadied`); `motion` is None where no four frames in a row have a face.
    """

    identity_similarity: float
    identity_similarity_min: float
    reward_similarity: float
    gap: float
    face_share: float
    motion: float | None
    dense_motion: float | None
    prompt_score: float
    consistency: float


@dataclass(frozen=True)
class Clip:
    """A clip and its sidecar. `frames` are (frames, height, width, 3)."""

    record: Mapping[str, Any]
    frames: Pixels

    @property
    def stage(self) -> str:
        return "after" if self.record["adapter"] else "before"

    @property
    def pair(self) -> tuple[str, int]:
        """The same for the clips before and after of one prompt and seed."""
        return self.record["prompt"], self.record["seed"]


def evaluate(job: EvaluateJob, report: Report) -> None:
    """Score the clips of the job; write its report and its contact sheet."""
    report("stage", stage="loading")
    judge = Evaluator(job)
    people = {person.name: person for person in job.identities}
    scored: list[tuple[Clip, Scores]] = []
    for number, sidecar in enumerate(map(Path, job.sidecars)):
        report("stage", stage="scoring", done=number, total=len(job.sidecars))
        clip = read_clip(sidecar)
        scored.append((clip, judge.scores(clip, people[clip.record["identity"]])))
    report("stage", stage="scoring", done=len(job.sidecars), total=len(job.sidecars))
    if cut := judge.reader.cut_prompts(clip.record["prompt"] for clip, _ in scored):
        message = f"prompt_score does not count the end of {len(cut)} prompts, which the image-text model does not read"
        report("warning", message=f"{message}; the first is {cut[0]!r}.")
    found = summary(scored)
    if lonely := left_out([clip for clip, _ in scored]):
        report("warning", message=f"Clips without a counterpart, left out of the means: {lonely}.")
    for name, stages in found["identities"].items():
        if alarm := gap_alarm(stages):
            report("warning", message=f"{name}: {alarm}")
    if job.report:
        replace_file(Path(job.report), json.dumps(found, indent=1, ensure_ascii=False).encode())
    if job.sheet:
        write_contact_sheet(Path(job.sheet), sheet_rows([clip for clip, _ in scored], people))


def read_clip(sidecar: Path) -> Clip:
    """Raises InputRefused if it is no sidecar or there is no mp4, ClipBroken if that is not whole."""
    record = read_clip_record(sidecar)
    video = sidecar.with_suffix(".mp4")
    if not video.is_file():
        raise InputRefused(
            f"There is no {video.name} beside {sidecar}.",
            "Only clips rendered as mp4 can be scored.",
        )
    return Clip(record, frames_of(video))


class Evaluator:
    """The models that score a clip."""

    def __init__(self, job: EvaluateJob) -> None:
        rewards = job.identity_reward
        self.metric, self.reward = job.evaluation.recognizer, rewards.recognizer
        size, threshold = rewards.detection_size, rewards.detection_threshold
        recognizers = (self.metric, self.reward)
        package, threads = Path(rewards.package), job.model.threads
        self.analyzer = FaceAnalyzer(
            package, rewards.detector, recognizers, size, threshold, threads
        )
        self._references: dict[tuple[str, str], NDArray[np.float32]] = {}
        self.reader = PictureReader(job.semantic_reward, resolve_device(job.model.device))

    def scores(self, clip: Clip, person: IdentityRef) -> Scores:
        """Every metric of one clip, the likeness to `person`. Raises NotFinite if one is NaN or infinite."""
        faces = [largest(self.analyzer.detect(frame)) for frame in clip.frames]
        crops = [
            align(frame, face.landmarks)
            for frame, face in zip(clip.frames, faces, strict=True)
            if face
        ]
        found = [face is not None for face in faces]
        by_metric, by_reward = (
            self._likeness(crops, found, person, name) for name in (self.metric, self.reward)
        )
        points = [face.landmarks if face else None for face in faces]
        pictures = self.reader.pictures(clip.frames)
        scores = Scores(
            identity_similarity=float(by_metric.mean()),
            identity_similarity_min=float(by_metric.min()),
            reward_similarity=float(by_reward.mean()),
            gap=float(by_reward.mean() - by_metric.mean()),
            face_share=fmean(found),
            motion=landmark_motion(points, clip.frames.shape[2]),
            dense_motion=dense_motion(clip.frames),
            prompt_score=100
            * float((pictures @ self.reader.text(without_keyword(clip.record["prompt"]))).mean()),
            consistency=float((pictures[1:] * pictures[:-1]).sum(-1).mean())
            if len(pictures) > 1
            else 1.0,
        )
        bad = [
            name
            for name, value in asdict(scores).items()
            if value is not None and not math.isfinite(value)
        ]
        if bad:
            raise NotFinite(f"scores of a clip ({', '.join(bad)})", SCORERS)
        return scores

    def _likeness(
        self, crops: Sequence[Pixels], found: Sequence[bool], person: IdentityRef, recognizer: str
    ) -> NDArray[np.float32]:
        """Of each frame (frames,), 0 where no face was found."""
        likeness = np.zeros(len(found), np.float32)
        if crops:
            likeness[np.asarray(found)] = self.analyzer.embed(crops, recognizer) @ self._reference(
                person, recognizer
            )
        return likeness

    def _reference(self, person: IdentityRef, recognizer: str) -> NDArray[np.float32]:
        """The person's mean embedding, of unit length. Taken from the crops: they may be older than the recogniser."""
        if (person.folder, recognizer) not in self._references:
            crops = [
                np.asarray(read_picture(path))
                for path in sorted((Path(person.folder) / "faces").glob("*.png"))
            ]
            middle = self.analyzer.embed(crops, recognizer).mean(0)
            self._references[person.folder, recognizer] = middle / np.linalg.norm(middle)
        return self._references[person.folder, recognizer]


class PictureReader:
    """An open_clip model: unit embeddings of pictures and texts, each prepared as the model itself wants it."""

    def __init__(self, config: SemanticRewardConfig, device: torch.device) -> None:
        """Raises InputRefused if there is no such model, or if the weights are not its."""
        self._reader = ImageText(config, device)
        self._prepare: Any = image_transform_v2(
            PreprocessCfg(**self._reader.preparation), is_train=False
        )

    @torch.no_grad()
    def pictures(self, frames: Pixels) -> Tensor:
        """(frames, dimensions)"""
        prepared = torch.stack([self._prepare(Image.fromarray(frame)) for frame in frames])
        return self._reader.of_pictures(prepared).cpu()

    def text(self, prompt: str) -> Tensor:
        """(dimensions,)"""
        return self._reader.of_text(prompt).cpu()

    def cut_prompts(self, prompts: Iterable[str]) -> list[str]:
        """Return the prompts, each once, that are longer than the model's context."""
        return [
            prompt
            for prompt in dict.fromkeys(prompts)
            if self._reader.cuts(without_keyword(prompt))
        ]


def steadied(values: NDArray[np.float32]) -> NDArray[np.floating]:
    """Each frame but the first and the last, averaged 1 : 2 : 1 with its neighbours, along the first axis.

    What goes on from frame to frame stays; what comes and goes within one, a picture's flicker and a detector's
    trembling, falls to a third. Nobody would call it motion, and a clip that stands still is full of it.
    """
    return (values[:-2] + 2 * values[1:-1] + values[2:]) / 4


def landmark_motion(points: Sequence[NDArray[np.float32] | None], width: int) -> float | None:
    """How far landmarks (5, 2) go from one steadied frame to the next, in per cent of the width.

    None without four frames in a row that have them.
    """
    rows = [points[first : first + 4] for first in range(len(points) - 3)]
    pairs = [steadied(np.stack(row)) for row in map(_whole, rows) if row]
    steps = [float(np.linalg.norm(after - before, axis=-1).mean()) for before, after in pairs]
    return 100 * fmean(steps) / width if steps else None


def _whole(row: Sequence[NDArray[np.float32] | None]) -> list[NDArray[np.float32]]:
    found = [points for points in row if points is not None]
    return found if len(found) == len(row) else []


def dense_motion(frames: Pixels) -> float | None:
    """Mean optical flow between neighbouring steadied frames, in per cent of the width; None of fewer than four frames.

    Farnebäck 2003, with the settings of OpenCV's own example: its wide window follows shapes rather than noise.
    """
    import cv2

    if len(frames) < 4:
        return None
    greys = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    steady = steadied(greys.astype(np.float32)).round().astype(np.uint8)
    still = np.zeros((*greys.shape[1:], 2), np.float32)
    flows = [
        cv2.calcOpticalFlowFarneback(before, after, still.copy(), 0.5, 3, 15, 3, 5, 1.2, 0)
        for before, after in pairwise(steady)
    ]
    return (
        100
        * float(np.mean([np.linalg.norm(flow, axis=-1).mean() for flow in flows]))
        / frames.shape[2]
    )


def summary(scored: Sequence[tuple[Clip, Scores]]) -> dict[str, Any]:
    """The report: means by identity and stage, their mean over identities, and every clip.

    Where an identity has clips of both stages, its means are over the prompts and seeds that both have.
    """
    groups: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    pairs = comparable([clip for clip, _ in scored])
    for clip, scores in scored:
        if clip.pair in pairs[clip.record["identity"]]:
            groups[clip.record["identity"]][clip.stage].append(scores)
    identities = {
        name: compared({stage: mean(all_) for stage, all_ in by.items()})
        for name, by in groups.items()
    }
    stages = [
        stage for stage in ("before", "after") if any(stage in by for by in identities.values())
    ]
    overall = {
        stage: mean_numbers([by[stage] for by in identities.values() if stage in by])
        for stage in stages
    }
    clips = [{**facts_of(clip), **asdict(scores)} for clip, scores in scored]
    return {"identities": identities, "mean": overall, "clips": clips}


def comparable(clips: Sequence[Clip]) -> dict[str, set[tuple[str, int]]]:
    """For each identity the prompts and seeds that both stages have; all, where there is nothing to compare."""
    found: dict[str, dict[str, set[tuple[str, int]]]] = defaultdict(
        lambda: {"before": set(), "after": set()}
    )
    for clip in clips:
        found[clip.record["identity"]][clip.stage].add(clip.pair)
    return {
        name: by["before"] & by["after"] or by["before"] | by["after"] for name, by in found.items()
    }


def left_out(clips: Sequence[Clip]) -> int:
    """How many clips are in no mean, for want of the same prompt and seed in the other stage."""
    pairs = comparable(clips)
    return sum(clip.pair not in pairs[clip.record["identity"]] for clip in clips)


def facts_of(clip: Clip) -> dict[str, Any]:
    return {
        "stage": clip.stage,
        **{key: clip.record[key] for key in ("identity", "prompt", "seed")},
    }


def mean(scores: Sequence[Scores]) -> dict[str, float]:
    """The mean of each metric over clips; of the least similarity, the least."""
    numbers = mean_numbers([asdict(each) for each in scores])
    return {
        **numbers,
        "identity_similarity_min": min(each.identity_similarity_min for each in scores),
    }


def mean_numbers(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each key over the rows that have a number for it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [value for row in rows if (value := row.get(key)) is not None] for key in keys}
    return {key: fmean(column) for key, column in columns.items() if column}


def compared(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Add to 'after' how its motion compares with 'before' (ratios of means) and its obedience (points)."""
    before, after = stages.get("before"), stages.get("after")
    if before and after:
        for key in ("motion", "dense_motion"):
            if before.get(key) and key in after:
                after[f"{key}_ratio"] = after[key] / before[key]
        after["prompt_change"] = after["prompt_score"] - before["prompt_score"]
    return {stage: stages[stage] for stage in ("before", "after") if stage in stages}


def gap_alarm(stages: Mapping[str, Mapping[str, float]]) -> str | None:
    """A sentence, if the reward's recogniser sees far more likeness gained than the one that training never saw."""
    if not {"before", "after"} <= stages.keys():
        return None
    grown = stages["after"]["gap"] - stages["before"]["gap"]
    if grown < GAP_ALARM:
        return None
    return f"the reward's recogniser gained {grown:.2f} more than the independent one: look at the pictures."


def sheet_rows(clips: Sequence[Clip], people: Mapping[str, IdentityRef]) -> list[SheetRow]:
    """Two rows, before and after, for each of a person's first prompts and seeds; the reference first in each."""
    rows: list[SheetRow] = []
    for name, person in people.items():
        own = [clip for clip in clips if clip.record["identity"] == name]
        reference = np.asarray(read_picture(Path(person.folder) / "references/000.png"))
        for pair in list(dict.fromkeys(clip.pair for clip in own))[:CLIPS_ON_SHEET]:
            both = sorted(
                (clip for clip in own if clip.pair == pair), key=lambda clip: clip.stage != "before"
            )
            rows += [SheetRow(label(clip), [reference, *clip.frames]) for clip in both]
    return rows


def label(clip: Clip) -> str:
    prompt, seed = clip.pair
    return f"{clip.record['identity']}, {clip.stage}, seed {seed}: {without_keyword(prompt)}"
