"""The identity library: identities are complete or absent, and no file leaves the library."""

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from pvtool_core.errors import BadArchive, BadName, BrokenIdentity, ExitStatus, Missing, NameTaken
from pvtool_core.paths import check_name
from pvtool_core.store.identities import EMBEDDINGS_FILE, FACES_FILE, Identity, Library
from pvtool_core.store.identity_archive import pack

FACE = {
    "picture": "holiday.jpg",
    "reference": "references/000.png",
    "face": "faces/000.png",
    "score": 0.9,
    "bbox": [1, 2.5, 30, 40],
    "landmarks": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]],
}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "identities")


def add(library: Library, name: str = "mara") -> Identity:
    """Add an identity from the result of an identify job."""
    with library.staging() as staging:
        for folder, side in (("references", 64), ("faces", 112)):
            (staging / folder).mkdir()
            (staging / folder / "000.png").write_bytes(png(side))
        save_file({"rec": torch.tensor([[0.6, 0.8]])}, staging / EMBEDDINGS_FILE)
        (staging / FACES_FILE).write_text(json.dumps([FACE]))
        return library.adopt(staging, name, "woman", "said yes")


def png(side: int, mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, form)
    return buffer.getvalue()


def snapshot(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_added_identity_is_complete_private_and_readable(library: Library) -> None:
    add(library)
    identity = library.get("mara")
    assert (identity.noun, identity.record.consent) == ("woman", "said yes")
    assert [path.read_bytes() for path in (*identity.references, *identity.faces)] == [
        png(64),
        png(112),
    ]
    assert identity.record.faces[0].landmarks == tuple(range(1, 11))
    assert stat.S_IMODE(identity.folder.stat().st_mode) == 0o700
    assert [path.name for path in library.root.iterdir()] == ["mara"]


def test_refused_identity_leaves_no_files(library: Library) -> None:
    with pytest.raises(NameTaken), library.staging() as staging:
        (staging / "references").mkdir()
        raise NameTaken("an identity", "mara")
    assert list(library.root.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../mara", "/etc", "a/b", "..", ".", "", ".mara", "a\0b", "a\nb", "mara.", "x" * 65]
)
def test_name_cannot_escape_the_library(library: Library, name: str) -> None:
    add(library)
    before = snapshot(library.root)
    for attempt in (
        library.get,
        library.remove,
        library.check_free,
        partial(library.rename, "mara"),
    ):
        with pytest.raises(BadName):
            attempt(name)
    assert snapshot(library.root) == before


@given(st.text(max_size=70))
def test_each_accepted_name_has_its_own_folder(name: str) -> None:
    try:
        accepted = check_name("an identity", name)
    except BadName:
        return
    assert Path("library", accepted).resolve().parent == Path("library").resolve()
    assert not accepted.startswith((".", "-"))


def test_existing_name_is_refused_without_changes(library: Library) -> None:
    add(library)
    add(library, "nora")
    before = snapshot(library.root)
    with pytest.raises(NameTaken):
        add(library)
    with pytest.raises(NameTaken):
        library.rename("nora", "mara")
    assert snapshot(library.root) == before


def test_a_renamed_identity_keeps_everything_but_its_name(library: Library) -> None:
    record = add(library).record
    renamed = library.rename("mara", "nora")
    assert (library.names(), renamed.record) == (["nora"], record)


def test_a_removed_identity_leaves_nothing(library: Library) -> None:
    add(library)
    library.remove("mara")
    assert list(library.root.rglob("*")) == []
    with pytest.raises(Missing):
        library.remove("mara")


def test_error_for_missing_identity_suggests_the_nearest(library: Library) -> None:
    add(library)
    with pytest.raises(Missing, match="Did you mean 'mara'"):
        library.get("marah")


def test_an_exported_identity_is_the_same_on_another_machine(
    library: Library, tmp_path: Path
) -> None:
    before = snapshot(add(library).folder)
    library.export("mara", tmp_path / "mara.tar")
    elsewhere = Library(tmp_path / "elsewhere")
    assert snapshot(elsewhere.import_(tmp_path / "mara.tar").folder) == before
    assert elsewhere.import_(tmp_path / "mara.tar", "nora").name == "nora"
    with pytest.raises(NameTaken):
        elsewhere.import_(tmp_path / "mara.tar")
    with pytest.raises(NameTaken):
        library.export("mara", tmp_path / "mara.tar")


def repacked(archive: Path, **change: bytes | None) -> Path:
    """Return the archive with members replaced, added, or (None) removed."""
    with tarfile.open(archive) as tar:
        content: dict[str, bytes | None] = {
            member.name: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }
    content |= change
    target = archive.with_suffix(".changed")
    with tarfile.open(target, "w") as tar:
        for name, data in content.items():
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return target


@pytest.mark.parametrize(
    "change",
    [
        {"../evil": b"x"},
        {"/evil": b"x"},
        {"references/../../evil": b"x"},
        {"references/.evil": b"x"},
        {"evil.py": b"x"},
        {"faces/000.png": b"another"},
        {"faces/000.png": None},
        {"identity.toml": None},
        {"manifest.json": None},
        {"manifest.json": b"[]"},
        {"manifest.json": b"{"},
    ],
)
def test_damaged_or_hostile_archive_is_refused_without_changes(
    library: Library, tmp_path: Path, change: dict[str, bytes | None]
) -> None:
    add(library)
    library.export("mara", tmp_path / "mara.tar")
    archive = repacked(tmp_path / "mara.tar", **change)
    before = snapshot(tmp_path)
    with pytest.raises(BadArchive):
        library.import_(archive, "nora")
    assert snapshot(tmp_path) == before
    assert library.names() == ["mara"]


def resealed(archive: Path, **change: bytes | None) -> Path:
    """Return the archive with files replaced, added, or (None) removed, and a matching manifest."""
    with tarfile.open(archive) as tar:
        content: dict[str, bytes | None] = {
            member.name: file.read()
            for member in tar
            if (file := tar.extractfile(member)) is not None
        }
    manifest = json.loads(content.pop("manifest.json") or b"")
    content |= change
    kept = {name: data for name, data in content.items() if data is not None}
    target = archive.with_suffix(".changed")
    target.write_bytes(pack(manifest["name"], kept))
    return target


RECORD = """
noun = "woman"
consent = "yes"
created = "2026-05-03T12:00:00+00:00"
[[faces]]
picture = "holiday.jpg"
reference = "references/000.png"
face = "faces/000.png"
score = 0.9
bbox = [1.0, 2.0, 3.0, 4.0]
landmarks = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
"""


@pytest.mark.parametrize(
    "change",
    [
        {"embeddings.safetensors": None},
        {"embeddings.safetensors": b"rubbish"},
        {"embeddings.safetensors": save({"rec": torch.zeros(1, 2)})},
        {"embeddings.safetensors": save({"rec": torch.full((1, 2), torch.nan)})},
        {"embeddings.safetensors": save({"rec": torch.ones(2, 2)})},
        {"embeddings.safetensors": save({"rec": torch.ones(1, 2)}) + b"more"},
        {"embeddings.safetensors": save({})},
        {"embeddings.safetensors": (10**6).to_bytes(8, "little") + b"[" * 10**6},
        {"references/000.png": None},
        {"references/000.png": b"text"},
        {"references/000.png": png(64, form="JPEG")},
        {"references/000.png": png(64, mode="RGBA")},
        {"references/000.png": png(64)[:-20]},
        {"references/000.png": png(2049)},
        {"faces/000.png": png(64)},
        {"faces/001.png": png(112)},
        {"notes.txt": b"x"},
        {"identity.toml": b"a = " + b"[" * 100_000},
        {"identity.toml": b"\xff"},
        {"identity.toml": RECORD.split("[[faces]]", maxsplit=1)[0].encode()},
        {"identity.toml": RECORD.replace("references/000.png", "/etc/passwd").encode()},
        {"identity.toml": RECORD.replace("references/000.png", "references/../000.png").encode()},
        {"identity.toml": RECORD.replace("score = 0.9", "score = nan").encode()},
        {"identity.toml": RECORD.replace("bbox = [1.0, ", "bbox = [").encode()},
        {"identity.toml": (RECORD + RECORD[RECORD.index("[[faces]]") :]).encode()},
        {"identity.toml": RECORD.encode() + b"#" * (1 << 20)},
    ],
)
def test_archive_with_incomplete_identity_is_refused(
    library: Library, tmp_path: Path, change: dict[str, bytes | None]
) -> None:
    add(library)
    library.export("mara", tmp_path / "mara.tar")
    archive = resealed(tmp_path / "mara.tar", **change)
    before = snapshot(tmp_path)
    with pytest.raises(BadArchive) as refusal:
        library.import_(archive, "nora")
    assert refusal.value.status is ExitStatus.REFUSED
    assert len(refusal.value.message) < 400
    assert snapshot(tmp_path) == before
    assert library.names() == ["mara"]


def test_repacked_archive_is_accepted(library: Library, tmp_path: Path) -> None:
    add(library)
    library.export("mara", tmp_path / "mara.tar")
    assert library.import_(resealed(tmp_path / "mara.tar"), "nora").name == "nora"
    assert (
        library.import_(
            resealed(tmp_path / "mara.tar", **{"identity.toml": RECORD.encode()}), "rosa"
        ).name
        == "rosa"
    )


@pytest.mark.parametrize(
    "header",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(-(2**40))},
        {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)},
        {"size": "-5"},
        {"size": str(2**62)},
        {"path": "x" * 300},
    ],
)
def test_archive_with_impossible_sizes_or_names_is_refused(
    library: Library, tmp_path: Path, header: dict[str, str]
) -> None:
    add(library)
    library.export("mara", tmp_path / "mara.tar")
    with tarfile.open(tmp_path / "mara.tar", "a", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("references/001.png")
        member.pax_headers = header
        member.size = 512
        tar.addfile(member, io.BytesIO(bytes(512)))
    with pytest.raises(BadArchive):
        library.import_(tmp_path / "mara.tar", "nora")
    assert library.names() == ["mara"]


def test_imported_identity_is_synced_before_it_is_visible(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(library)
    library.export("mara", tmp_path / "mara.tar")
    synced: set[str] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    library.import_(tmp_path / "mara.tar", "nora")
    assert synced >= {
        "000.png",
        "references",
        "faces",
        "identity.toml",
        EMBEDDINGS_FILE,
        "identities",
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from pvtool_core.store.identities import Library

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
Library(Path(sys.argv[1])).export("mara", Path(sys.argv[2]))
"""


def test_killed_export_leaves_no_photos(library: Library, tmp_path: Path) -> None:
    add(library)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLED, str(library.root), str(tmp_path / "out/mara.tar")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("missing", ["O_TMPFILE", "link"])
def test_export_is_complete_and_private_without_anonymous_files(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    add(library)
    monkeypatch.delattr(os, "O_TMPFILE") if missing == "O_TMPFILE" else monkeypatch.setattr(
        os, "link", refused
    )
    (tmp_path / "out").mkdir()
    library.export("mara", tmp_path / "out/mara.tar")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mara.tar"]
    assert (tmp_path / "out/mara.tar").stat().st_mode & 0o777 == 0o600
    assert library.import_(tmp_path / "out/mara.tar", "nora").name == "nora"


def test_an_archive_with_a_link_is_refused(library: Library, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        member = tarfile.TarInfo("identity.toml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(BadArchive, match=r"identity\.toml"):
        library.import_(tmp_path / "link.tar")


@given(st.binary(max_size=2000))
def test_import_of_any_file_fails_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("import")
    (folder / "some.tar").write_bytes(content)
    with pytest.raises(BadArchive):
        Library(folder / "identities").import_(folder / "some.tar")


def embedded(library: Library, **embeddings: torch.Tensor) -> Identity:
    """Return an identity of one photo with these embeddings by recogniser."""
    identity = add(library)
    save_file(embeddings, identity.folder / EMBEDDINGS_FILE)
    return identity


def test_similarity_of_photos_is_the_mean_cosine_of_embeddings(
    library: Library,
) -> None:
    add(library)
    with library.staging() as staging:
        one, other = torch.randn(3, 512), torch.randn(3, 128)
        save_file({"one": one, "other": other}, staging / EMBEDDINGS_FILE)
        (staging / "references").mkdir()
        (staging / "references/000.png").write_bytes(png(64))
        (staging / FACES_FILE).write_text(json.dumps([FACE] * 3))
        identity = library.adopt(staging, "nora", "woman", "")
    expected = [torch.cosine_similarity(each[:, None], each[None], dim=-1) for each in (one, other)]
    assert torch.tensor(identity.similarities()).allclose(torch.stack(expected).mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"numbers",
        b"\2\0\0\0\0\0\0\0{}",
        b"\2\0\0\0\0\0\0\0[]",
        b'\x09\0\0\0\0\0\0\0{"a": {}}',
        None,
    ],
)
def test_damaged_embeddings_are_named(library: Library, content: bytes | None) -> None:
    identity = add(library)
    path = identity.folder / EMBEDDINGS_FILE
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BrokenIdentity, match=r"embeddings\.safetensors of mara"):
        identity.similarities()


@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(1, 8),
        torch.full((1, 8), torch.nan),
        torch.ones(2, 8),
        torch.ones(1, 8, dtype=torch.half),
    ],
)
def test_embeddings_of_another_identity_are_reported(library: Library, rows: torch.Tensor) -> None:
    with pytest.raises(BrokenIdentity):
        embedded(library, rec=rows).similarities()
