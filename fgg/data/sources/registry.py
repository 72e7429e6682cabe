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
    """A source: its name, whether its images are downloaded, the masks that come with them, and its function."""

    name: str
    downloaded: bool
    masks: tuple[str, ...]
    declaration: registry.Declaration


def source(*, name: str, downloaded: bool = False, masks: tuple[str, ...] = ()) -> Callable:
    """Declare a source.

    Args:
        name: its name in the configuration.
        downloaded: whether the table of sources says how to download its images.
        masks: words for ``masks`` in the configuration that mean masks of the source itself.
    """
    return lambda function: function


@functools.cache
def sources() -> dict[str, Entry]:
    """The sources by name.

    Raises:
        ValueError: two of them share a name.
    """
    declared = registry.declarations(Path(__file__).parent, str(__package__), "source")
    found = [
        Entry(own.statement["name"], own.statement.get("downloaded", False), own.statement.get("masks", ()), own)
        for own in declared
    ]
    table = {entry.name: entry for entry in found}
    if len(table) != len(found):
        raise ValueError(f"two sources share a name: {[entry.name for entry in found]}")
    return table


def masks_folder(settings: Mapping[str, Any]) -> str | None:
    """The folder of masks that a dataset's settings name; None if there is none, or if ``masks`` is a word of the source."""
    masks = settings.get("masks")
    return None if masks is None or masks in sources()[settings["source"]].masks else masks


def open_source(settings: Mapping[str, Any]) -> Source:
    """The source that ``settings["source"]`` names.

    Raises:
        FggError: the name is unknown, or the source cannot be used as it is.
    """
    name = settings["source"]
    if name not in sources():
        raise FggError(f"source {name!r} is unknown; choose from: {', '.join(sorted(sources()))}")
    return sources()[name].declaration.load()(settings)
