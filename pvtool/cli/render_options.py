"""The options of `pv render`, and what their words mean."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from pvtool.cli.options import bank_names, identity_names, run_names
from pvtool_core.batches.columns import parse_loras, read_columns
from pvtool_core.batches.plan import Loras, Pairs, Shard
from pvtool_core.batches.rows import Mistakes
from pvtool_core.errors import UsageError
from pvtool_core.paths import check_utf8, exists
from pvtool_core.settings.jobs import EncodingConfig
from pvtool_core.settings.toml import Table, from_table

FORMATS = ("mp4", "gif", "webp", "png")

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME[,NAME...]] [PROMPT]...", autocompletion=identity_names, show_default=False
    ),
]
Everybody = Annotated[
    bool, typer.Option("--all", help="Everybody in the library; then every word is a prompt.")
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        metavar="FILE_OR_BANK",
        help="Text, CSV, JSON lines or TOML, - for standard input, or a bank; may be given several times.",
        autocompletion=bank_names,
    ),
]
Again = Annotated[
    Path | None,
    typer.Option("--from", metavar="CLIP", help="Make that clip again; other options change it."),
]
Run = Annotated[
    str,
    typer.Option(
        metavar="RUN[@STEP]",
        autocompletion=run_names,
        help="The person's newest finished one, if left out.",
    ),
]
Base = Annotated[bool, typer.Option("--base", help="Also without the adapter, to compare.")]
LoraSets = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-set",
        metavar="FILE[:WEIGHT],...",
        help="LoRAs for a clip of their own, or none; repeatable.",
    ),
]
Width = Annotated[
    int | None, typer.Option(help="Pixels; that of the run, if left out, as all of these.")
]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Frames = Annotated[int | None, typer.Option(help="Frames of a clip.")]
Fps = Annotated[int | None, typer.Option(help="Frames a second.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance.")]
Negative = Annotated[str | None, typer.Option(help="What guidance moves away from.")]
Out = Annotated[Path, typer.Option(help="Where the clips go.")]
Format = Annotated[
    str | None,
    typer.Option(metavar="FORMATS", help="mp4, gif, webp, png, with commas; usually mp4."),
]
Codec = Annotated[str | None, typer.Option(help="Of an mp4: h264, h265 or av1.")]
Loop = Annotated[int | None, typer.Option(help="How often a gif or webp plays; 0 is for ever.")]
Upscale = Annotated[int | None, typer.Option(help="Whole times that each pixel is repeated.")]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also a contact sheet of all clips.")]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--c2pa-cert", metavar="PEM", help="Sign content credentials with this certificate."
    ),
]
Key = Annotated[
    Path | None, typer.Option("--c2pa-key", metavar="PEM", help="The certificate's private key.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make again what is there.")]
Retries = Annotated[
    int, typer.Option(min=0, max=100, help="How often a clip that failed is tried again.")
]
AtOnce = Annotated[
    str, typer.Option("--batch", metavar="N|auto", help="Clips that go through the model at once.")
]
Part = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Only the I-th of N parts, from 1; for job arrays."
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="0,1", help="GPUs that work at once, each an engine of its own."),
]
On = Annotated[str, typer.Option(metavar="ray", help="Have a Ray cluster make the clips.")]
Address = Annotated[
    str, typer.Option(help="Of the Ray cluster, as Ray takes it; starts one here, if left out.")
]
CacheSize = Annotated[str, typer.Option(metavar="SIZE", help="Limit of the trajectory cache.")]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Leave out rows that cannot be used, and make the others."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")
]


def split_words(words: Sequence[str], everybody: bool, keyword: str) -> tuple[list[str], list[str]]:
    """Names and prompts. The first word is names, unless it is a prompt by its keyword."""
    if everybody or not words or keyword in words[0]:
        return [], list(words)
    names = [name.strip() for name in words[0].split(",")]
    return list(dict.fromkeys(name for name in names if name)), list(words[1:])


def setting_pairs(**columns: Any) -> Pairs:
    """Options as the columns of rows have them, in their order. Raises UsageError, with all that is wrong."""
    mistakes = Mistakes()
    found = read_columns(columns, lambda error: mistakes.add("", error))
    mistakes.check()
    return tuple(sorted((key, value) for key, (value,) in found.items()))


def lora_sets(loras: list[str] | None, sets: list[str] | None) -> tuple[Loras, ...]:
    """Each a clip of its own; None are the run's. Raises UsageError."""
    if loras and sets:
        raise UsageError(
            "--lora and --lora-set contradict each other.",
            "Put --lora's files into each --lora-set.",
        )
    if sets:
        return tuple(dict.fromkeys(stack for text in sets for stack in parse_loras(text)))
    return tuple(parse_loras(loras)) if loras else (None,)


def encoding_of(
    usual: Table,
    *,
    formats: str | None,
    codec: str | None,
    loop: int | None,
    upscale: int | None,
    certificate: Path | None,
    key: Path | None,
) -> EncodingConfig:
    """What becomes of frames; `usual` holds where nothing is said. Raises UsageError."""
    if (certificate is None) != (key is None):
        raise UsageError(
            "Content credentials need a certificate and its key.",
            "Give both --c2pa-cert and --c2pa-key.",
        )
    for file in (certificate, key):
        if file:
            check_utf8(file.absolute())
        if file and not (exists(file) and file.is_file()):
            raise UsageError(
                f"There is no file at {file}.", "Give PEM files with --c2pa-cert and --c2pa-key."
            )
    given = {"codec": codec, "loop": loop, "upscale": upscale}
    given |= {"formats": parse_formats(formats) if formats else None}
    given |= {
        "certificate": certificate and str(certificate.absolute()),
        "key": key and str(key.absolute()),
    }
    table = {**usual, **{name: value for name, value in given.items() if value is not None}}
    return from_table(EncodingConfig, table, "these options")


def parse_formats(text: str) -> list[str]:
    """Turn `mp4,gif` into formats. Raises UsageError."""
    formats = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UsageError(
            f"{unknown[0]!r} is no format.",
            f"Give one or more of {', '.join(FORMATS)}, with commas.",
        )
    return formats


def parse_shard(text: str | None) -> Shard | None:
    """Turn `2/8` into a part. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{text!r} is no part of a batch.", "Write I/N, with I from 1 to N.")
    return Shard(int(match[1]), int(match[2]))


def parse_at_once(text: str) -> str:
    """Raises UsageError for anything but `auto` and whole numbers."""
    if text != "auto" and not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise UsageError(f"{text!r} is no number of clips.", "Give a whole number from 1, or auto.")
    return text


def check_place(on: str, address: str, devices: str | None) -> str:
    """Where clips are made. Raises UsageError if it is nowhere, or in two places."""
    if on not in {"", "ray"}:
        raise UsageError(f"{on!r} is no place to make clips.", "Give --on ray, or leave it out.")
    if on and devices is not None:
        raise UsageError(
            "--on and --devices contradict each other.", "Ray knows itself which GPUs there are."
        )
    if address and not on:
        raise UsageError("--address is for a Ray cluster.", "Give --on ray as well.")
    if on and not find_spec("ray"):
        raise UsageError("Ray is not installed.", "Run `pip install pvtool[ray]`.")
    return on


def parse_devices(text: str | None) -> list[str]:
    """Turn `0,1` into `cuda:0` and `cuda:1`; other words are devices by name. Raises UsageError."""
    words = [word.strip() for word in text.split(",")] if text is not None else []
    if wrong := [
        word for word in words if not re.fullmatch(r"\d{1,4}|cpu|mps|cuda(:\d{1,4})?", word)
    ]:
        raise UsageError(
            f"{wrong[0]!r} is no device.", "Give the numbers of GPUs with commas, such as 0,1."
        )
    return [f"cuda:{word}" if word.isdecimal() else word for word in words]


_GIGABYTES = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


def parse_gigabytes(text: str) -> float:
    """Turn `20GB`, `500M` or `1.5T` into gigabytes. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*([KMGT])(?:I?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is no size.", "Write a number with its unit, such as 20GB.")
    return float(match[1]) * _GIGABYTES[match[2].upper()]
