"""Errors whose messages are for the person who runs fgg."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

OUT_OF_MEMORY = (
    "out of memory; set a smaller `batch_size`, run fewer jobs at once (--cores), or use a machine with more memory"
)


class FggError(Exception):
    """An error that the user can fix; the message names the thing and the remedy."""


def explain_os_error(error: OSError) -> str:
    """Explain an operating-system error to the user; raise it again if its meaning is unknown."""
    place = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {place}; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to use {place}; choose another folder with --directory, or fix its permissions"
    if error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    meaning = MEANINGS.get(error.errno or 0)
    if meaning is None:
        raise error
    return f"{place} {meaning}"


MEANINGS = {
    errno.ENOENT: "does not exist; check the path, or run the same command again to rebuild it",
    errno.EISDIR: "is a folder, but a file is needed; move it away, or give another path",
    errno.ENOTDIR: "goes through a file where a folder is needed; move that file away, or give another path",
    errno.EEXIST: "is a file, but a folder is needed; move it away, or give another path",
    errno.ENOTEMPTY: "is a folder that is not empty; move it away, or give another path",
    errno.ENAMETOOLONG: "has a name that is too long; shorten the names of the dataset and the folders",
    errno.ELOOP: "is a symbolic link that points to itself; fix the link",
    errno.EFBIG: "exceeds the maximum size of a file; see `ulimit -f` and the file system's limit",
    errno.EMFILE: "cannot be opened: too many files are open; raise the limit (`ulimit -n`), or run fewer jobs at once",
    errno.ENFILE: "cannot be opened: too many files are open; run fewer jobs at once",
    errno.EIO: "cannot be read or written because the disk reports an error; check the disk, or use another one",
    errno.ESTALE: "is no longer known to the file server; remount it and run the same command again",
}


def names(found: Sequence[str], most: int = 8) -> str:
    """The first few names of a list as text."""
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def doubled_braces(text: str) -> str:
    """A text such as a path, as part of a text that will be formatted, by Python or by Snakemake."""
    return text.replace("{", "{{").replace("}", "}}")


class Named(dict):
    """A JSON object whose missing keys raise FggError with ``missing``, a message with ``{key}`` and ``{given}``."""

    def __init__(self, items: Mapping[str, Any] = MappingProxyType({}), missing: str = "{key} is missing") -> None:
        super().__init__(items)
        self.missing = missing

    def __missing__(self, key: str) -> Any:
        """Raise FggError."""
        given = ", ".join(sorted(map(str, self))) or "nothing"
        raise FggError(self.missing.format(key=repr(key), given=given))


def parse_json(text: str, missing: str) -> Named:
    """Parse a JSON object whose missing keys raise FggError with the message ``missing``.

    Raises:
        ValueError: the text is not a JSON object, names a key twice, holds a number that is not finite, or is nested too
            deeply.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: Named(once_each(pairs), missing),
            parse_constant=_finite,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, Named):
        raise ValueError("not an object in braces")
    return value


def once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The keys and values of a JSON object; for use as json's ``object_pairs_hook``.

    Raises:
        ValueError: a key is there twice; of the two, each reader would take another.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
