"""The sources of images. Does not import them.

A source is one function in a file of this folder, decorated with `source`. It takes a dataset's settings and returns a
`fgg.data.sources.records.Source`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgg import registry
from fgg.errors import FggError

if TYPE_CHECKING:
    from fgg.data.sources.records import Source


@dataclass(frozen=True)
class Entry:
    """A source: its name, whether its images are downloaded, and its function."""

    name: str
    downloaded: bool
    declaration: registry.Declaration


def source(*, name: str, downloaded: bool = False) -> Callable:
    """Declare a source: its name, and whether the table of sources says how to download its images."""
    return lambda function: function


@functools.cache
def sources() -> dict[str, Entry]:
    """The sources by name.

    Raises:
        ValueError: two of them share a name.
    """
    declared = registry.declarations(Path(__file__).parent, str(__package__), "source")
    found = [Entry(own.statement["name"], own.statement.get("downloaded", False), own) for own in declared]
    table = {entry.name: entry for entry in found}
    if len(table) != len(found):
        raise ValueError(f"two sources share a name: {[entry.name for entry in found]}")
    return table


def open_source(settings: Mapping[str, Any]) -> Source:
    """The source that ``settings["source"]`` names.

    Raises:
        FggError: the name is unknown, or the source cannot be used as it is.
    """
    name = settings["source"]
    if name not in sources():
        raise FggError(f"source {name!r} is unknown; choose from: {', '.join(sorted(sources()))}")
    return sources()[name].declaration.load()(settings)
