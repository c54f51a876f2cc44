"""Write the tables of the tiny sweeps to the page of results.

    python -m tests.benchmarks.paper_tables --out DIR --write docs/results-paper.md

DIR is the folder of `tests.benchmarks.identities --only-add`, in whose home the sweeps
`tiny-table-1` to `tiny-table-4b` were run. The text of the page outside the markers is kept.
"""

import argparse
import json
from pathlib import Path

from pvtool_core.files import replace_file

TABLES = {
    "1": "Table 1: other methods",
    "2": "Table 2: image model, one prompt",
    "3": "Table 3: semantic consistency reward",
    "4a": "Table 4a: active steps",
    "4b": "Table 4b: layers",
}
BEGIN, END = "<!-- begin of the tables -->", "<!-- end of the tables -->"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the identities")
    parser.add_argument("--write", type=Path, required=True, help="page whose tables are replaced")
    options = parser.parse_args()
    before, found, rest = options.write.read_text().partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        parser.error(f"{options.write} lacks the markers {BEGIN} and {END}")
    sweeps = options.out / "home/data/sweeps"
    tables = [table(sweeps / f"tiny-table-{name}", title) for name, title in TABLES.items()]
    page = "\n\n".join([f"{before}{BEGIN}", *tables, f"{END}{after}"])
    replace_file(options.write, page.encode())


def table(folder: Path, title: str) -> str:
    """Return the results of a sweep under a heading. Raises ValueError if cells are missing."""
    cells = json.loads((folder / "results.json").read_bytes())["cells"]
    if cells["done"] != cells["total"]:
        raise ValueError(f"{folder.name}: {cells['done']} of {cells['total']} cells are complete")
    text = (folder / "results.md").read_text()
    _, _, text = text.partition("\n## ")  # the page has a heading of its own
    return f"## {title}\n\n### {text.strip()}".replace("\n## ", "\n### ")


if __name__ == "__main__":
    main()
