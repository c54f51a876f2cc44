"""Hooks of mkdocs: fill pages with generated reference, and add pages from outside docs/.

A line `<!-- generate: NAME -->` in a page is replaced by the text of GENERATORS[NAME]. Nothing that
is generated is committed.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import command_reference
import error_reference
import json_reference
import settings_reference

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"^<!-- generate: ([a-z-]+) -->$", re.MULTILINE)
GENERATORS: dict[str, Callable[[], str]] = {
    "commands": command_reference.commands,
    "errors": error_reference.errors,
    "events": json_reference.events,
    "exit-statuses": error_reference.exit_statuses,
    "json-output": json_reference.commands,
    "presets": settings_reference.presets,
    "records": json_reference.records,
    "run-files": json_reference.run_files,
    "settings": settings_reference.settings,
}
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "reference/event.schema.json": json_reference.event_document,
    "reference/preset.schema.json": settings_reference.preset_schema,
}
PAGES_FROM_OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "presets/tiny/README.md": "tiny-preset.md",
}
"""Pages of the site by their files in the repository; links to and in these files are adapted."""
GUIDES = "How-to guides"


def on_config(config: MkDocsConfig) -> None:
    """List all guides to additions, docs/add-a*.md, at the end of the how-to guides."""
    for section in config.nav or ():
        if GUIDES in section:
            docs = Path(config.docs_dir)
            section[GUIDES] += sorted(path.name for path in docs.glob("add-a*.md"))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add schemas, and pages whose files are outside docs/."""
    for path, schema in SCHEMAS.items():
        content = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
        files.append(File.generated(config, path, content=content))
    for source, path in PAGES_FROM_OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        for other, page in PAGES_FROM_OUTSIDE.items():
            text = text.replace(f"]({other})", f"]({page})")
        files.append(File.generated(config, path, content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert generated text, and point links to files outside docs/ to their pages."""
    for source, path in PAGES_FROM_OUTSIDE.items():
        markdown = markdown.replace(f"](../{source})", f"]({path})")
    return MARKER.sub(lambda found: GENERATORS[found[1]](), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse pages that name a folder of the machine that builds them."""
    if names_local_folder(output):
        raise PluginError(f"{page.file.src_uri} contains a path of this machine.")
    return output


def names_local_folder(text: str) -> bool:
    """Return whether a text names the folder of this checkout or the user's home folder."""
    folders = "|".join(re.escape(str(folder)) for folder in (ROOT, Path.home()))
    return bool(re.search(rf"(?<![\w./-])({folders})(?![\w-])", text))
