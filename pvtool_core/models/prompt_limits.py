"""Token limits of text encoders: diffusers truncates longer prompts without an error.

Tokens are counted with the base model's own tokenizer, by the `tokenizers` library alone, so that
the front end can warn before an engine is started.
"""

import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtool_core.errors import BadPrompt, WeightsMissing
from pvtool_core.models.locate import resolve
from pvtool_core.paths import presets_dir
from pvtool_core.settings.families import FAMILIES
from pvtool_core.settings.references import load_named
from pvtool_core.settings.schema import ModelConfig
from pvtool_core.store.events import Report, WarningEvent
from pvtool_core.store.prompts import KEYWORD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_REPORTED = 50  # the number of prompts in a shipped bank
_CLIP_TOKENS = 77
_T5_TOKENS = 226  # max_sequence_length of ConsisIDPipeline
_UMT5_TOKENS = 512  # length to which WanPipeline truncates and pads
LLAMA_TOKENS = (
    256 + 95
)  # of HunyuanVideoPipeline.encode_prompt: the prompt, and the template before it
LLAMA_BEFORE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the "
    "following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the "
    "objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
LLAMA_AFTER = "<|eot_id|>"
_CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True)
class Cut:
    """A prompt or negative prompt that an encoder truncates.

    The part `lost` is beyond `room` tokens. Without `whole_loss`, another text encoder of the model
    reads that part.
    """

    prompt: str
    lost: str
    room: int
    what: str = "prompt"
    encoder: str = "text encoder"
    whole_loss: bool = True

    @property
    def message(self) -> str:
        """A sentence with the truncated part."""
        start = self.prompt if len(self.prompt) <= 60 else f"{self.prompt[:57]}…"
        end = (
            "this part is cut off"
            if self.whole_loss
            else "this part is read by the first text encoder only"
        )
        read = f"The {self.encoder} reads {self.room} tokens of the {self.what} {start!r}"
        return f"{read}; {end}: {self.lost!r}."


class PromptLimit:
    """The limit of one text encoder.

    `tokens` is without special tokens; the text `before` a prompt takes some of them. With
    `vectors`, the keyword is that many tokens, in place of those of its letters.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        tokens: int,
        before: str = "",
        after: str = "",
        unescapes: bool = False,
        vectors: int = 0,
    ) -> None:
        self._tokenizer, self._tokens, self._unescapes = tokenizer, tokens, unescapes
        self._before, self._after, self._vectors = before, after, vectors
        self.room = tokens - (len(self._offsets(before)) if before else 0)

    def for_vectors(self, count: int) -> "PromptLimit":
        """Return the limit of prompts in which `count` vectors stand for the keyword."""
        settings = (self._before, self._after, self._unescapes)
        return PromptLimit(self._tokenizer, self._tokens, *settings, vectors=count)

    def cut(self, prompt: str) -> Cut | None:
        """Return the truncated part of a prompt, or None."""
        most = len(prompt) + prompt.count(KEYWORD) * self._vectors
        if (
            prompt.isascii() and most < self.room
        ):  # a token has at least one character, except one for the start
            return None
        text = self._text(prompt)
        offsets = self._offsets(self._before + text + self._after)
        if len(offsets) <= self._tokens:
            return None
        start = max(0, offsets[self._tokens][0] - len(self._before))
        return Cut(prompt, text[start:], self.room) if start < len(text) else None

    def check(self, prompt: str, noun: str = "") -> Cut | None:
        """Return the truncated part of a prompt.

        Raises BadPrompt if the keyword or its class noun is truncated.
        """
        cut = self.cut(prompt)
        if cut is None:
            return None
        text = self._text(prompt)
        kept = len(text) - len(cut.lost)
        with_noun = rf"(\s+{re.escape(noun)}\b)?" if noun else ""
        for person in re.finditer(re.escape(KEYWORD) + with_noun, text):
            if person.end() > kept:
                inside = person.start() + len(KEYWORD) > kept
                what = f"keyword {KEYWORD}" if inside else f"noun {noun!r} of the keyword {KEYWORD}"
                raise BadPrompt(
                    f"The {what} is cut off: {cut.message}",
                    f"Shorten the prompt, or put {KEYWORD} first.",
                )
        return cut

    def _text(self, prompt: str) -> str:
        """Return the prompt as the pipeline passes it to the tokenizer."""
        return html.unescape(html.unescape(prompt)) if self._unescapes else prompt

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        if not self._vectors:
            return self._tokenizer.encode(text, add_special_tokens=False).offsets
        offsets: list[tuple[int, int]] = []
        start = 0
        for part in re.split(f"({re.escape(KEYWORD)})", text):
            end = start + len(part)
            if part == KEYWORD:
                offsets += [(start, end)] * self._vectors
            else:
                within = self._tokenizer.encode(part, add_special_tokens=False).offsets
                offsets += [(start + first, start + last) for first, last in within]
            start = end
        return offsets


@dataclass(frozen=True)
class Limits:
    """Limits of all text encoders of a model.

    HunyuanVideo's `second` one, CLIP, returns one pooled vector.
    """

    first: PromptLimit
    second: PromptLimit | None = None

    def cuts(self, prompt: str, noun: str = "") -> list[Cut]:
        """Return the truncated parts of a prompt.

        Raises BadPrompt if no encoder reads the keyword or its class noun.
        """
        found = [self.first.check(prompt, noun)]
        if self.second and (cut := self.second.cut(prompt)):
            found.append(replace(cut, encoder="second text encoder, CLIP,", whole_loss=False))
        return [cut for cut in found if cut]


def prompt_limits(model: ModelConfig) -> Limits | None:
    """Return the limits of a base model; None without a readable tokenizer."""
    try:
        return _limits_of(model.family, resolve(model.config or model.base_model))
    except WeightsMissing:
        return None


@lru_cache(maxsize=64)
def _limits_of(family: str, base: Path) -> Limits | None:
    try:
        return load_named(FAMILIES[family].prompt_limits)(base)
    # `tokenizers` raises plain Exception; the engine reports the problem when it loads the model
    except Exception:
        return None


def clip_limits(base: Path) -> Limits | None:
    """Return the limits of the CLIP text encoder in a model folder; None without a tokenizer."""
    tokenizer = _tokenizer(base / "tokenizer")
    if tokenizer is None:
        return None
    positions = _number(base / "text_encoder/config.json", "max_position_embeddings")
    longest = _number(base / "tokenizer/tokenizer_config.json", "model_max_length")
    return Limits(PromptLimit(tokenizer, min(positions, longest) - 2))


def llama_limits(base: Path) -> Limits | None:
    """Return the limits of HunyuanVideo's LLaMA and CLIP; None without the first tokenizer."""
    tokenizer, second = _tokenizer(base / "tokenizer"), _tokenizer(base / "tokenizer_2")
    if tokenizer is None:
        return None
    tokens = LLAMA_TOKENS - tokenizer.num_special_tokens_to_add(False)
    llama = PromptLimit(tokenizer, tokens, LLAMA_BEFORE, LLAMA_AFTER)
    return Limits(llama, PromptLimit(second, _CLIP_TOKENS - 2) if second else None)


def t5_limits(base: Path) -> Limits | None:
    """Return the limits of ConsisID's T5; None without its tokenizer."""
    tokenizer = _tokenizer(base / "tokenizer")
    return Limits(PromptLimit(tokenizer, _T5_TOKENS - 1)) if tokenizer else None


def umt5_limits(base: Path) -> Limits | None:
    """Return the limits of Wan's UMT5; None without its tokenizer."""
    tokenizer = _tokenizer(base / "tokenizer")
    return Limits(PromptLimit(tokenizer, _UMT5_TOKENS - 1, unescapes=True)) if tokenizer else None


def _number(file: Path, key: str) -> int:
    try:
        table: dict[str, Any] = json.loads(file.read_bytes())
        return int(table.get(key, _CLIP_TOKENS))
    except (
        FileNotFoundError,
        ValueError,
        OverflowError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return _CLIP_TOKENS


def _tokenizer(folder: Path) -> "Tokenizer | None":
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if (folder / "merges.txt").is_file():
        return _clip_tokenizer(folder)
    return None


def _clip_tokenizer(folder: Path) -> "Tokenizer":
    """Build the CLIP tokenizer from vocab.json and merges.txt, like transformers."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    words = models.BPE.from_file(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        end_of_word_suffix="</w>",
        unk_token="<|endoftext|>",  # noqa: S106 - a token of the vocabulary
    )
    tokenizer = Tokenizer(words)
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    split = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def check_prompts_fit(
    model: ModelConfig,
    prompts: Iterable[str],
    negative: str = "",
    noun: str = "",
    vectors: int = 0,
) -> list[Cut]:
    """Return the truncated parts of the prompts and the negative prompt.

    `vectors` is the number of those that stand for the keyword, if any. Raises BadPrompt if a
    keyword, or the class noun `noun` after it, is truncated.
    """
    limits = prompt_limits(model)
    if limits is None:
        return []
    if vectors:
        limits = replace(limits, first=limits.first.for_vectors(vectors))
    cuts = [cut for prompt in dict.fromkeys(prompts) for cut in limits.cuts(prompt, noun)]
    lost = limits.first.cut(negative)
    return [*cuts, *([replace(lost, what="negative prompt")] if lost else [])]


def report_cuts(
    model: ModelConfig,
    prompts: Iterable[str],
    negative: str,
    report: Report,
    noun: str = "",
    vectors: int = 0,
) -> None:
    """Report a warning for each truncated prompt.

    If the tokens of a loaded model cannot be counted, one warning says so. Raises BadPrompt as
    `check_prompts_fit` does.
    """
    if prompt_limits(model) is None:
        folder = f"{model.config or model.base_model}/tokenizer"
        message = f"Prompt lengths are not checked: no readable tokenizer in {folder}."
        report(WarningEvent(message=message))
        return
    cuts = check_prompts_fit(model, prompts, negative, noun, vectors)
    for cut in cuts[:_REPORTED]:
        report(WarningEvent(message=cut.message, cut=cut.lost))
    if len(cuts) > _REPORTED:
        rest = cuts[_REPORTED:]
        message = f"The ends of {len(rest)} more prompts are cut off."
        report(WarningEvent(message=message, cut=rest[0].lost))


@lru_cache(maxsize=1)
def shortest_limit() -> PromptLimit:
    """Return the limit of Stable Diffusion's text encoder, the shortest of all families.

    The vocabulary is CLIP's.
    """
    tokenizer = _tokenizer(presets_dir() / "tiny/clip")
    assert tokenizer is not None, "shipped with pv"
    return PromptLimit(tokenizer, _CLIP_TOKENS - 2)
