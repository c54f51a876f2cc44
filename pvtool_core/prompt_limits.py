"""How much of a prompt the text encoder reads: what lies past its limit is cut off by diffusers without an error.

Counted with the base model's own tokenizer, through the `tokenizers` library alone, so that a front end can warn
before an engine is started.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvtool_core.config import ModelConfig
from pvtool_core.errors import BadPrompt
from pvtool_core.prompts import KEYWORD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CLIP_TOKENS = 77
_LLAMA_TOKENS = 256  # of HunyuanVideoPipeline.encode_prompt, after its template
_UMT5_TOKENS = 512  # to which WanPipeline cuts and pads
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Cut:
    """A prompt whose end the text encoder does not see: the part `lost`, past `room` tokens."""

    prompt: str
    lost: str
    room: int

    @property
    def message(self) -> str:
        """One sentence that names the part that is cut."""
        start = self.prompt if len(self.prompt) <= 60 else f"{self.prompt[:57]}…"
        return (
            f"The text encoder reads {self.room} tokens of the prompt {start!r}; this part is cut off: {self.lost!r}."
        )


class PromptLimit:
    """The limit of one base model's text encoder."""

    def __init__(self, tokenizer: "Tokenizer", room: int) -> None:
        self._tokenizer, self.room = tokenizer, room

    def cut(self, prompt: str) -> Cut | None:
        """Return what is cut off a prompt, or None if all of it is read."""
        if len(prompt.encode()) < self.room:  # no token is shorter than a byte, but one may stand for the beginning
            return None
        offsets = self._tokenizer.encode(prompt, add_special_tokens=False).offsets
        if len(offsets) <= self.room:
            return None
        return Cut(prompt, prompt[offsets[self.room][0] :], self.room)

    def check(self, prompt: str) -> Cut | None:
        """Return what is cut off a prompt. Raises BadPrompt if the keyword, or a part of it, is."""
        cut = self.cut(prompt)
        if cut and prompt.rfind(KEYWORD) + len(KEYWORD) > len(prompt) - len(cut.lost):
            raise BadPrompt(
                f"The keyword {KEYWORD} is cut off: {cut.message}", f"Shorten the prompt, or put {KEYWORD} first."
            )
        return cut


def prompt_limit(model: ModelConfig) -> PromptLimit | None:
    """Return the limit of a located base model, or None if it has no tokenizer that can be read here.

    HunyuanVideo's second encoder, CLIP, sees 77 tokens for its one pooled vector; Llama, which counts here, sees all.
    """
    return _limit_of(model.family, model.config or model.base_model)


@lru_cache(maxsize=64)
def _limit_of(family: str, folder: str) -> PromptLimit | None:
    base = Path(folder)
    try:
        tokenizer = _tokenizer(base / "tokenizer")
    except Exception:  # `tokenizers` raises plain Exception; the engine's loading says what is wrong with the model
        return None
    if tokenizer is None:
        return None
    if family == "hunyuan-video":
        return PromptLimit(tokenizer, _LLAMA_TOKENS)
    if family == "wan":
        return PromptLimit(tokenizer, _UMT5_TOKENS - 1)
    positions = _number(base / "text_encoder/config.json", "max_position_embeddings")
    longest = _number(base / "tokenizer/tokenizer_config.json", "model_max_length")
    return PromptLimit(tokenizer, min(positions, longest) - 2)


def _number(file: Path, key: str) -> int:
    try:
        table: dict[str, Any] = json.loads(file.read_bytes())
        return int(table.get(key, _CLIP_TOKENS))
    except FileNotFoundError:
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
    """Build CLIP's tokenizer from vocab.json and merges.txt, as transformers' CLIPTokenizer does."""
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


def check_prompts_fit(model: ModelConfig, prompts: Iterable[str], negative: str = "") -> list[Cut]:
    """Return what is cut off the prompts and the negative prompt. Raises BadPrompt if a keyword is."""
    limit = prompt_limit(model)
    if limit is None:
        return []
    cuts = [limit.check(prompt) for prompt in dict.fromkeys(prompts)]
    return [cut for cut in (*cuts, limit.cut(negative)) if cut]
