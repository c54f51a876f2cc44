"""`pv study`: a blind human study that compares clips of several methods."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pvtool.cli.options import Images, Json
from pvtool.output import Output, on_terminal, progress
from pvtool.tables import Table
from pvtool.text import shown
from pvtool_core.errors import UsageError
from pvtool_core.paths import check_utf8

if TYPE_CHECKING:
    from pvtool_core.study.session import Session

app = typer.Typer(
    help="Blind human study: compare clips of several methods.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)

StudyFolder = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the study.", show_default=False)
]


@app.command()
def make(
    out: StudyFolder,
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=DIR,...",
            help="Methods and their folders of clips, written by `pv render`; can be repeated.",
            show_default=False,
        ),
    ],
    sets: Annotated[
        int, typer.Option(min=1, help="Number of sets: an identity, a prompt and a seed.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Random seed of the choice of sets.")] = 0,
    photo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IDENTITY=FILE",
            help="Reference photo of an identity; can be repeated. [default: from the library]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a folder for raters: a page with pairs of clips, without the names of methods.

    The folder contains reference photos and clips of persons: hand it only to raters. The names of
    the methods are in OUT.key.json beside it: keep this file from raters.
    """
    from pvtool_core.study.study_folder import make_study
    from pvtool_core.study.study_items import PAGE
    from pvtool_core.study.study_key import CHECKS, Kind, key_path

    folders = _pairs("--methods", [part for word in methods for part in word.split(",")])
    photos = _pairs("--photo", photo or [])
    place = check_utf8(out.absolute())
    output = Output(as_json)
    with progress() as bar:
        key = make_study(
            place,
            folders,
            sets,
            seed,
            photos,
            lambda done, total: bar.update("clips", done, total),
        )
    kinds = [item.kind for item in key.items]
    counts = {
        "sets": kinds.count(Kind.SET),
        "checks": sum(kind in CHECKS for kind in kinds),
        "repeats": kinds.count(Kind.REPEAT),
    }
    people = sorted({item.identity for item in key.items})
    text = (
        f"Page: {shown(place / PAGE)} ({len(kinds)} pairs; sets: {counts['sets']}, "
        f"checks: {counts['checks']}, repeats: {counts['repeats']})\n"
        f"Key, not for raters: {shown(key_path(place))}"
    )
    output.say(
        f"The folder contains reference photos and clips of {', '.join(people)}: hand it only to "
        "raters, and delete it after the study."
    )
    paths = {"page": str(place / PAGE), "key": str(key_path(place))}
    value = {"study": key.study, "methods": list(key.methods), "identities": people}
    output.result({**value, **counts, **paths}, text)


def _pairs(option: str, words: list[str]) -> dict[str, Path]:
    """Parse NAME=PATH. Raises UsageError."""
    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = (part.strip() for part in word.partition("="))
        if not (name and equals and path):
            raise UsageError(f"Invalid {option} {word!r}.", f"Use {option} NAME=PATH.")
        if name in found:
            raise UsageError(f"{option} names {name!r} twice.", "Use different names.")
        found[name] = Path(path).expanduser().absolute()
    return found


@app.command()
def take(
    out: StudyFolder,
    rater: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name in the answers, better no real one; the same name continues. "
            "[default: random]",
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the answers. [default: answers-NAME.json]"),
    ] = None,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Answer a study in the terminal, with Kitty graphics or the system's player.

    Answers are saved after each pair, and the same command with --rater continues.
    """
    from pvtool_core.study.answers import RATER
    from pvtool_core.study.session import Session
    from pvtool_core.study.study_items import PAGE, read_study

    study = read_study(out.absolute())
    if not on_terminal():
        raise UsageError(
            "`pv study take` needs a terminal.", f"Or open {shown(study.folder / PAGE)}."
        )
    name = rater or secrets.token_hex(4)
    if not RATER.fullmatch(name):
        raise UsageError(
            f"Invalid --rater {name!r}.", "Use 1 to 64 of the letters a to z, digits, '-' and '_'."
        )
    file = check_utf8((answers or Path(f"answers-{name}.json")).absolute())
    session = Session(study, name, file)
    _ask(session, images)
    done, total = session.position, len(session.screens)
    text = (
        f"Answers: {shown(file)}"
        if done == total
        else f"Answered {done} of {total} pairs. Continue with `--rater {name}`."
    )
    value = {"rater": name, "answers": str(file), "answered": done, "pairs": total}
    Output(as_json).result(value, text)


def _ask(session: "Session", images: str | None) -> None:
    """Show the pairs with Kitty graphics if the terminal has them, otherwise in the player."""
    from pvtool.terminal import Pictures, prepare, probe

    terminal = probe(images)
    if terminal.pictures is Pictures.KITTY:
        prepare(terminal)
        from pvtool.dashboard.rating import RatingApp

        RatingApp(terminal, session).run()
    else:
        from pvtool.cli.study_prompts import ask_in_terminal

        ask_in_terminal(session, Output())


@app.command()
def report(
    out: StudyFolder,
    answers: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS...", help="Files of answers, one per rater.", show_default=False
        ),
    ],
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key of the study. [default: OUT.key.json]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Report win rates with intervals, scores, agreement, and raters who failed checks."""
    from pvtool_core.study.answers import read_all_answers
    from pvtool_core.study.study_key import key_path, read_key
    from pvtool_core.study.study_report import study_report

    known = read_key(key.absolute() if key else key_path(out.absolute()))
    found = study_report(known, [*read_all_answers(answers, known).values()], seed)
    Output(as_json).result(found, *_report_parts(found))


def _report_parts(found: dict[str, Any]) -> list[str | Table]:
    raters = [
        [
            row["rater"],
            str(row["sets"]),
            f"{len(row['failed_checks'])} of {row['checks']}",
            _percent(row["equal_repeats"]),
            "excluded" if row["excluded"] else "",
        ]
        for row in found["raters"]
    ]
    rates = [
        [
            question,
            f"{pair['a']} over {pair['b']}",
            _percent(pair["win_rate"]),
            _interval(pair),
            f"{pair['wins']}/{pair['ties']}/{pair['losses']}",
            f"{pair['sign_test_p']:.3g}",
            _number(table_["alpha"]),
        ]
        for question, table_ in found["questions"].items()
        for pair in table_["pairs"]
    ]
    columns = ["question", "methods", "win rate", "95 %", "win/tie/loss", "sign test p", "alpha"]
    parts: list[str | Table] = [
        Table(["rater", "sets", "failed checks", "equal repeats", ""], raters),
        Table(columns, rates, optional=["alpha", "sign test p"]),
    ]
    if len(found["methods"]) > 2:
        scores = [
            [question, *(_number((table_["scores"] or {}).get(name)) for name in found["methods"])]
            for question, table_ in found["questions"].items()
        ]
        parts += ["Rao-Kupper scores", Table(["question", *found["methods"]], scores)]
    return [*parts, found["note"]]


def _interval(pair: dict[str, Any]) -> str:
    return "" if pair["low"] is None else f"{_percent(pair['low'])} to {_percent(pair['high'])}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
