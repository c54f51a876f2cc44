"""The page: a report's tables, curves and clips in one HTML file that loads nothing else.

The content security policy allows the script and the style of this package by their hashes, and
media in the page only.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from pvtool_core.errors import BadPicture, UsageError, printable
from pvtool_core.files import replace_file
from pvtool_core.report_page import gallery, tables
from pvtool_core.report_page.curves import curves
from pvtool_core.report_page.embed import embed_photo
from pvtool_core.report_page.gallery import Gallery
from pvtool_core.report_page.markup import Html, element, join
from pvtool_core.report_page.numbers import count_of
from pvtool_core.report_page.report_format import (
    VERSION,
    EvaluationReport,
    definition,
    main_metric,
    ordered_methods,
    sortable_metrics,
)

MOST_CLIPS = 120
MOST_MEGABYTES = 100
KEYS = {
    "j": "next group",
    "k": "previous group",
    "Space": "play or pause the group",
    "a": "play or pause all groups",
    ".": "next frame",
    ",": "previous frame",
    "w": "worst frame; again: that of the next clip",
    "?": "this help",
}


def write_page(
    report: EvaluationReport,
    references: Mapping[str, Path],
    out: Path,
    *,
    title: str = "Evaluation",
    most_clips: int = MOST_CLIPS,
    most_megabytes: int = MOST_MEGABYTES,
) -> None:
    """Write a report with its clips and photos as one HTML file.

    Only the owner can read a new file, since it contains photos of people. Clips above a limit,
    and those that cannot be read, are listed on the page.

    Args:
        report: Content of report.json.
        references: Reference photo by identity; those of other identities are not shown.
        out: The file; an existing one is replaced.
        title: Heading of the page.
        most_clips: Limit of the number of clips on the page.
        most_megabytes: Limit of the size of all clips on the page, in 10^6 bytes.

    Raises:
        UsageError: The report has another version.
        FfmpegMissing: No working ffmpeg was found.
        OSError: The file cannot be written.
    """
    if report["version"] != VERSION:
        raise UsageError(
            f"Unsupported version {report['version']} of the report: expected {VERSION}.",
            "Run `pv eval` again.",
        )
    photos, problems = _photos(references)
    clips = gallery.fill(report, most_clips, most_megabytes * 10**6)
    parts = [*_sections(report, title, photos, problems, clips), _help()]
    write_document(out, title, parts, script=_own_file("page.js"))


def write_document(
    out: Path, title: str, parts: Iterable[Html], *, script: str, style: str = ""
) -> None:
    """Write a page with the style of reports, and `style` after it, as one HTML file.

    Only the owner can read a new file. Nothing but this script, this style and data in the page is
    loaded.
    """
    style = _own_file("page.css") + style
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script, style)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", script_text(style)),
    )
    body = element(
        "body",
        *parts,
        element("script", script_text(script)),
    )
    page = Html(f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n")
    replace_file(out, page.encode(errors="backslashreplace"), mode=0o600)


def script_text(text: str) -> Html:
    """Return a script or style of this package, in which nothing may be escaped."""
    return Html(text)


def _own_file(name: str) -> str:
    return files("pvtool_core.report_page").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    script_hash, style_hash = (
        b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)
    )
    return (
        f"default-src 'none'; script-src 'sha256-{script_hash}'; style-src 'sha256-{style_hash}'; "
        "img-src data:; media-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _photos(references: Mapping[str, Path]) -> tuple[dict[str, Html], list[str]]:
    """Return images by identity, and messages about photos that cannot be read."""
    photos: dict[str, Html] = {}
    problems: list[str] = []
    for identity, path in references.items():
        try:
            photos[identity] = element(
                "img", src=embed_photo(path), alt=f"Reference photo of {identity}"
            )
        except BadPicture as error:
            problems.append(f"The reference photo of {identity} is not shown: {error.message}")
    return photos, problems


def _sections(
    report: EvaluationReport,
    title: str,
    photos: Mapping[str, Html],
    problems: Iterable[str],
    clips: Gallery,
) -> list[Html]:
    notes = [element("p", each, class_="note") for each in problems]
    alarms = [element("li", each) for each in (*report.get("alarms", ()), *_of_each(report))]
    failed = [
        element("li", element("code", printable(each["file"], whole=True)), f" {each['reason']}")
        for each in report.get("failed", ())
    ]
    without_script = element("noscript", element("p", "JavaScript plays the clips.", class_="note"))
    shown = element("div", gallery.groups(report, clips, photos), id="groups")
    identities = [_of_photos(report), tables.identities(report, photos)]
    training = [curves(report)] if report.get("checkpoints") else []
    players = [gallery.left_out(clips), *notes, without_script, _toolbar(report, clips), shown]
    skipped = [tables.skipped(report)] if report.get("skipped") else []
    parts = [
        ("warnings", "Warnings", [element("ul", *alarms)] if alarms else []),
        ("results", "Results", [_reading(report), tables.results(report)]),
        ("identities", "Identities", identities if report["identities"] else []),
        ("training", "Training", training),
        ("clips", "Clips", players if report["clips"] else []),
        ("failed", "Clips that could not be scored", [element("ul", *failed)] if failed else []),
        ("skipped", "Metrics that were not measured", skipped),
    ]
    sections = [
        element("section", element("h2", name), *content, id=place)
        for place, name, content in parts
        if content
    ]
    definitions = element(
        "details",
        element("summary", element("h2", "Definitions of the metrics")),
        tables.definitions(report),
        class_="definitions",
    )
    return [
        element("header", element("h1", title), _compared(report), class_="page"),
        element("main", *sections, definitions),
    ]


def _compared(report: EvaluationReport) -> Html:
    """Return the subject of the report: methods, and numbers of clips, identities and prompts."""
    methods = [
        join([tables.swatch(place), element("bdi", name), _clips_of(report, name)])
        for place, name in enumerate(ordered_methods(report))
    ]
    counts = [
        count_of(len(report["clips"]), "clip"),
        count_of(len({clip["identity"] for clip in report["clips"]}), "identity", "identities"),
        count_of(len({clip["prompt"] for clip in report["clips"]}), "prompt"),
        count_of(len({clip["seed"] for clip in report["clips"]}), "seed"),
    ]
    return element(
        "div",
        element("ul", *(element("li", each) for each in methods), class_="methods"),
        element("p", ", ".join(counts), "."),
        element(
            "p",
            "All clips were generated by AI. This page contains photos and likenesses of people: "
            "share it only as they agreed to.",
            class_="private",
        ),
    )


def _clips_of(report: EvaluationReport, method: str) -> Html:
    role = " · reference" if method == report["reference"] else ""
    return element("small", f"{count_of(report['methods'][method]['clips'], 'clip')}{role}")


def _reading(report: EvaluationReport) -> Html:
    text = "Mean and 95 % interval of each metric."
    if report["reference"] is not None:
        text += (
            f" Differences are from {report['reference']}, over clips of the same identity, prompt "
            "and seed; they are not significant if their interval contains 0."
        )
    return element("p", text)


def _of_each(report: EvaluationReport) -> list[str]:
    """Return the alarms of each identity alone, if there are several."""
    people = report["identities"]
    if len(people) < 2:
        return []
    return [f"{name}: {each}" for name, own in people.items() for each in own.get("alarms", ())]


def _of_photos(report: EvaluationReport) -> Html:
    photos = [scores.get("photos", {}) for scores in report["identities"].values()]
    if all(each.get("ceiling") is None for each in photos):
        return Html()
    text = (
        "Below each photo: the mean likeness of the identity's own photos to each other. More "
        "likeness than that in a clip suggests a copied photo."
    )
    return element("p", text)


def _toolbar(report: EvaluationReport, clips: Gallery) -> Html:
    """Return the controls of all groups; the script shows them."""
    identities = dict.fromkeys(group.clips[0]["identity"] for group in clips.shown)
    main = main_metric(report)
    metrics = sorted(sortable_metrics(report), key=lambda name: name != main)
    orders: list[Html] = []
    for name in metrics:
        info = definition(report, name)
        signs = (1, -1) if info["better"] == "higher" else (-1, 1)
        orders += [
            element(
                "option",
                f"{info['label']}{' (reward)' if info['reward'] else ''}, {what} first",
                data_metric=name,
                data_sign=sign,
            )
            for what, sign in zip(("worst", "best"), signs, strict=True)
        ]
    methods = [
        element(
            "label",
            element("input", type="checkbox", class_="method", value=name, checked=True),
            tables.swatch(place),
            element("bdi", name),
        )
        for place, name in enumerate(ordered_methods(report))
    ]
    everyone = element("option", "all", value="")
    people = (element("option", name, value=f"={name}") for name in identities)
    return element(
        "div",
        element("button", "Play all", type="button", id="play-all"),
        element("label", "Identity ", element("select", everyone, *people, id="identity")),
        element(
            "label",
            "Sort by ",
            element("select", *orders, element("option", "order of the report"), id="order"),
        ),
        element("fieldset", element("legend", "Methods"), *methods),
        element("output", "", id="count"),
        element("button", "Keys (?)", type="button", id="open-help"),
        id="toolbar",
        hidden=True,
    )


def _help() -> Html:
    rows = (
        element("tr", element("th", element("kbd", key), scope="row"), element("td", text))
        for key, text in KEYS.items()
    )
    return element(
        "dialog",
        element("h2", "Keyboard", id="help-title"),
        element("table", *rows, class_="plain"),
        element(
            "label",
            element("input", type="checkbox", id="shortcuts", checked=True),
            " use these keys",
        ),
        element("form", element("button", "Close", autofocus=True), method="dialog"),
        id="help",
        aria_labelledby="help-title",
    )
