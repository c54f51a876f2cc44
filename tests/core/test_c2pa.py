"""Content credentials: a reader sees the signer of a clip, and detects changed files."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
)
from PIL import Image

from pvtool_core.errors import ExitStatus, UsageError
from pvtool_core.media.c2pa import read_credentials, sign
from pvtool_core.media.decode import Pixels, frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.generated_marks import generated_mark
from pvtool_core.media.metadata import AI_MADE, read_facts
from pvtool_core.settings.jobs import EncodingConfig
from tests.support.signers import Studio, certificate, pem

FACTS = {"prompt": "a woman dancing 🎉", "seed": 3}
SIGNED = ("mp4", "gif", "webp", "png")


def moving_square(frames: int = 4) -> Pixels:
    clip = np.full((frames, 48, 64, 3), (40, 90, 160), np.uint8)
    for number in range(frames):
        clip[number, 12:28, 4 + 5 * number : 20 + 5 * number] = (220, 60, 30)
    return clip


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path / "studio", ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("suffix", SIGNED)
def test_signed_clip_contains_signer_and_settings(
    tmp_path: Path, studio: Studio, suffix: str
) -> None:
    (path,) = write_clip(
        tmp_path / "out" / "clip", moving_square(), 8, FACTS, studio.encoding(suffix)
    )
    for file in path.iterdir() if suffix == "png" else (path,):
        state, statement = studio.read(file)
        assert state == "Trusted"
        assert statement["title"] == f"clip.{suffix}"
        assert statement["claim_generator_info"][0]["name"] == "pvtool"
        assert statement["signature_info"]["issuer"] == "A studio"
        (actions,) = (
            each["data"]["actions"]
            for each in statement["assertions"]
            if "actions" in each["label"]
        )
        assert [(each["action"], each["digitalSourceType"]) for each in actions] == [
            ("c2pa.created", AI_MADE)
        ]
    assert read_facts(path) == FACTS
    assert frames_of(path).shape == (4, 48, 64, 3)
    assert [each.name for each in (tmp_path / "out").iterdir()] == [path.name]


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_common_key_types_can_sign(tmp_path: Path, key: Any) -> None:
    studio = Studio(tmp_path / "studio", key)
    (path,) = write_clip(tmp_path / "clip", moving_square(), 8, FACTS, studio.encoding("webp"))
    assert studio.read(path)[0] == "Trusted"


def test_change_after_signing_is_detected(tmp_path: Path, studio: Studio) -> None:
    (path,) = write_clip(tmp_path / "clip", moving_square(), 8, FACTS, studio.encoding("mp4"))
    content = path.read_bytes()
    middle = content.index(b"mdat") + 100
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    assert studio.read(path)[0] == "Invalid"


def test_errors_for_unusable_keys_and_certificates(tmp_path: Path, studio: Studio) -> None:
    other = Studio(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    koblitz = Studio(tmp_path / "koblitz", ec.generate_private_key(ec.SECP256K1()))
    alone = tmp_path / "alone.pem"
    alone.write_bytes(other.root)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret"))
    )
    wrong = {
        (studio.certificate, other.key): "key.pem cannot sign: it is not the key of chain.pem",
        (studio.certificate, locked): "locked.pem cannot sign: it has a passphrase",
        (
            studio.certificate,
            studio.certificate,
        ): "chain.pem cannot sign: not a PEM private key",
        (studio.key, studio.key): "key.pem cannot sign: not a PEM certificate",
        (
            tmp_path / "none.pem",
            studio.key,
        ): r"none.pem cannot sign: it cannot be read \(No such file",
        (studio.certificate, tmp_path): r"cannot sign: it cannot be read \(Is a directory",
        (koblitz.certificate, koblitz.key): "key.pem cannot sign: unsupported key type",
    }
    for (chain, key), sentence in wrong.items():
        how = EncodingConfig(certificate=str(chain), key=str(key))
        with pytest.raises(UsageError, match=sentence) as refusal:
            write_clip(tmp_path / "out" / "clip", moving_square(), 8, FACTS, how)
        assert refusal.value.status is ExitStatus.USAGE
    assert not (tmp_path / "out").exists()


def test_expired_certificate_is_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = certificate("Signer", "Signer", key.public_key(), key, vouches=False, days=-1)
    (tmp_path / "own.pem").write_bytes(own.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(pem(key))
    how = EncodingConfig(certificate=str(tmp_path / "own.pem"), key=str(tmp_path / "key.pem"))
    with pytest.raises(
        UsageError,
        match=r"own\.pem cannot sign: the certificate was not valid at time of signing\.",
    ):
        write_clip(tmp_path / "out" / "clip", moving_square(), 8, FACTS, how)
    assert list((tmp_path / "out").iterdir()) == []


def test_error_without_c2pa_says_how_to_install_it(
    tmp_path: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(UsageError, match="not installed") as refusal:
        write_clip(tmp_path / "clip", moving_square(), 8, FACTS, studio.encoding("mp4"))
    assert refusal.value.hint == "Run `pip install pvtool[c2pa]`."


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp"])
def test_photo_with_credentials_of_a_generator_is_recognised(
    tmp_path: Path, studio: Studio, suffix: str
) -> None:
    file = tmp_path / f"photo.{suffix}"
    Image.fromarray(moving_square(1)[0]).save(file)
    assert generated_mark(file) == ""
    sign(file, read_credentials(studio.certificate, studio.key), "photo", f"image/{suffix}")
    assert generated_mark(file) == "trainedAlgorithmicMedia"
