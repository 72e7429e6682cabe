"""Hashes of the code that a job rests on, so that a change of code reruns what it affects. Imports no torch."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path


@functools.cache
def code_hash(module: str, folder: str) -> str:
    """A hash of a module and of all the package's modules it imports; comments and layout do not count."""
    found: dict[str, str] = {}
    names = {module}
    while names:
        file = _file(Path(folder), names.pop())
        if file and str(file) not in found:
            own = file.relative_to(folder).with_suffix("").parts
            found[str(file)], imported = _code(file.read_text(encoding="utf-8"), own[:-1])
            names |= imported
    return hashlib.sha256("".join(found[file] for file in sorted(found)).encode()).hexdigest()[:12]


def _file(folder: Path, module: str) -> Path | None:
    """The file of a module; none where it is another package's, or no module."""
    place = folder.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@functools.cache
def _code(text: str, package: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """The syntax tree of a package's module, and what it imports, at its head or later; not all need be modules.

    Its package is among them, which Python runs first.
    """
    tree = ast.parse(text)
    found = {".".join(package)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in found if name]
    return ast.dump(tree), frozenset(".".join(each[: size + 1]) for each in parts for size in range(len(each)))
