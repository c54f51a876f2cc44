"""`pv verify`: marks of clips and adapters are found, files of strangers are harmless."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c2pa import Builder, C2paSignerInfo, Context, Settings, Signer
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from pvtool_core.batches.folder import group_items, read_items
from pvtool_core.media.c2pa import read_credentials
from pvtool_core.media.decode import Pixels
from pvtool_core.media.encode import write_clip
from pvtool_core.media.metadata import AI_MADE, xmp
from pvtool_core.settings.jobs import EncodingConfig, RenderItem
from pvtool_core.store.runs import ADAPTER_FILE, RunFolder
from pvtool_core.watermark.watermark_methods import mark
from tests.support.adapter_files import small_adapter
from tests.support.batches import make_batch
from tests.support.commands import Pv
from tests.support.signers import Studio
from tests.support.watermark_attacks import scene


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path / "studio", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def known(home: Path) -> tuple[RenderItem, str]:
    """Return a clip of a batch of this library, and its key."""
    batch = make_batch("20261128-090000-aaaa", clips=2)
    group = group_items(batch.job(), read_items(batch.items))[1]
    return group.items[0], group.fingerprints[group.items[0].clip]


@pytest.fixture
def marked(known: tuple[RenderItem, str]) -> Pixels:
    return mark(scene(3, 128, 4), "spread", known[1])[0]


def facts_of(item: RenderItem, **more: Any) -> dict[str, Any]:
    names = ("identity", "prompt", "seed", "run", "step")
    return {"generated_by_ai": True, **{name: getattr(item, name) for name in names}, **more}


def test_signed_clip_has_all_marks_and_is_known(
    pv: Pv, studio: Studio, known: tuple[RenderItem, str], marked: Pixels
) -> None:
    item, key = known
    write_clip(Path("clips/clip"), marked, 8, facts_of(item), studio.encoding("mp4"))
    answer = pv("verify", "clips", "--json")
    assert answer.status == 0, answer.err
    found = answer.json
    assert (found["kind"], found["marked"], found["problem"]) == ("clip", True, "")
    assert found["credentials"] == {
        "signer": "A studio",
        "program": "pvtool",
        "state": "valid",
        "generated": True,
    }
    assert found["metadata"]["prompt"] == item.prompt
    assert found["watermark"]["id"] == key[:6]
    assert found["watermark"]["chance"] < 1e-9
    assert (found["known"]["key"], found["known"]["path"]) == (key, item.clip)
    text = pv("verify", "clips/clip.mp4").out
    assert "clips/clip.mp4: marked\n  content credentials: signed by A studio (pvtool)" in text
    assert f"  watermark: spread, id {key[:6]}, 40 of 40 bits" in text
    assert f"seed {item.seed}: {item.clip}" in text


@pytest.mark.parametrize("name", ["png", "webp", "gif"])
def test_clip_without_metadata_is_known_by_its_watermark(
    pv: Pv, known: tuple[RenderItem, str], marked: Pixels, name: str
) -> None:
    (path,) = write_clip(Path("clip"), marked, 8, {}, EncodingConfig(formats=(name,)))
    for file in path.iterdir() if path.is_dir() else ():
        Image.open(file).convert("RGB").save(file)  # without XMP
    found = pv("verify", str(path), "--json").json
    assert found["watermark"]["id"] == known[1][:6]
    assert found["known"]["seed"] == known[0].seed
    assert found["credentials"] is None


def test_clip_without_watermark_is_known_by_its_metadata(
    pv: Pv, known: tuple[RenderItem, str]
) -> None:
    write_clip(Path("clip"), scene(1, 64, 2), 8, facts_of(known[0]))
    found = pv("verify", "clip.mp4", "--json").json
    assert (found["marked"], found["watermark"]) == (True, None)
    assert found["known"]["key"] == known[1]


def test_changed_and_unmarked_files_are_told_apart(pv: Pv, studio: Studio, tmp_path: Path) -> None:
    facts = {"generated_by_ai": True}
    (path,) = write_clip(Path("clip"), scene(1, 64, 2), 8, facts, studio.encoding("mp4"))
    content = path.read_bytes()
    middle = content.index(b"mdat") + 100
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    Image.fromarray(scene(2, 64, 1)[0]).save("photo.png")
    answer = pv("verify", "clip.mp4", "photo.png", "--no-crops", "--json")
    changed, photo, error = answer.lines
    assert answer.status == 3
    assert (changed["credentials"]["state"], changed["marked"]) == ("invalid", True)  # metadata
    assert (photo["marked"], photo["credentials"], photo["known"]) == (False, None, None)
    assert error["error"]["message"] == (
        "1 of 2 files have no mark of AI generation that pv can read."
    )
    assert pv("verify", "photo.png", "--no-crops").out == "photo.png: no mark found\n"


def test_marks_of_other_programs_are_read(pv: Pv, studio: Studio) -> None:
    image = Image.fromarray(scene(4, 64, 1)[0])
    image.save("theirs.png")
    own = read_credentials(studio.certificate, studio.key)
    how = C2paSignerInfo(own.algorithm, own.chain.encode(), own.key.encode(), None)
    made = {"action": "c2pa.created", "digitalSourceType": AI_MADE}
    statement = {
        "claim_generator_info": [{"name": "Another generator", "version": "1"}],
        "format": "image/png",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}],
    }
    settings = Context(Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}}))
    with (
        Path("theirs.png").open("rb") as source,
        Path("signed.png").open("w+b") as target,
        Signer.from_info(how) as signer,
        Builder(json.dumps(statement), settings) as builder,
    ):
        builder.sign(signer, "image/png", source, target)
    image.save("iptc.webp", xmp=xmp())
    answer = pv("verify", "signed.png", "iptc.webp", "--no-crops", "--json")
    signed, labelled = answer.lines
    assert answer.status == 0
    assert signed["credentials"]["program"] == "Another generator"
    assert signed["credentials"]["generated"] is True
    assert labelled["metadata"] == {}


def test_adapters_are_verified(pv: Pv, run: RunFolder) -> None:
    content = small_adapter(1, consent_sha256="abc", consent_scope="private")
    run.write_checkpoint(900, {ADAPTER_FILE: content})
    Path("copy.safetensors").write_bytes(content)
    Path("other.safetensors").write_bytes(small_adapter(2, format="another program"))
    answer = pv("verify", "copy.safetensors", "other.safetensors", "--json")
    ours, other = answer.lines[:2]
    assert answer.status == 3
    assert (ours["kind"], ours["marked"], ours["known"]) == ("adapter", True, {"run": "mara-1@900"})
    assert ours["metadata"]["consent_scope"] == "private"
    assert (other["marked"], other["known"]) == (False, None)
    text = pv("verify", "copy.safetensors").out
    assert "metadata: pv adapter 1, consent_scope private, consent_sha256 abc" in text
    assert "known here: run mara-1@900" in text


def test_files_of_strangers_are_harmless(pv: Pv, tmp_path: Path) -> None:
    folder = Path("strange")
    folder.mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "away.png").symlink_to("/dev/zero")
    (folder / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:1/x.ts\n")
    (folder / "empty.webp").touch()
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "many.gif").write_bytes(b"GIF89a" + b"<x:xmpmeta<pv:facts>" * 100_000)
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    deep = b'{"__metadata__":' + b"[" * 100_000
    (folder / "deep.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    (folder / "notes.txt").write_text("not verified in a folder")
    (folder / "seed-000001.json").write_text('{"files": []}')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "\x1b[31mred.png", xmp=xmp())
    answer = pv("verify", str(folder), "strange/notes.txt", "--no-crops", "--json")
    assert answer.status == 3
    found = {Path(each["path"]).name: each for each in answer.lines[:-1]}
    assert found.keys() == {
        *("pipe.mp4", "list.mp4", "empty.webp", "huge.png", "many.gif", "header.safetensors"),
        *("deep.safetensors", "notes.txt", "\x1b[31mred.png"),
    }
    for name, each in found.items():
        if name.endswith("red.png"):
            assert each["problem"] == ""
        else:
            assert not each["marked"], name
            assert each["problem"].endswith("."), (name, each["problem"])
            assert "Traceback" not in each["problem"]
    assert found["pipe.mp4"]["problem"] == "pipe.mp4 is a named pipe."
    assert "\x1b" not in pv("verify", str(folder), "--no-crops").out
    missing = pv("verify", "nowhere")
    assert (missing.status, "nowhere" in missing.err) == (4, True)


def huge_png() -> bytes:
    """Return the head of a PNG of a billion pixels."""
    size = struct.pack(">IIBBBBB", 2**15, 2**15, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(2**16))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
