"""What MkDocs calls: pages made from the code are added, and links that leave docs/ are led to pages of the site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # so that fgg need not be installed

from api_reference import api_pages  # noqa: E402
from command_reference import command_page  # noqa: E402
from entry_reference import method_page, metric_page  # noqa: E402
from repository_pages import linked_files, rewrite, source_page, taken_pages  # noqa: E402
from schema_reference import configuration_page  # noqa: E402


def generated_pages() -> dict[str, str]:
    """The pages that are made from the code and from files outside docs/: address in docs/ -> Markdown."""
    return {
        "reference/configuration.md": configuration_page(),
        "reference/methods.md": method_page(),
        "reference/metrics.md": metric_page(),
        "reference/commands.md": command_page(),
        **api_pages(),
        **taken_pages(),
    }


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and a page for each file outside docs/ that a page links to."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for address, text in generated_pages().items():
        files.append(File.generated(config, address, content=text))
        texts[address] = text
    for path in sorted({path for address, text in texts.items() for path in linked_files(text, address)}):
        files.append(
            File.generated(config, f"files/{path}.md", content=source_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links that leave docs/ to pages of the site; generated pages have such links already."""
    return rewrite(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)
