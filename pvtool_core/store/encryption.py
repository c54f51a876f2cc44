"""Encrypt files with a passphrase in the age format, which the programs age and rage read too.

`pip install pvtool[age]` installs the library (pyrage, MIT). Its scrypt takes seconds on purpose.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pvtool_core.errors import BadArchive, NotReady, UsageError

_HEADER = b"age-encryption.org/v1\n"


def is_encrypted(content: bytes) -> bool:
    """Return whether content, or its beginning, is that of an age file."""
    return content.startswith(_HEADER)


def is_encrypted_file(path: Path) -> bool:
    """Return whether an existing regular file is encrypted."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return is_encrypted(file.read(len(_HEADER)))


def check_encryption() -> None:
    """Raise NotReady without the library."""
    if not find_spec("pyrage"):
        raise NotReady(["pyrage, the library for encryption"], "Run `pip install pvtool[age]`.")


def encrypt(content: bytes, passphrase: str) -> bytes:
    """Encrypt with a passphrase. Raises NotReady, and UsageError for an empty passphrase."""
    check_encryption()
    if not passphrase:
        raise UsageError("The passphrase is empty.", "Use a long one, for example of six words.")
    return _library().passphrase.encrypt(content, passphrase)


def decrypt(content: bytes, passphrase: str, path: Path) -> bytes:
    """Decrypt the content of `path`.

    Raises NotReady, and BadArchive for a wrong passphrase or a damaged file.
    """
    check_encryption()
    library = _library()
    try:
        return library.passphrase.decrypt(content, passphrase)
    except library.DecryptError as error:
        problem = "cannot be decrypted: the passphrase is wrong, or the file is damaged"
        raise BadArchive(path, problem) from error


def _library() -> Any:
    """Return pyrage, which has no types."""
    import pyrage

    return pyrage
