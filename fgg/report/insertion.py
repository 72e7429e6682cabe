"""Texts that are generated and stand between markers of a Markdown file."""

from __future__ import annotations

import re
from pathlib import Path

from fgg.errors import FggError
from fgg.tables import atomic


def insert(text: str, path: Path, begin: str, end: str) -> None:
    """Replace what stands between two markers of a file.

    Raises:
        FggError: the file lacks the markers.
    """
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise FggError(f"{path} lacks the markers {begin} and {end}")
    with atomic(path) as temporary:
        temporary.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", before), encoding="utf-8")
