"""Exported identities can be encrypted, and a wrong passphrase changes nothing."""

import stat
from pathlib import Path

import pytest

from pvtool_core.store import encryption
from pvtool_core.store.identities import Library
from tests.support.commands import Pv, everything


@pytest.mark.slow
def test_encrypted_identity_is_imported_with_its_passphrase_only(
    pv: Pv, home: Path, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = pv("identity", "export", mara, "--encrypt")
    assert (refused.status, "A passphrase is required." in refused.err) == (2, True)
    monkeypatch.setenv("PV_PASSPHRASE", "correct horse")
    exported = pv("identity", "export", mara, "--encrypt", "--json")
    file = Path(exported.json["path"])
    assert (exported.status, file.name, "Warning" in exported.err) == (0, "mara.tar.age", False)
    content = file.read_bytes()
    assert content.startswith(b"age-encryption.org/v1\n")
    assert b"identity.toml" not in content
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    Path("damaged.age").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    Path("words").write_text("wrong\n")
    before = everything(home / "data")
    for words in (("mara.tar.age", "--passphrase-file", "words"), ("damaged.age",)):
        refused = pv("identity", "import", *words, "--name", "nora")
        assert refused.status == 3
        assert refused.err.splitlines()[0] == (
            f"Error: {words[0]} cannot be decrypted: the passphrase is wrong, or the file is "
            "damaged."
        )
    assert everything(home / "data") == before
    assert pv("identity", "import", "mara.tar.age", "--name", "nora").status == 0
    assert Library().get("nora").record == Library().get(mara).record


def test_export_without_encryption_warns(pv: Pv, mara: str) -> None:
    answer = pv("identity", "export", mara)
    assert "Warning: it contains the photos, embeddings and consent statement" in answer.err


def test_export_that_cannot_be_encrypted_writes_nothing(
    pv: Pv, mara: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = pv("identity", "export", mara, "--passphrase-file", "missing")
    assert (refused.status, "Cannot read the passphrase from missing" in refused.err) == (2, True)
    monkeypatch.setattr(encryption, "find_spec", {}.get)
    refused = pv("identity", "export", mara, "--encrypt")
    assert (refused.status, "pip install pvtool[age]" in refused.err) == (4, True)
    assert list(Path().iterdir()) == []
