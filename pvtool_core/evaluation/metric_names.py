"""Names of all metrics, read from their files: importing them would load torch."""

import re
from pathlib import Path

_METRIC = re.compile(r'^    name, [^=]*= "(\w+)"', re.MULTILINE)


def metric_names() -> list[str]:
    """Return the names of all metrics in alphabetical order."""
    files = Path(__file__).parent.glob("metrics/*.py")
    return sorted(name for file in files for name in _METRIC.findall(file.read_text("utf-8")))
