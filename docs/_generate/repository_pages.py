"""Pages made from files outside docs/, and where links to such files lead."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?P<head>!?\[[^\]]*\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"(?ms)^ *(```+|~~~+).*?^ *\1 *$")
WHOLE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # file -> page
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".csv": "text", ".toml": "toml", ".smk": "python"}


def taken_pages() -> dict[str, str]:
    """The pages taken from other files: whole ones, and the notebooks."""
    found = {page: rewrite(_four_spaces(_read(name)), name, page) for name, page in WHOLE.items()}
    for path in notebooks():
        page = f"notebooks/{path.stem}.md"
        found[page] = rewrite(notebook_page(path), f"examples/{path.name}", page)
    return found


def notebooks() -> list[Path]:
    """The examples that are written as notebooks: Python files with cells of text."""
    return sorted(path for path in (ROOT / "examples").glob("*.py") if path.read_text().startswith("# %% [markdown]"))


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text, and its code in blocks."""
    parts = []
    for cell in re.split(r"(?m)^# %%", path.read_text(encoding="utf-8"))[1:]:
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append(re.sub(r"(?m)^# ?", "", body.strip()))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    note = f"*This page is the notebook `examples/{path.stem}.ipynb`. Open it there to see what it draws.*"
    first, *rest = parts
    title, _, text = first.partition("\n")
    return "\n\n".join([title, note, text.strip(), *rest]) + "\n"


def source_page(path: str) -> str:
    """A file of the repository as a page."""
    text = _read(path)
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"# `{path}`\n\n{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def place_of(path: str) -> str:
    """The page of a file or folder of the repository that lies outside docs/."""
    if path in WHOLE:
        return WHOLE[path]
    if path == "README.md":
        return "index.md"
    if (ROOT / path).with_suffix(".py") in notebooks():
        return f"notebooks/{Path(path).stem}.md"
    return f"files/{path}.md"


def rewrite(markdown: str, source: str, page: str) -> str:
    """The text with its links led to pages of the site.

    Args:
        markdown: the text.
        source: the file that it comes from, seen from the repository's root.
        page: the page that it becomes, seen from docs/.
    """

    def led(found: re.Match[str]) -> str:
        path = _outside_or_page(found["target"], source)
        if path is None:
            return found[0]
        address = path.removeprefix("docs/") if path.startswith("docs/") else place_of(path)
        return f"{found['head']}{posixpath.relpath(address, posixpath.dirname(page) or '.')}{found['anchor'] or ''})"

    return _outside_fences(markdown, lambda text: LINK.sub(led, text))


def linked_files(markdown: str, page: str) -> Iterator[str]:
    """The files of the repository that a page's links show as pages below files/; missing ones are left out."""
    texts: list[str] = []
    _outside_fences(markdown, lambda text: texts.append(text) or text)
    for found in LINK.finditer("".join(texts)):
        path = _outside_or_page(found["target"], f"docs/{page}")
        if path is None:
            continue
        place = path.removeprefix("docs/") if path.startswith("docs/") else place_of(path)
        own = place.removeprefix("files/").removesuffix(".md")
        if place.startswith("files/") and (ROOT / own).is_file():
            yield own


def _outside_or_page(target: str, source: str) -> str | None:
    """What a relative link means, seen from the repository's root; None for one that needs no change."""
    if re.match(r"[a-z][a-z0-9+.-]*:|/", target):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return path if not path.startswith("..") else None


def _outside_fences(text: str, change) -> str:
    """Change the parts of a text that are not blocks of code."""
    found, start = [], 0
    for fence in FENCE.finditer(text):
        found += [change(text[start : fence.start()]), fence[0]]
        start = fence.end()
    return "".join([*found, change(text[start:])])


def _four_spaces(text: str) -> str:
    """Indent what belongs to an item of a numbered list by four columns, as Python's Markdown wants it, instead of three."""
    return re.sub(r"(?m)^   (?=\S| )", "    ", text)


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
