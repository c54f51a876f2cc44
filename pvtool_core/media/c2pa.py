"""C2PA content credentials: a signed statement in the file that a machine made it, and with which program.

`pip install pvtool[c2pa]` brings the library. A file that is changed after signing no longer agrees with it.
"""

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pvtool_core.errors import UsageError
from pvtool_core.media.metadata import AI_MADE

_KINDS = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp", ".png": "image/png"}
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}}
}  # it would be several times the size of a gif or webp


@dataclass(frozen=True)
class Credentials:
    """A chain of certificates and the private key of its first, both PEM, and C2PA's name of the algorithm."""

    certificate: Path
    chain: str
    key: str
    algorithm: str


class CredentialsRefused(UsageError):
    """A certificate or a key that cannot sign."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path.name} cannot sign: {problem}.",
            "Give a PEM chain that C2PA accepts, yours first, and its private key without a passphrase.",
        )


def read_credentials(certificate: Path, key: Path) -> Credentials:
    """Raises UsageError without the library, or CredentialsRefused."""
    if not find_spec("c2pa"):
        raise UsageError(
            "Signing needs a library that is not installed.", "Run `pip install pvtool[c2pa]`."
        )
    from cryptography import x509

    chain = _read(certificate)
    try:
        owner = x509.load_pem_x509_certificate(chain)
    except ValueError as error:
        raise CredentialsRefused(certificate, "it is no certificate in PEM") from error
    private = _private_key(key)
    if _public(private.public_key()) != _public(owner.public_key()):
        raise CredentialsRefused(key, f"it is not the key of {certificate.name}")
    return Credentials(certificate, chain.decode(), _as_pkcs8(private), _algorithm(key, private))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsRefused(path, f"it cannot be read ({error.strerror})") from error


def _private_key(path: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise CredentialsRefused(path, "it has a passphrase") from error
    except ValueError as error:
        raise CredentialsRefused(path, "it is no private key in PEM") from error


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _as_pkcs8(key: Any) -> str:
    """The one form of a private key that c2pa reads."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _algorithm(path: Path, key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if isinstance(key, RSAPrivateKey):
        return "ps256"
    if isinstance(key, Ed25519PrivateKey):
        return "ed25519"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise CredentialsRefused(
        path, "C2PA knows no such key; it takes P-256, P-384, P-521, RSA and Ed25519"
    )


def sign(file: Path, credentials: Credentials, title: str) -> None:
    """Put the signed statement into a finished mp4, gif, webp or png. Raises CredentialsRefused."""
    from c2pa import Builder, C2paError, C2paSignerInfo, Context, Settings, Signer

    how = C2paSignerInfo(
        credentials.algorithm, credentials.chain.encode(), credentials.key.encode(), None
    )
    signed, kind = file.with_name(f"{file.name}.signed"), _KINDS[file.suffix]
    with file.open("rb") as source, signed.open("w+b") as target:
        try:
            settings = Context(Settings.from_dict(_SETTINGS))
            with (
                Signer.from_info(how) as signer,
                Builder(_statement(title, kind), settings) as statement,
            ):
                statement.sign(signer, kind, source, target)
        except C2paError as error:
            raise CredentialsRefused(credentials.certificate, _reason(error)) from error
    signed.replace(file)


def _reason(error: Exception) -> str:
    """What c2pa complains of, without the kind of error in front."""
    first = (str(error).splitlines() or ["c2pa gave no reason"])[0]
    return re.sub(r"^\w+: ", "", first).rstrip(".")


def _statement(title: str, kind: str) -> str:
    maker = {"name": "pvtool", "version": version("pvtool")}
    made = {"action": "c2pa.created", "digitalSourceType": AI_MADE, "softwareAgent": maker}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [made]}}
    return json.dumps(
        {"claim_generator_info": [maker], "title": title, "format": kind, "assertions": [actions]}
    )
