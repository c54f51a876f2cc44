"""The map of modules in docs/architecture.md, drawn from the code."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("pvtool_core", "pvtool")
BEGIN, END = "<!-- begin of the map -->\n", "<!-- end of the map -->\n"
PAGE = ROOT / "docs/architecture.md"


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """Return the modules of both packages that each module imports, also inside functions."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    submodule = f"{node.module}.{alias.name}"
                    found[name].add(submodule if submodule in known else node.module)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names}
        found[name] = (found[name] & set(known)) - {name}
    return found


def cycles() -> list[list[str]]:
    """Return groups of modules that import each other, directly or indirectly."""
    graph = imports()
    reached = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other])) for name in graph
    }
    return [list(group) for group in sorted(groups) if group]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def module_map() -> str:
    """Return the folders and modules of both packages with the first lines of their docstrings."""
    return "".join(f"{line}\n" for package in PACKAGES for line in _folder(ROOT / package))


def _folder(folder: Path) -> list[str]:
    lines = [f"### `{folder.relative_to(ROOT).as_posix()}/`", "", _summary(folder / "__init__.py")]
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    if files:
        lines += ["", "| module | |", "|---|---|"]
        lines += [f"| `{path.name}` | {_summary(path)} |" for path in files]
    lines.append("")
    for below in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += _folder(below)
    return lines


def _summary(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def page_with_map() -> str:
    """Return docs/architecture.md with the map as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{module_map()}{END}{rest.partition(END)[2]}"
