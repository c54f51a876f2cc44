"""`python -m pvtool_core.models.pickles FILE...`: which of these hold more than tensors, as one line of JSON.

torch's weights-only reader runs no code of the file: it knows tensors and plain containers, and stops at anything else.
"""

import json
import sys
import zipfile
from pathlib import Path

import torch


def problem_of(path: Path) -> str | None:
    """What is wrong with a pickled file, as a phrase that follows its name; None if it holds tensors only."""
    try:
        torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except Exception as error:  # whatever a foreign file brings about is a reason not to take it
        if "GLOBAL " in str(error):  # a name of something that is no tensor
            return "is a pickle that holds more than tensors, and could run code when loaded"
        return "does not load as a file of tensors"
    return None


if __name__ == "__main__":
    found = {name: problem_of(Path(name)) for name in sys.argv[1:]}
    sys.stdout.write(
        json.dumps({name: problem for name, problem in found.items() if problem}) + "\n"
    )
