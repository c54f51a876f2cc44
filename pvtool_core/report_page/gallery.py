"""The clips of a report: groups of one identity, prompt and seed, with one clip per method."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from statistics import fmean

from pvtool_core.errors import PvError, printable
from pvtool_core.media.ffmpeg import ClipBroken, CodecMissing
from pvtool_core.report_page import tables
from pvtool_core.report_page.embed import EmbeddedClip, embed_clip
from pvtool_core.report_page.markup import Html, element, join
from pvtool_core.report_page.numbers import count_of, decimals, known, number
from pvtool_core.report_page.report_format import (
    EvaluationReport,
    ScoredClip,
    WorstFrame,
    definition,
    main_metric,
    ordered_methods,
    sortable_metrics,
)

_DEFAULT_FPS = 8.0
_READERS = 4


@dataclass(frozen=True)
class Group:
    """Clips of one identity, prompt and seed, in the order of methods.

    Attributes:
        place: Number in the order of the report, from 1.
        scores: Mean of each sortable metric over the clips of all methods but the reference.
    """

    place: int
    clips: Sequence[ScoredClip]
    scores: Mapping[str, float]


@dataclass
class Gallery:
    """The groups that are on the page with their clips, and what was left out.

    Attributes:
        shown: Groups, those with the lowest main score first.
        clips: Embedded clips by file.
        over_limit: Groups that would have exceeded a limit of the page.
        unplayable: Reasons by file of clips that could not be embedded.
    """

    shown: list[Group] = field(default_factory=list[Group])
    clips: dict[str, EmbeddedClip] = field(default_factory=dict[str, EmbeddedClip])
    over_limit: list[Group] = field(default_factory=list[Group])
    unplayable: dict[str, str] = field(default_factory=dict[str, str])


def groups_of(report: EvaluationReport) -> list[Group]:
    """Return the groups of a report, those with the worst main score first."""
    methods = {name: place for place, name in enumerate(ordered_methods(report))}
    found: dict[tuple[str, str, int], list[ScoredClip]] = defaultdict(list)
    for clip in report["clips"]:
        found[clip["identity"], clip["prompt"], clip["seed"]].append(clip)
    metrics = sortable_metrics(report)
    groups: list[Group] = []
    for place, clips in enumerate(found.values(), start=1):
        ordered = sorted(clips, key=lambda clip: methods.get(clip["method"], len(methods)))
        groups.append(Group(place, ordered, _scores(ordered, report["reference"], metrics)))
    main = main_metric(report)
    sign = -1 if main and definition(report, main)["better"] == "lower" else 1
    return sorted(
        groups,
        key=lambda group: (main not in group.scores, sign * group.scores.get(main or "", 0.0)),
    )


def _scores(
    clips: Sequence[ScoredClip], reference: str | None, metrics: Sequence[str]
) -> dict[str, float]:
    judged = [clip for clip in clips if clip["method"] != reference] or clips
    columns = {metric: known(clip["scores"].get(metric) for clip in judged) for metric in metrics}
    return {metric: fmean(values) for metric, values in columns.items() if values}


def fill(report: EvaluationReport, most_clips: int, most_bytes: int) -> Gallery:
    """Embed clips up to both limits: the worst group, the best one, and evenly between them."""
    groups = groups_of(report)
    gallery, size = Gallery(), 0
    for place in spread(len(groups)):
        group = groups[place]
        if gallery.over_limit or len(gallery.clips) + len(group.clips) > most_clips:
            gallery.over_limit.append(group)
            continue
        embedded = _embed(group, gallery.unplayable)
        more = sum(len(clip.source) + len(clip.poster) for clip in embedded.values())
        if size + more > most_bytes:
            gallery.over_limit.append(group)
            continue
        size += more
        gallery.clips |= embedded
        gallery.shown.append(group)
    gallery.shown.sort(key=groups.index)
    return gallery


def spread(count: int) -> Iterator[int]:
    """Yield 0 to count - 1 in an order of which every beginning is spread over the range."""
    ends = [place for place in (0, count - 1) if 0 <= place < count]
    yield from dict.fromkeys(ends)
    spans = [(0, count - 1)]
    while spans:
        halves: list[tuple[int, int]] = []
        for low, high in spans:
            middle = (low + high) // 2
            if low < middle < high:
                yield middle
                halves += [(low, middle), (middle, high)]
        spans = halves


def _embed(group: Group, unplayable: dict[str, str]) -> dict[str, EmbeddedClip]:
    def attempt(clip: ScoredClip) -> EmbeddedClip | PvError:
        try:
            return embed_clip(Path(clip["file"]), clip["fps"] or _DEFAULT_FPS)
        except (ClipBroken, CodecMissing) as error:
            return error

    embedded: dict[str, EmbeddedClip] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for clip, outcome in zip(group.clips, pool.map(attempt, group.clips), strict=True):
            if isinstance(outcome, EmbeddedClip):
                embedded[clip["file"]] = outcome
            else:
                unplayable[clip["file"]] = outcome.message
    return embedded


def groups(report: EvaluationReport, gallery: Gallery, photos: Mapping[str, Html]) -> Html:
    """Return the markup of all groups; `photos` are images by identity."""
    return join(_group(report, group, gallery, photos) for group in gallery.shown)


def _group(
    report: EvaluationReport, group: Group, gallery: Gallery, photos: Mapping[str, Html]
) -> Html:
    first = group.clips[0]
    name = f"group-{group.place}"
    title = element(
        "h3",
        element("a", f"#{group.place}", href=f"#{name}"),
        " ",
        element("bdi", first["identity"]),
        element("small", f"seed {first['seed']}"),
        id=f"{name}-title",
    )
    photo = photos.get(first["identity"])
    figures = [_figure(report, clip, gallery) for clip in group.clips]
    if photo:
        caption = element("figcaption", element("b", "reference photo"))
        figures.insert(0, element("figure", photo, caption, class_="photo"))
    columns = [(clip["method"], clip["scores"]) for clip in group.clips]
    return element(
        "article",
        element("header", title, element("p", first["prompt"], class_="prompt", dir="auto")),
        element("div", *figures, class_="clips"),
        _controls(group),
        element("details", element("summary", "All scores"), tables.scores(report, columns)),
        class_="group",
        id=name,
        tabindex="-1",
        aria_labelledby=f"{name}-title",
        data_identity=first["identity"],
        data_place=group.place,
        data_scores=json.dumps(dict(group.scores)),
    )


def _controls(group: Group) -> Html:
    last = max(clip["frames"] for clip in group.clips) - 1
    return element(
        "div",
        element("button", "Play", type="button", class_="play"),
        element("button", "‹", type="button", class_="back", aria_label="Previous frame"),
        element("input", type="range", min="0", max=last, value="0", aria_label="Frame"),
        element("button", "›", type="button", class_="next", aria_label="Next frame"),
        element("output", "1"),
        class_="controls",
    )


def _figure(report: EvaluationReport, clip: ScoredClip, gallery: Gallery) -> Html:
    methods = ordered_methods(report)
    color = methods.index(clip["method"]) if clip["method"] in methods else 0
    embedded = gallery.clips.get(clip["file"])
    caption = element(
        "figcaption",
        element("span", tables.swatch(color), element("b", element("bdi", clip["method"]))),
        _main_score(report, clip),
        _worst_button(clip["worst_frame"]) if embedded and clip["worst_frame"] else "",
        element("small", "encoded again") if embedded and embedded.recoded else "",
    )
    return element(
        "figure",
        *(
            _player(clip, embedded)
            if embedded
            else [element("p", "cannot be played", class_="missing")]
        ),
        caption,
        data_method=clip["method"],
        data_reference=clip["method"] == report["reference"],
    )


def _player(clip: ScoredClip, embedded: EmbeddedClip) -> list[Html]:
    video = element(
        "video",
        poster=embedded.poster,
        data_src=embedded.source,
        data_fps=clip["fps"] or _DEFAULT_FPS,
        data_frames=clip["frames"],
        preload="none",
        muted=True,
        playsinline=True,
        aria_label=f"Clip of {clip['method']}",
    )
    marks = [element("rect", x="0", y="0", width="1", height="1", class_="cursor")]
    if worst := clip["worst_frame"]:
        marks.insert(
            0, element("rect", x=worst["index"], y="0", width="1", height="1", class_="worst")
        )
    strip = element(
        "svg",
        *marks,
        viewBox=f"0 0 {clip['frames']} 1",
        preserveAspectRatio="none",
        class_="strip",
        aria_hidden="true",
    )
    return [video, strip]


def _main_score(report: EvaluationReport, clip: ScoredClip) -> Html:
    main = main_metric(report)
    if main is None:
        return Html()
    value = clip["scores"].get(main)
    return element(
        "span", f"{definition(report, main)['label']} {number(value, decimals([value]))}"
    )


def _worst_button(worst: WorstFrame) -> Html:
    text = f"worst frame {worst['index'] + 1}: {number(worst['likeness'], 3)}"
    return element(
        "button",
        text,
        type="button",
        class_="worst",
        data_frame=worst["index"],
        data_likeness=worst["likeness"],
        title=f"Show it, at {worst['time']:.2f} s",
    )


def left_out(gallery: Gallery) -> Html:
    """Return the clips that are not on the page, and the reason; empty if all clips are."""
    parts: list[Html] = []
    if gallery.over_limit:
        files = [clip["file"] for group in gallery.over_limit for clip in group.clips]
        total = len(gallery.over_limit) + len(gallery.shown)
        text = (
            f"This page has a size limit and shows {len(gallery.shown)} of {total} groups of "
            "clips: the worst, the best, and evenly between them. All clips are in the tables."
        )
        parts.append(
            _files(text, f"{count_of(len(files), 'clip')} left out", dict.fromkeys(files, ""))
        )
    if gallery.unplayable:
        text = "Some clips cannot be shown."
        parts.append(_files(text, count_of(len(gallery.unplayable), "clip"), gallery.unplayable))
    return join(parts)


def shown_file(file: str) -> str:
    """Return the end of a path, as IDENTITY/PROMPT/FILE: the page may be sent to others."""
    return printable(str(PurePath(*PurePath(file).parts[-3:])), whole=True)


def _files(text: str, title: str, reasons: Mapping[str, str]) -> Html:
    items = [
        element("li", element("code", shown_file(file)), f" {reason}")
        for file, reason in reasons.items()
    ]
    listed = element("details", element("summary", title), element("ul", *items))
    return element("div", element("p", text), listed, class_="note")
