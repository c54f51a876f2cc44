"""References to classes and functions as `module:name`, for tables that import nothing."""

import importlib
from typing import Any


def load_named(reference: str) -> Any:
    """Import what `module:name` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
