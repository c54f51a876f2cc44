"""The items of a study as raters see them, read from its folder; they name no method."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvtool_core.errors import InputRefused, Missing, printable
from pvtool_core.untrusted import JOB_BYTES, parse_json, read_regular

PAGE, STUDY, CLIPS, PHOTOS = "index.html", "study.json", "clips", "photos"
FORMAT = "pv study 1"


@dataclass(frozen=True)
class Shown:
    """An item as raters see it.

    `clips` are file names in an order that says nothing; `again` is the item that this one repeats.
    """

    name: str
    photo: str
    prompt: str
    clips: tuple[str, ...]
    again: str = ""


@dataclass(frozen=True)
class Study:
    """A study as raters see it."""

    folder: Path
    name: str
    items: tuple[Shown, ...]

    def clip(self, name: str) -> Path:
        return self.folder / CLIPS / name

    def photo(self, item: Shown) -> Path:
        return self.folder / PHOTOS / item.photo


def read_study(folder: Path) -> Study:
    """Read what raters see. Raises Missing and InputRefused."""
    path = folder / STUDY
    try:
        record: Any = parse_json(read_regular(path, JOB_BYTES, follow=True))
        return _parse(folder, record)
    except FileNotFoundError as error:
        raise Missing(
            "study in the folder", str(folder), "Use a folder written by `pv study make`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputRefused(
            f"{printable(path)} does not describe a study.",
            "Use a folder written by `pv study make`.",
        ) from error


def _parse(folder: Path, record: Any) -> Study:
    if record["format"] != FORMAT:
        raise ValueError(record["format"])
    items = [
        Shown(
            each["name"],
            each["photo"],
            each["prompt"],
            tuple(each["clips"]),
            each.get("again", ""),
        )
        for each in record["items"]
    ]
    for name in (file for item in items for file in (*item.clips, item.photo)):
        if Path(name).name != name:  # would lead out of the folder
            raise ValueError(name)
    return Study(folder, record["study"], tuple(items))
