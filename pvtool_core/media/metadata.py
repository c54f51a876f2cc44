"""Metadata in clip files: how a clip was generated, and the AI-generated mark.

An mp4 has it in its tags, `pv` for programs and `comment` for users; image formats in an XMP
packet. The IPTC mark for AI-generated media is in every file, always as XMP, where tools look for
it.
"""

import json
import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any

from pvtool_core.media import ffmpeg
from pvtool_core.media.ffmpeg import ClipBroken
from pvtool_core.settings.formats import FORMATS, format_of
from pvtool_core.settings.references import load_named

Facts = Mapping[str, Any]

AI_MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:pv="urn:pvtool:clip"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{mark}</Iptc4xmpExt:DigitalSourceType>{facts}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
_XMP_BOX = bytes.fromhex(
    "be7acfcb97a942e89c71999491e3afac"
)  # the uuid of XMP in MPEG-4, by its specification
_GIF_BLOCK = 255
_PNG_FIRST = "0000.png"


def xmp(facts: Facts | None = None) -> bytes:
    """Return an XMP packet with the AI mark, and `facts` for formats without a better place."""
    # ASCII only: JSON escapes can represent what XML cannot, such as half of a surrogate pair.
    text = "" if facts is None else f"\n<pv:facts>{escape(json.dumps(facts))}</pv:facts>"
    return _PACKET.format(mark=AI_MADE, facts=text).encode()


def for_people(facts: Facts) -> str:
    """Return the facts as readable JSON; invalid UTF-8 is escaped."""
    return json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def as_tags(facts: Facts) -> bytes:
    """Return the facts as an ffmpeg metadata file of any length."""
    tags = {"pv": json.dumps(facts), "comment": for_people(facts), "digital_source_type": AI_MADE}
    return (
        ";FFMETADATA1\n" + "".join(f"{key}={_escaped(value)}\n" for key, value in tags.items())
    ).encode()


def _escaped(value: str) -> str:
    return re.sub(r"([=;#\\\n])", r"\\\1", value)


def facts_of_tags(path: Path, tags: str) -> dict[str, Any]:
    """Parse the facts from an ffmpeg metadata file. Raises ClipBroken."""
    entry = re.search(r"^pv=((?:\\[\s\S]|[^\\\n])*)$", tags, re.MULTILINE)
    if not entry:
        raise ClipBroken(path, "pv did not write it")
    return json.loads(re.sub(r"\\([\s\S])", r"\1", entry[1]))


def mark_mp4(path: Path) -> None:
    """Add XMP as a box at the end, where it moves nothing else."""
    content = _XMP_BOX + xmp()
    with path.open("ab") as file:
        file.write((8 + len(content)).to_bytes(4, "big") + b"uuid" + content)


def mark_gif(path: Path, facts: Facts) -> None:
    """Add the facts as a comment, and XMP, before the first picture."""
    content = path.read_bytes()
    table = 3 << ((content[10] & 7) + 1) if content[10] & 0x80 else 0
    path.write_bytes(
        content[: 13 + table]
        + _comment(for_people(facts))
        + _gif_xmp(facts)
        + content[13 + table :]
    )


def _comment(text: str) -> bytes:
    words = text.encode()
    parts = (words[start : start + _GIF_BLOCK] for start in range(0, len(words), _GIF_BLOCK))
    return b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _gif_xmp(facts: Facts) -> bytes:
    """Return the XMP block of a GIF: raw text, followed by descending bytes.

    Wherever a parser of blocks lands in them, it reaches the end.
    """
    return b"!\xff\x0bXMP DataXMP" + xmp(facts) + b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def read_facts(path: Path) -> dict[str, Any]:
    """Read the metadata of a clip from its file (or folder of frames). Raises ClipBroken."""
    if not path.is_dir():
        _check_file(path)
    form = format_of(path)
    if form is None:
        raise ClipBroken(path, f"its format is not one of {', '.join(FORMATS)}")
    return load_named(form.facts_reader)(path)


def read_tags(path: Path) -> dict[str, Any]:
    """Read the metadata in the tags of a video, by ffmpeg. Raises ClipBroken."""
    answer = ffmpeg.ask(path, "-i", str(path), "-f", "ffmetadata", "pipe:1")
    return facts_of_tags(path, answer.output.decode())


def read_packet_of_images(path: Path) -> dict[str, Any]:
    """Read the metadata in the first image of a folder, or in an image. Raises ClipBroken."""
    return read_packet(path / _PNG_FIRST if path.is_dir() else path)


def _check_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe would block, a device never end
        raise ClipBroken(path, "it is not a regular file")


def read_packet(path: Path) -> dict[str, Any]:
    """Read the metadata in the XMP packet of an image file. Raises ClipBroken."""
    _check_file(path)
    _, _, rest = path.read_bytes().partition(b"<pv:facts>")
    facts, end, _ = rest.partition(b"</pv:facts>")
    if not end:
        raise ClipBroken(path, "pv did not write it")
    return json.loads(unescape(facts.decode()))
