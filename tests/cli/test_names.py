"""Unusual file names: not UTF-8, too long, with commas, line breaks or escapes."""

import os
from pathlib import Path

import pytest
from PIL import Image

from pvtool_core.batches.columns import parse_lora
from pvtool_core.errors import BadName, BadPicture, FaceRefused, UsageError, printable
from pvtool_core.paths import check_name, check_utf8, path_of, path_text
from pvtool_core.store.identities import Library
from pvtool_core.store.runs import RunFolder
from tests.support.commands import Pv, everything

LATIN = os.fsdecode(b"cl\xe9s")


def photo(path: Path) -> Path:
    """Write a picture without a face, which an engine reports after reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "white").save(path, "PNG")
    return path


@pytest.mark.usefixtures("engines_in_process")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"andr\xe9.png", r"andr\xe9.png"),
        (b"\xff\xfe.png", r"\xff\xfe.png"),
        (b"two\nlines.png", r"two\nlines.png"),
        (b"\x1b[31mred\x1b]0;x\x07.png", r"\x1b[31mred\x1b]0;x\x07.png"),
        ("𠀀".encode() * 60 + b".png", "𠀀" * 60 + ".png"),
    ],
)
def test_photo_of_any_name_is_read_and_its_name_printed_safely(
    pv: Pv, name: bytes, told: str
) -> None:
    photo(Path(os.fsdecode(name)))
    answer = pv("identity", "add", "ann", os.fsdecode(name), "--adult", "--consent", "hers")
    assert answer.status == 3
    assert f"No face found in {told}." in answer.err
    assert "\x1b[31mred" not in answer.err


def test_a_photo_in_a_working_folder_that_is_not_utf_8_is_read(
    pv: Pv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / LATIN / "ann.png")
    monkeypatch.chdir(tmp_path / LATIN)
    answer = pv("identity", "add", "ann", "ann.png", "--adult", "--consent", "hers")
    assert (answer.status, "No face found in ann.png" in answer.err) == (3, True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (".", ". is a folder."),
        ("..", ".. is a folder."),
        ("/", "/ is a folder."),
        ("photos/", "photos is a folder."),
        ("/dev/null", "null is not a regular file."),
        ("none.png", "none.png not found."),
        ("x" * 300 + ".png", ".png not found."),
        (os.fsdecode(b"andr\xe9.png"), r"andr\xe9.png not found."),
    ],
)
def test_invalid_photo_is_reported_before_an_engine_starts(pv: Pv, given: str, told: str) -> None:
    Path("photos").mkdir()
    answer = pv("identity", "add", "ann", given, "--adult", "--consent", "hers", "--json")
    assert (answer.status, answer.json["error"]["kind"]) == (3, "BadPicture")
    assert told in answer.json["error"]["message"]


NOT_UTF_8 = [
    f"render mara <V>runs --out {LATIN}",
    f"render mara <V>{LATIN}",
    f"render mara --prompts {LATIN}.txt",
    f"render mara <V>runs --lora {LATIN}.safetensors",
    f"render mara <V>runs --negative {LATIN}",
    f"train mara --base-model {LATIN}",
    f"train mara --set model.motion_adapter={LATIN}",
    f"train mara --controlnet net --control-frames {LATIN}",
    f"models add mine {LATIN}",
    f"eval {LATIN}",
    f"identity export mara {LATIN}.tar",
    f"identity import {LATIN}.tar",
    f"prompts add mine <V>{LATIN}",
    f"runs export mara-1 {LATIN}",
    f"dashboard {LATIN}/run",
]


@pytest.mark.parametrize("words", NOT_UTF_8)
def test_arguments_that_are_not_utf_8_are_refused_before_a_write(
    pv: Pv, run: RunFolder, tmp_path: Path, words: str
) -> None:
    (tmp_path / "here" / LATIN).mkdir()
    before = everything(tmp_path)
    answer = pv(*words.split())
    assert answer.status == 2
    assert r"cl\xe9s" in answer.err
    assert "not valid UTF-8" in answer.err
    assert everything(tmp_path) == before


def test_a_consent_statement_that_is_not_utf_8_is_refused(pv: Pv) -> None:
    photo(Path("ann.png"))
    answer = pv("identity", "add", "ann", "ann.png", "--adult", "--consent", LATIN)
    assert (answer.status, "consent" in answer.err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        "render mara <V>runs",
        "render mara <V>runs --dry-run",
        "identity export mara",
        "train mara --base-model base",
    ],
)
def test_a_working_folder_that_is_not_utf_8_is_refused_where_paths_in_it_are_recorded(
    pv: Pv, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    (tmp_path / LATIN / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / LATIN)
    before = everything(tmp_path)
    answer = pv(*words.split())
    assert (answer.status, r"cl\xe9s" in answer.err) == (2, True)
    assert everything(tmp_path) == before


def test_a_home_that_is_not_utf_8_is_refused(
    pv: Pv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PV_HOME", str(tmp_path / LATIN))
    for words in ("identity list", "runs list", "models list", "render ann <V>runs"):
        answer = pv(*words.split())
        assert (answer.status, r"cl\xe9s" in answer.err) == (2, True)
    assert not (tmp_path / LATIN).exists()


def test_path_of_any_bytes_can_be_stored_in_a_record() -> None:
    for name in (b"/a/b.png", b"/andr\xe9/%41 #?.png", b"/\xff\n.png", "/\U00020000".encode()):
        path = Path(os.fsdecode(name))
        text = path_text(path)
        assert text.encode()
        assert path_of(text) == path
    assert path_text(Path("/a b.png")) == "/a b.png"
    with pytest.raises(UsageError):
        check_utf8(Path("/") / LATIN)


def test_name_with_suffixes_must_fit_into_a_file_name(tmp_path: Path) -> None:
    for name in ("𠀀" * 64, "漢" * 67, "é" * 65):
        with pytest.raises(BadName):
            check_name("an identity", name)
    for name in ("𠀀" * 50, "漢" * 64, "é" * 64, "x" * 64):
        library = Library(tmp_path / "people")
        assert library.check_free(name) == name
        (library.root / f"{name}-1000").mkdir(parents=True)


def test_errors_about_pictures_contain_no_control_characters() -> None:
    hostile = Path("/x/\x1b]0;owned\x07\n\u202e.png")
    for error in (BadPicture(hostile, "is damaged"), FaceRefused(hostile, "none")):
        assert error.message.isprintable()
    assert printable("/a/👩\u200d🚀 é.png") == "👩\u200d🚀 é.png"


def test_lora_file_name_can_contain_a_comma(pv: Pv, run: RunFolder, home: Path) -> None:
    answer = pv(
        "render", "mara", "<V>runs", "--lora-set", "ink, wash.safetensors:0.5,other.safetensors"
    )
    assert (answer.status, "Weights not found: ink." in answer.err) == (4, True)
    Path("ink, wash.safetensors").write_bytes(b"x")
    answer = pv(
        "render", "mara", "<V>runs", "--lora-set", "ink, wash.safetensors:0.5,other.safetensors"
    )
    assert (answer.status, "Weights not found: other.safetensors." in answer.err) == (4, True)


def test_lora_file_name_can_end_like_a_strength(tmp_path: Path) -> None:
    (tmp_path / "style:2").touch()
    assert parse_lora(f"{tmp_path}/style:2") == {"file": f"{tmp_path}/style:2"}
    (tmp_path / "style").touch()
    assert parse_lora(f"{tmp_path}/style:2") == {"file": f"{tmp_path}/style", "weight": 2.0}
