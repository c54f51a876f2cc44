"""Fill the page of a study: one HTML file that needs no server and no network."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pvtool_core.study.answers import ANSWERS_FORMAT
from pvtool_core.study.questions import QUESTIONS

_TEMPLATE = Path(__file__).with_name("page.html")


def page(study: Mapping[str, Any]) -> str:
    """Return the page for the record in study.json."""
    questions = [asdict(question) for question in QUESTIONS]
    data = {**study, "questions": questions, "answers_format": ANSWERS_FORMAT}
    # "<" as an escape, so that no text in the data ends the script element
    text = json.dumps(data).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("/*STUDY*/", text)
