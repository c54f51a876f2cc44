"""Content credentials: a reader sees the signer of a clip, and detects changed files."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c2pa import Context, Reader, Settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from pvtool_core.errors import ExitStatus, UsageError
from pvtool_core.media.c2pa import read_credentials, sign
from pvtool_core.media.decode import Pixels, frames_of
from pvtool_core.media.encode import write_clip
from pvtool_core.media.generated_marks import generated_mark
from pvtool_core.media.metadata import AI_MADE, read_facts
from pvtool_core.settings.jobs import EncodingConfig

FACTS = {"prompt": "a woman dancing 🎉", "seed": 3}
SIGNED = ("mp4", "gif", "webp", "png")


def moving_square(frames: int = 4) -> Pixels:
    clip = np.full((frames, 48, 64, 3), (40, 90, 160), np.uint8)
    for number in range(frames):
        clip[number, 12:28, 4 + 5 * number : 20 + 5 * number] = (220, 60, 30)
    return clip


def named(name: str) -> x509.Name:
    parts = {NameOID.ORGANIZATION_NAME: "A studio", NameOID.COMMON_NAME: name}
    return x509.Name([x509.NameAttribute(key, value) for key, value in parts.items()])


def certificate(
    subject: str,
    issuer: str,
    public: Any,
    root: ec.EllipticCurvePrivateKey,
    vouches: bool,
    days: int = 30,
) -> x509.Certificate:
    """Return one certificate of a chain, with the extensions that C2PA requires."""
    begins = datetime.now(UTC) - timedelta(60)
    number = x509.random_serial_number()
    made = x509.CertificateBuilder(
        named(issuer), named(subject), public, number, begins, begins + timedelta(60 + days)
    )
    uses = x509.KeyUsage(not vouches, False, False, False, False, vouches, vouches, False, False)
    made = made.add_extension(x509.BasicConstraints(vouches, None), True).add_extension(uses, True)
    made = made.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False
    )
    if not vouches:
        made = made.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False
        )
    return made.sign(root, hashes.SHA256())


def pem(key: Any, lock: KeySerializationEncryption | None = None) -> bytes:
    """Return the key in OpenSSL's default format."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption())


class Studio:
    """A signer with a certificate, a key, and a certificate authority."""

    def __init__(self, folder: Path, key: Any) -> None:
        folder.mkdir(parents=True)
        authority = ec.generate_private_key(ec.SECP256R1())
        root = certificate("Root", "Root", authority.public_key(), authority, vouches=True)
        own = certificate("Signer", "Root", key.public_key(), authority, vouches=False)
        self.root = root.public_bytes(Encoding.PEM)
        self.certificate, self.key = folder / "chain.pem", folder / "key.pem"
        self.certificate.write_bytes(own.public_bytes(Encoding.PEM) + self.root)
        self.key.write_bytes(pem(key))

    def encoding(self, *formats: str) -> EncodingConfig:
        return EncodingConfig(formats=formats, certificate=str(self.certificate), key=str(self.key))

    def read(self, file: Path) -> tuple[str | None, dict[str, Any]]:
        """Return the validation state and the manifest, for a reader that trusts the authority."""
        trust = {"trust": {"user_anchors": self.root.decode()}, "verify": {"verify_trust": True}}
        with Reader(file, context=Context(Settings.from_dict(trust))) as reader:
            told = json.loads(reader.json())
            return reader.get_validation_state(), told["manifests"][told["active_manifest"]]


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
