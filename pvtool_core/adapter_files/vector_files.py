"""Files of keyword vectors (textual inversion), recognised and described without torch."""

from dataclasses import dataclass
from pathlib import Path

from pvtool_core.errors import UsageError
from pvtool_core.models.integrity import read_header
from pvtool_core.store.prompts import KEYWORD
from pvtool_core.untrusted import is_file

VECTORS_FORMAT = "pv keyword vectors 1"
TOKEN = KEYWORD.lower()
"""Name of the tensor in a file, and of the first token.

diffusers takes the token from it, and finds a token that has capitals in no prompt: CLIP's
tokenizer compares lower-case words.
"""
MOST_VECTORS = 64
"""Largest number of vectors; CLIP reads 75 tokens of a prompt."""


@dataclass(frozen=True)
class VectorFile:
    """The shape of a file's vectors, and the keyword that they stand for in prompts."""

    count: int
    width: int
    keyword: str

    @property
    def text(self) -> str:
        """What the file has, as shown by `pv runs show`."""
        return f"{self.count} of width {self.width}, which stand for {self.keyword} in prompts"


def read_vector_file(file: Path) -> VectorFile | None:
    """Return the description of a file of keyword vectors; None for any other file."""
    try:
        header = read_header(file) if is_file(file) else None
    except (OSError, ValueError):
        return None
    if header is None or header.metadata.get("format") != VECTORS_FORMAT:
        return None
    shape = header.shapes.get(TOKEN, ())
    if len(shape) != 2 or not 1 <= shape[0] <= MOST_VECTORS:
        return None
    return VectorFile(*shape, keyword=header.metadata.get("keyword", KEYWORD))


def vector_count(file: Path) -> int:
    """Return the number of vectors in an adapter file; 0 for a LoRA."""
    found = read_vector_file(file)
    return found.count if found else 0


def no_strength(strength: float) -> UsageError:
    """Return the error for a strength other than 1."""
    return UsageError(
        f"Keyword vectors of textual inversion have no strength, but {strength:g} was given.",
        "Omit the strength: vectors stand for the keyword or do not.",
    )


def usage(count: int, keyword: str) -> str:
    """Return how other programs use a file, for their users."""
    return (
        f"{count} vectors stand for {keyword} in prompts, before the class noun, in all denoising "
        f"steps. diffusers: load_textual_inversion, with {TOKEN} in prompts in place of {keyword} "
        "and the scheduler in `sampler`. ComfyUI: copy the file to models/embeddings, and write "
        f"embedding:FILE in place of {keyword}."
    )
