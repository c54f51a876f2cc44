"""Report pickles with more than tensors: `python -m pvtool_core.models.pickles FILE...`.

The result is a line of JSON. The weights-only reader of torch runs no code of the file: it accepts
tensors and plain containers only.
"""

import json
import sys
import zipfile
from pathlib import Path

import torch


def problem_of(path: Path) -> str | None:
    """Return the problem of a pickle as a phrase after its name; None if it has only tensors."""
    try:
        torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except Exception as error:  # an untrusted file can raise any exception, and is refused
        if "GLOBAL " in str(error):  # an object other than a tensor
            return "is a pickle that holds more than tensors, and could run code when loaded"
        return "does not load as a file of tensors"
    return None


if __name__ == "__main__":
    found = {name: problem_of(Path(name)) for name in sys.argv[1:]}
    sys.stdout.write(
        json.dumps({name: problem for name, problem in found.items() if problem}) + "\n"
    )
