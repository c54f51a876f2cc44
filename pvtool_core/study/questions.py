"""The four questions of the study (PersonalVideo, section 5.4), and the possible answers."""

from dataclasses import dataclass
from enum import StrEnum


class Choice(StrEnum):
    """An answer to one question: a side, or no difference."""

    LEFT = "left"
    TIE = "tie"
    RIGHT = "right"


@dataclass(frozen=True)
class Question:
    """A question: its name in files, its title, and its text for raters."""

    name: str
    title: str
    text: str


QUESTIONS = (
    Question(
        "identity_fidelity",
        "Identity Fidelity",
        "In which clip does the person look more like the reference photo?",
    ),
    Question("text_alignment", "Text Alignment", "Which clip matches the description better?"),
    Question("dynamic_degree", "Dynamic Degree", "Which clip has more motion?"),
    Question("overall_quality", "Overall Quality", "Which clip is better as a whole?"),
)
