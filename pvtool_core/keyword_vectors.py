"""Keyword vectors of textual inversion: learned rows that the text encoder reads for <V>.

The vocabulary gets a token for each vector, named as by diffusers: `<v>`, `<v>_1`, … The text
encoder reads the vectors as further rows of its embedding table. Outside `acting()` tokenizer and
table are those of the base model.
"""

import copy
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvtool_core.adapter import AdapterMetadata, LoraLayout, read_tensors
from pvtool_core.adapter_files.vector_files import (
    MOST_VECTORS,
    TOKEN,
    VECTORS_FORMAT,
    no_strength,
    usage,
)
from pvtool_core.errors import InputRefused
from pvtool_core.store.events import LoraEvent
from pvtool_core.store.prompts import KEYWORD
from pvtool_core.tensor_files import save_tensors


class PromptEncoder:
    """Tokenizer and text encoder of a diffusers pipeline, in which keyword vectors can act.

    The vectors of `use` stand for the keyword until its next call.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._tokenizer: Any = pipeline.tokenizer
        self._extended_tokenizers: dict[int, Any] = {}
        self._table: Any = pipeline.text_encoder.get_input_embeddings()
        self.vectors: Tensor | None = None

    def mean_row(self, word: str) -> Tensor:
        """Return the mean row of the tokens of a word, in float32."""
        ids = self._tokenizer(word, add_special_tokens=False).input_ids
        return self._table.weight.detach()[ids].float().mean(0)

    def blank(self, count: int) -> Tensor:
        """Return `count` vectors of zeros."""
        rows = self._table.weight
        return torch.zeros(count, rows.shape[1], device=rows.device)

    def use(self, vectors: Tensor | None) -> None:
        """Read `vectors` (count, width) for the keyword, or the keyword itself with None."""
        tokenizer, table = self._tokenizer, self._table
        if vectors is not None:
            tokenizer = self._extended(len(vectors))
            table = _ExtendedTable(table, len(self._tokenizer), vectors)
        self._pipeline.tokenizer = tokenizer
        self._pipeline.text_encoder.set_input_embeddings(table)
        self.vectors = vectors

    def _extended(self, count: int) -> Any:
        """Return a copy of the tokenizer with the tokens of the vectors."""
        if count in self._extended_tokenizers:
            return self._extended_tokenizers[count]
        tokenizer = copy.deepcopy(self._tokenizer)
        tokens = [TOKEN, *(f"{TOKEN}_{number}" for number in range(1, count))]
        if tokenizer.add_tokens(tokens) != count:
            raise InputRefused(
                f"The tokenizer of the base model has the token {TOKEN} already.",
                "Use another base model for textual inversion.",
            )
        self._extended_tokenizers[count] = tokenizer
        return tokenizer

    def spelled(self, text: str) -> str:
        """Return a text with the token of the vectors that act in place of the keyword.

        The pipeline then adds the other tokens. It compares lower-case words.
        """
        return text if self.vectors is None else text.replace(KEYWORD, TOKEN)


class _ExtendedTable(nn.Module):
    """An embedding table, followed by vectors from id `first` on."""

    def __init__(self, table: nn.Module, first: int, vectors: Tensor) -> None:
        super().__init__()
        self._table, self._first = table, first
        self._vectors = (vectors,)  # not a parameter of this module, whose dtype is the table's

    def forward(self, ids: Tensor) -> Tensor:
        number = ids - self._first
        added = number >= 0
        rows = self._table(ids.masked_fill(added, 0))
        vectors = self._vectors[0][number.clamp(min=0)].to(rows.dtype)
        return torch.where(added[..., None], vectors, rows)


class KeywordVectors:
    """`Adapter` of textual inversion: vectors (count, width) that stand for the keyword."""

    def __init__(self, encoder: PromptEncoder, vectors: Tensor) -> None:
        self._encoder, self._loaded_keys = encoder, 0
        self.vectors = nn.Parameter(vectors)

    def parameters(self) -> list[nn.Parameter]:
        """Return the vectors, in float32."""
        return [self.vectors]

    @contextmanager
    def acting(self, on: bool = True) -> Generator[None]:
        """Let the vectors stand for the keyword in prompts that are encoded meanwhile."""
        before = self._encoder.vectors
        self._encoder.use(self.vectors if on else None)
        try:
            yield
        finally:
            self._encoder.use(before)

    def set_strength(self, strength: float) -> None:
        """Accept 1 only: vectors stand for the keyword or do not. Raises InputRefused."""
        if strength != 1:
            raise no_strength(strength)

    def remove(self) -> None:
        """Take the vectors out of the text encoder."""
        self._encoder.use(None)

    def save(self, path: Path, layout: LoraLayout, terms: AdapterMetadata) -> None:
        """Write the vectors as diffusers, ComfyUI and others read them: one tensor.

        `layout` has names of LoRA layers, of which there are none.
        """
        vectors = self.vectors.detach().cpu().contiguous()
        described = {key: value for key, value in terms.metadata().items() if "comfyui" not in key}
        described |= {"format": VECTORS_FORMAT, "how_to_use": usage(len(vectors), terms.keyword)}
        save_tensors(path, {TOKEN: vectors}, described)

    def load(self, path: Path, layout: LoraLayout) -> None:
        """Load the vectors of a file that `save` wrote. Raises InputRefused if they do not fit."""
        vectors = _read_vectors(path)
        if vectors.shape != self.vectors.shape:
            found, expected = (" × ".join(map(str, each.shape)) for each in (vectors, self.vectors))
            raise InputRefused(
                f"The adapter {path} does not fit this model: its vectors are {found}, "
                f"not {expected}.",
                "Use the base model of its run.",
            )
        self.vectors.data.copy_(vectors)
        self._loaded_keys = len(vectors)

    def loaded_event(self, name: str) -> LoraEvent:
        """Return the event of the last `load`; its keys are the vectors."""
        keys = self._loaded_keys
        return LoraEvent(role="adapter", name=name, keys=keys, matched=keys)


def new_vectors(encoder: PromptEncoder, count: int, noun: str) -> KeywordVectors:
    """Return `count` equal vectors: the row of the class noun, or the mean row of its tokens."""
    return KeywordVectors(encoder, encoder.mean_row(noun).repeat(count, 1))


def load_vectors(path: Path, encoder: PromptEncoder | None, layout: LoraLayout) -> KeywordVectors:
    """Return the vectors of a file. Raises InputRefused if they do not fit the text encoder."""
    if encoder is None:
        raise InputRefused(
            f"The adapter {path} does not fit this model, which has no text encoder for keyword "
            "vectors.",
            "Use the base model of its run.",
        )
    loaded = KeywordVectors(encoder, encoder.blank(len(_read_vectors(path))))
    loaded.load(path, layout)
    return loaded


def _read_vectors(path: Path) -> Tensor:
    """Return the tensor of a file (count, width). Raises InputRefused for other files."""
    vectors = read_tensors(path, VECTORS_FORMAT).get(TOKEN)
    if vectors is None or vectors.ndim != 2 or not 1 <= len(vectors) <= MOST_VECTORS:
        raise InputRefused(f"The adapter {path} has no keyword vectors.", "Copy it again.")
    return vectors
