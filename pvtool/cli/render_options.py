"""Options of `pv render`, and the parsing of their values."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from pvtool.cli.completion import format_words, method_names, run_steps
from pvtool.cli.options import bank_names, identity_names, model_names
from pvtool_core.api.watermarks import AUTO, WATERMARK_CHOICES, watermark_of
from pvtool_core.batches.columns import parse_loras, parse_methods
from pvtool_core.batches.plan import Loras, Shard
from pvtool_core.errors import UsageError
from pvtool_core.paths import check_utf8, exists
from pvtool_core.settings.formats import FORMATS
from pvtool_core.settings.jobs import EncodingConfig, TriesConfig
from pvtool_core.settings.methods import METHODS
from pvtool_core.settings.toml import Table, from_table

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME[,NAME...]] [PROMPT]...", autocompletion=identity_names, show_default=False
    ),
]
Everyone = Annotated[
    bool,
    typer.Option("--all", help="All identities of the library; every argument is then a prompt."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        metavar="FILE_OR_BANK",
        help="Prompts from a text, CSV, JSON lines or TOML file, - for standard input, or a prompt "
        "bank; repeatable.",
        autocompletion=bank_names,
    ),
]
Again = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="CLIP",
        help="Re-render an existing clip; other options override its settings.",
    ),
]
Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        metavar="RUN[@STEP|@best]",
        autocompletion=run_steps,
        help="Run and step of the adapter; best: highest held-out likeness; repeatable. "
        "[default: newest finished run]",
        show_default=False,
    ),
]
EncoderMethods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        autocompletion=method_names,
        help=f"Encoder method that renders identities without training: {', '.join(METHODS)}; "
        "repeatable. [default: adapters]",
        show_default=False,
    ),
]
Base = Annotated[bool, typer.Option("--base", help="Also render the base model, for comparison.")]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        "--base-model",
        metavar="MODEL",
        help="Another base model of the same architecture: a folder, file, hub name or "
        "models:NAME; repeatable. [default: the run's]",
        autocompletion=model_names,
        show_default=False,
    ),
]
Strengths = Annotated[
    str | None,
    typer.Option(
        "--strength",
        metavar="STRENGTHS",
        help="Factor of the identity's adapter, from 0 (base model) to 4; several with commas. "
        "[default: 1]",
        show_default=False,
    ),
]
Starts = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="FRACTIONS",
        help="Fraction of the denoising steps after which the adapter is active; several with "
        "commas. [default: the run's]",
        show_default=False,
    ),
]
StartSigmas = Annotated[
    str | None,
    typer.Option(
        "--start-sigma",
        metavar="SIGMAS",
        help="Noise level from which the adapter is active, instead of --start; several with "
        "commas.",
        show_default=False,
    ),
]
LoraSets = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-set",
        metavar="FILE[:WEIGHT],...",
        help="Style LoRAs of an additional clip, or none; repeatable.",
    ),
]
Width = Annotated[
    int | None,
    typer.Option(help="Width in pixels. [default: the run's]"),
]
Height = Annotated[int | None, typer.Option(help="Height in pixels. [default: the run's]")]
Frames = Annotated[int | None, typer.Option(help="Number of frames. [default: the run's]")]
Fps = Annotated[int | None, typer.Option(help="Frames per second. [default: the run's]")]
Steps = Annotated[int | None, typer.Option(help="Number of denoising steps. [default: the run's]")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. [default: the run's]")]
Negative = Annotated[str | None, typer.Option(help="Negative prompt. [default: the run's]")]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Format = Annotated[
    str | None,
    typer.Option(
        metavar="FORMATS",
        autocompletion=format_words,
        help=f"Output formats, comma-separated: {', '.join(FORMATS)}. [default: mp4]",
    ),
]
Codec = Annotated[
    str | None, typer.Option(help="Codec of mp4 files: h264, h265 or av1. [default: h264]")
]
Loop = Annotated[
    int | None,
    typer.Option(help="Number of times a gif or webp plays; 0 loops forever. [default: 0]"),
]
Upscale = Annotated[
    int | None, typer.Option(help="Integer upscaling factor (nearest neighbour). [default: 1]")
]
Watermark = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        help=f"Invisible watermark with the clip's key: {', '.join(WATERMARK_CHOICES)}. "
        "[default: auto]",
        show_default=False,
    ),
]
Sheet = Annotated[bool, typer.Option("--sheet", help="Also write a contact sheet of all clips.")]
Certificate = Annotated[
    Path | None,
    typer.Option("--c2pa-cert", metavar="PEM", help="Certificate chain for content credentials."),
]
Key = Annotated[
    Path | None, typer.Option("--c2pa-key", metavar="PEM", help="Private key of the certificate.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Render existing clips again.")]
Likeness = Annotated[
    bool,
    typer.Option(
        "--likeness/--no-likeness",
        help="Measure the similarity of each clip's faces to the identity.",
    ),
]
MinLikeness = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Render further seeds of each clip until it has this mean likeness, or --max-tries is "
        "reached. [default: none]",
        show_default=False,
    ),
]
MaxTries = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Number of seeds for --min-likeness, with the clip's own. [default: 4]",
        show_default=False,
    ),
]
Retries = Annotated[int, typer.Option(min=0, max=100, help="Number of retries of a failed clip.")]
Part = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Only the I-th of N shards, from 1; for job arrays."
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="0,1", help="GPUs to use, each with its own engine."),
]
On = Annotated[str, typer.Option(metavar="ray", help="Use a Ray cluster.")]
Address = Annotated[
    str,
    typer.Option(
        help="Address of the Ray cluster. [default: start one on this machine]", show_default=False
    ),
]
CacheSize = Annotated[
    str, typer.Option(metavar="SIZE", help="Maximum size of the trajectory cache.")
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Skip invalid rows, and render the others."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the clips without rendering them.")]


def split_words(words: Sequence[str], everyone: bool, keyword: str) -> tuple[list[str], list[str]]:
    """Return names and prompts.

    The first argument has names, unless it contains the keyword.
    """
    if everyone or not words or keyword in words[0]:
        return [], list(words)
    names = [name.strip() for name in words[0].split(",")]
    return list(dict.fromkeys(name for name in names if name)), list(words[1:])


def encoder_methods(methods: list[str] | None, runs: list[str] | None) -> tuple[str, ...]:
    """Return the encoder methods; an empty one stands for adapters. Raises UsageError."""
    if methods and runs:
        raise UsageError(
            "--method and --run cannot be combined.",
            "Methods need no run. Use two commands with the same --out.",
        )
    return tuple(parse_methods(methods)) if methods else ("",)


def lora_sets(loras: list[str] | None, sets: list[str] | None) -> tuple[Loras, ...]:
    """Return the LoRA sets, each for its own clip; None stands for those of the run.

    Raises UsageError.
    """
    if loras and sets:
        raise UsageError(
            "--lora and --lora-set cannot be combined.",
            "Add the files of --lora to each --lora-set.",
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
    watermark: str | None,
    certificate: Path | None,
    key: Path | None,
) -> EncodingConfig:
    """Return the encoding; `usual` has the values of omitted options.

    Raises UsageError.
    """
    if (certificate is None) != (key is None):
        raise UsageError(
            "Content credentials need both a certificate and its key.",
            "Use both --c2pa-cert and --c2pa-key.",
        )
    for file in (certificate, key):
        if file:
            check_utf8(file.absolute())
        if file and not (exists(file) and file.is_file()):
            raise UsageError(
                f"File not found: {file}.", "Use PEM files for --c2pa-cert and --c2pa-key."
            )
    marked = watermark_of(watermark) if watermark else None
    usual = {"watermark": watermark_of(AUTO), **usual}
    given = {"codec": codec, "loop": loop, "upscale": upscale, "watermark": marked}
    given |= {"formats": parse_formats(formats) if formats else None}
    given |= {
        "certificate": certificate and str(certificate.absolute()),
        "key": key and str(key.absolute()),
    }
    table = {**usual, **{name: value for name, value in given.items() if value is not None}}
    return from_table(EncodingConfig, table, "these options")


def parse_formats(text: str) -> list[str]:
    """Parse formats such as `mp4,gif`. Raises UsageError."""
    formats = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [each for each in formats if each not in FORMATS]:
        raise UsageError(
            f"Unknown format {unknown[0]!r}.",
            f"Use one or more of {', '.join(FORMATS)}, separated by commas.",
        )
    return formats


def parse_tries(likeness: bool, least: float | None, most: int | None) -> TriesConfig:
    """Return the settings of further seeds. Raises UsageError."""
    if least is None:
        if most is not None:
            raise UsageError("--max-tries requires --min-likeness.", "Add --min-likeness 0.5.")
        return TriesConfig()
    if not likeness:
        raise UsageError("--min-likeness and --no-likeness cannot be combined.", "Omit one.")
    usual = TriesConfig().max_tries
    return TriesConfig(min_likeness=least, max_tries=usual if most is None else most)


def parse_shard(text: str | None) -> Shard | None:
    """Parse a shard such as `2/8`. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"Invalid shard {text!r}: expected I/N.", "Use I from 1 to N, for example 2/8."
        )
    return Shard(int(match[1]), int(match[2]))


def check_place(on: str, address: str, devices: str | None) -> str:
    """Return where clips are rendered.

    Raises UsageError for an unknown place, or for two.
    """
    if on not in {"", "ray"}:
        raise UsageError(f"Unknown place {on!r}.", "Use --on ray, or omit the option.")
    if on and devices is not None:
        raise UsageError(
            "--on and --devices cannot be combined.", "Ray uses the GPUs of its cluster."
        )
    if address and not on:
        raise UsageError("--address requires --on ray.", "Add --on ray.")
    if on and not find_spec("ray"):
        raise UsageError("Ray is not installed.", "Run `pip install pvtool[ray]`.")
    return on


def parse_devices(text: str | None) -> list[str]:
    """Parse devices: `0,1` stands for `cuda:0` and `cuda:1`, other words name devices.

    Raises UsageError.
    """
    words = [word.strip() for word in text.split(",")] if text is not None else []
    if wrong := [
        word for word in words if not re.fullmatch(r"\d{1,4}|cpu|mps|cuda(:\d{1,4})?", word)
    ]:
        raise UsageError(
            f"Invalid device {wrong[0]!r}.",
            "Use GPU numbers separated by commas, for example 0,1.",
        )
    return [f"cuda:{word}" if word.isdecimal() else word for word in words]


_GIGABYTES = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


def parse_gigabytes(text: str) -> float:
    """Parse a size such as `20GB`, `500M` or `1.5T` into gigabytes. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*([KMGT])(?:I?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"Invalid size {text!r}.", "Add a unit, for example 20GB.")
    return float(match[1]) * _GIGABYTES[match[2].upper()]
