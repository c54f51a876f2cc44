"""Prompt banks: the simulated prompts of section 4.3, each with the keyword `<V>` for the identity.

A bank is a TOML file with `description` and `prompts`; its name is the file name. `{noun}` in a
prompt is replaced by the class noun: man, woman or person. The keyword is plain text; no embedding
is trained for it.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import tomli_w

from pvtool_core.errors import BadPrompt, Missing, NameTaken, is_utf8, printable
from pvtool_core.files import replace_file
from pvtool_core.paths import check_name, config_dir, nearest, presets_dir
from pvtool_core.untrusted import parse_toml

KEYWORD = "<V>"
_MOST_BYTES = 1 << 27
NOUN = "{noun}"
MAX_PROMPT_LENGTH = 1000


@dataclass(frozen=True)
class Bank:
    """A prompt bank; `own` is true for banks of the user, false for shipped ones."""

    name: str
    description: str
    prompts: tuple[str, ...]
    own: bool = False

    def fill(self, noun: str) -> tuple[str, ...]:
        """Return the prompts for an identity with this class noun."""
        return tuple(fill(prompt, noun) for prompt in self.prompts)


def fill(prompt: str, noun: str) -> str:
    """Replace `{noun}` in a prompt."""
    return prompt.replace(NOUN, noun)


def without_keyword(prompt: str) -> str:
    """Return the prompt without the keyword, for models that do not know it."""
    return " ".join(prompt.replace(KEYWORD, " ").split())


def check_prompt(prompt: str) -> str:
    """Return the prompt without extra white space. Raises BadPrompt if it is invalid."""
    plain = " ".join(prompt.split())
    shown = plain if len(plain) <= 60 else plain[:57] + "…"
    if not without_keyword(plain):
        raise BadPrompt("Empty prompt.", f"Describe the clip, with {KEYWORD} for the identity.")
    if KEYWORD not in plain:
        raise BadPrompt(
            f"The prompt {shown!r} lacks the keyword {KEYWORD}.",
            f"Put {KEYWORD} before the person's noun, as in '{KEYWORD} {NOUN} is dancing'.",
        )
    if len(plain) > MAX_PROMPT_LENGTH:
        raise BadPrompt(
            f"The prompt {shown!r} is longer than {MAX_PROMPT_LENGTH} characters.", "Shorten it."
        )
    if "{" in plain and (
        unknown := [field for field in re.findall(r"\{[^{}]*\}", plain) if field != NOUN]
    ):
        raise BadPrompt(
            f"The prompt {shown!r} contains {unknown[0]!r}.", f"Only {NOUN} is replaced."
        )
    check_syntax("prompt", plain)
    return plain


_NO_WEIGHTS = "Weights are not supported: write the words only."
_FOREIGN = (
    (r"<(?:lora|lyco|lycoris|hypernet|embedding):[^<>]*>?", "Use --lora FILE:0.8 for LoRAs."),
    (r"\bembedding:[^\s,]+", "Textual inversion is not supported: remove it."),
    (r"\(?[^()]{0,60}:\s*[-+]?\d*\.\d+\s*\)", _NO_WEIGHTS),
    (r"\([^()]{0,60}[^\d\s:]:\s*\d+\s*\)", _NO_WEIGHTS),  # but not (16:9)
    (r"\([^()]{0,60}\)(?:\d?\.\d+|\++(?!\w))", _NO_WEIGHTS),
    (r"\[[^\[\]]{0,60}\w[^\[\]]{0,60}\]", "Brackets are not supported: remove them."),
    (r"\{[^{}|]*\|[^{}]*\}", "Alternatives are not supported: write a prompt for each."),
    (r"(?<!\S)BREAK(?!\S)", "Chunks are not supported: remove it, or write it in lower case."),
    (r"(?<!\S)AND(?!\S)", "Composition is not supported: write 'and', or a prompt for each part."),
)
"""Syntax of other programs, which the text encoder would read as text."""


def check_syntax(what: str, text: str) -> None:
    """Raise BadPrompt for syntax of other programs, and for invalid UTF-8.

    Examples are `<lora:…>`, `(x:1.3)`, `[x]` and AND.
    """
    shown = text if len(text) <= 60 else text[:57] + "…"
    if not is_utf8(text):
        raise BadPrompt(
            f"The {what} '{printable(text, whole=True)}' is not valid UTF-8.", "Use UTF-8."
        )
    for pattern, hint in _FOREIGN:
        if found := re.search(pattern, text):
            raise BadPrompt(
                f"The {what} {shown!r} contains {found[0]!r}, syntax of another program.",
                hint,
            )


def check_prompts(prompts: Iterable[str], source: str) -> tuple[str, ...]:
    """Return the checked prompts without duplicates, in their order.

    Raises BadPrompt, also for an empty list.
    """
    checked = tuple(dict.fromkeys(check_prompt(prompt) for prompt in prompts))
    if not checked:
        raise BadPrompt(f"No prompt in {source}.", f"Add at least one prompt with {KEYWORD}.")
    return checked


def read_prompt_file(path: Path) -> tuple[str, ...]:
    """Return the prompts of a bank (.toml), or of a text file with one prompt per line.

    Lines starting with '#' are skipped. Raises BadPrompt if the file is missing, unreadable, empty
    or invalid.
    """
    text = decode_prompts(printable(path), read_prompt_bytes(path))
    if path.suffix == ".toml":
        return _parse_bank(path.stem, text, path).prompts
    lines = (line.strip() for line in text.splitlines())
    return check_prompts(
        (line for line in lines if line and not line.startswith("#")), printable(path)
    )


def read_prompt_bytes(path: Path) -> bytes:
    """Return the content of a file or a pipe.

    Raises Missing, or BadPrompt if it cannot be read or is too large.
    """
    try:
        with path.open("rb") as file:
            return read_prompt_stream(printable(path), file)
    except FileNotFoundError as error:
        hint = "Use a text file with one prompt per line, or a bank; see `pv prompts list`."
        raise Missing("prompt file", str(path), hint) from error
    except OSError as error:
        problem = f"Cannot read {printable(path)}: {error.strerror}."
        raise BadPrompt(problem, "Check its permissions.") from error


def read_prompt_stream(name: str, stream: BinaryIO) -> bytes:
    """Return the rest of a stream. Raises BadPrompt if it is too large, such as /dev/zero."""
    content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise BadPrompt(
            f"{name} is larger than {_MOST_BYTES >> 20} MiB.",
            "Split the prompts into several files.",
        )
    return content


def decode_prompts(name: str, content: bytes) -> str:
    """Decode the text of a file or of standard input. Raises BadPrompt if it is not text."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPrompt(f"Cannot read {name} as text.", "Use UTF-8.") from error


def _parse_bank(name: str, text: str, path: Path, own: bool = False) -> Bank:
    try:
        table = parse_toml(text)
    except ValueError as error:
        raise BadPrompt(
            f"{path.name} is not valid TOML: {error}.", "Fix the file, or import a text file."
        ) from error
    prompts = table.get("prompts")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadPrompt(
            f"{path.name} has no list of texts named prompts.", "Write prompts = ['…', '…']."
        )
    return Bank(name, str(table.get("description", "")), check_prompts(prompts, path.name), own)


class Banks:
    """The shipped banks and the user's; the latter replace shipped ones of the same name."""

    def __init__(self, shipped: Path | None = None, own: Path | None = None) -> None:
        self.shipped = shipped or presets_dir() / "prompts"
        self.own = own or config_dir() / "prompts"

    def names(self) -> list[str]:
        return sorted(
            {path.stem for folder in (self.shipped, self.own) for path in folder.glob("[!.]*.toml")}
        )

    def get(self, name: str) -> Bank:
        """Return the bank of that name.

        Raises Missing, BadName, or BadPrompt if its file is invalid.
        """
        file = check_name("a prompt bank", name) + ".toml"
        for folder in (self.own, self.shipped):
            if (folder / file).is_file():
                text = decode_prompts(file, read_prompt_bytes(folder / file))
                return _parse_bank(name, text, folder / file, own=folder is self.own)
        near = nearest(name, self.own) or nearest(name, self.shipped)
        raise Missing("prompt bank", name, "See `pv prompts list`.", near)

    def create(self, name: str, prompts: Sequence[str], description: str = "") -> Bank:
        """Write a new bank of the user.

        Raises NameTaken, BadName or BadPrompt, and writes nothing in that case.
        """
        name = self.check_new(name)
        return self._write(Bank(name, description, check_prompts(prompts, "the input"), own=True))

    def check_new(self, name: str) -> str:
        """Return the name for a new bank. Raises NameTaken, BadName."""
        name = check_name("a prompt bank", name)
        if name in self.names():
            raise NameTaken(
                "a prompt bank",
                name,
                f"Choose another name, or `pv prompts add {name}` to extend yours.",
            )
        return name

    def extend(self, name: str, prompts: Sequence[str]) -> Bank:
        """Add prompts to a bank of the user.

        Raises NameTaken for a shipped bank, Missing, BadPrompt.
        """
        bank = self._own(name)
        return self._rewrite(bank, [*bank.prompts, *prompts])

    def exchange(self, name: str, old: str, new: Sequence[str]) -> Bank:
        """Replace the prompt `old` by the prompts `new` in a bank of the user.

        `new` may be empty. Raises as `extend` does, and Missing if `old` is not in the bank, which
        another process may have changed.
        """
        bank = self._own(name)
        if old not in bank.prompts:
            raise Missing(
                f"prompt in {name}", old, "The bank was changed meanwhile; check it and try again."
            )
        place = bank.prompts.index(old)
        return self._rewrite(bank, [*bank.prompts[:place], *new, *bank.prompts[place + 1 :]])

    def remove(self, name: str) -> None:
        """Delete a bank of the user. Raises NameTaken for a shipped one, Missing."""
        self._own(name)
        (self.own / f"{name}.toml").unlink()

    def _own(self, name: str) -> Bank:
        bank = self.get(name)
        if not bank.own:
            raise NameTaken(
                "a shipped prompt bank",
                name,
                "Shipped banks cannot be changed; choose another name.",
            )
        return bank

    def _rewrite(self, bank: Bank, prompts: Sequence[str]) -> Bank:
        return self._write(dataclasses.replace(bank, prompts=check_prompts(prompts, bank.name)))

    def _write(self, bank: Bank) -> Bank:
        self.own.mkdir(parents=True, exist_ok=True)
        table = {"description": bank.description, "prompts": list(bank.prompts)}
        replace_file(self.own / f"{bank.name}.toml", tomli_w.dumps(table).encode())
        return bank
