"""Signers of content credentials, with certificates of an authority of their own."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from c2pa import Context, Reader, Settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pvtool_core.settings.jobs import EncodingConfig


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
