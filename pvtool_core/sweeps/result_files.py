"""Write the results of a sweep to its folder, as JSON, CSV, Markdown and a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvtool_core.files import replace_file
from pvtool_core.sweeps.cells import Cell
from pvtool_core.sweeps.sweep_file import Sweep
from pvtool_core.sweeps.sweep_page import write_sweep_page
from pvtool_core.sweeps.sweep_results import results_of
from pvtool_core.sweeps.sweep_tables import (
    CSV,
    MARKDOWN,
    PAGE,
    RESULTS,
    comma_separated,
    markdown,
)


def write_results(sweep: Sweep, cells: Sequence[Cell], out: Path) -> dict[str, Any]:
    """Write the results of all complete cells to `out`, and return them."""
    results = results_of(sweep, cells, out)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / RESULTS, json.dumps(results, indent=1, ensure_ascii=False).encode())
    replace_file(out / CSV, comma_separated(results).encode())
    replace_file(out / MARKDOWN, markdown(results).encode())
    write_sweep_page(results, out / PAGE)
    return results
