"""Hashes of the code that a job uses, so that a change of code reruns the affected jobs. Does not import torch."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fgg.errors import FggError
from fgg.registry import source_file


@functools.cache
def code_hash(module: str, folder: str) -> str:
    """A hash of a module and of all modules of the package that it imports; comments, docstrings and layout do not count."""
    own = module.split(".")[0]  # not the packages beside it, where it is installed
    return _hash(module, Path(folder), lambda name: name == own)


def folder_hash(folder: Path) -> str:
    """A hash of the files in a folder of the package that are not modules, such as templates."""
    texts = [file.name.encode() + file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:12]


def foreign_hash(module: str) -> str:
    """A hash of a module of another package and of all modules that it imports from its own folder or package.

    Raises:
        FggError: there is no such module.
    """
    root = importable_root(module)
    own = module.split(".")[0]
    installed = {"site-packages", "dist-packages"} & set(root.parts)
    return _hash(module, root, lambda name: name == own if installed else name != "fgg")


def importable_root(module: str) -> Path:
    """The folder from which a module is imported.

    Raises:
        FggError: there is no such module.
    """
    file = source_file(module)
    if file is None:
        raise FggError(f"there is no module {module!r} in the working folder or on Python's path")
    return file.parents[len(module.split(".")) - (file.name != "__init__.py")].resolve()


def _hash(module: str, folder: Path, follow: Callable[[str], bool]) -> str:
    """The hash of a module in a folder and of the modules there that it imports.

    ``follow`` decides from the first name of a module whether to include it.
    """
    found: dict[str, str] = {}
    names = {module}
    while names:
        file = _file(folder, names.pop())
        if file and str(file) not in found:
            own = file.relative_to(folder).with_suffix("").parts
            found[str(file)], imported = _code(file.read_text(encoding="utf-8"), own[:-1])
            names |= {name for name in imported if follow(name.split(".")[0])}
    return hashlib.sha256("".join(found[file] for file in sorted(found)).encode()).hexdigest()[:12]


def _file(folder: Path, module: str) -> Path | None:
    """The file of a module; None if it belongs to another package or is not a module."""
    place = folder.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


@functools.cache
def _code(text: str, package: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """The syntax tree of a package's module, and the names that it imports anywhere; some may not be modules.

    The names include the module's package, which Python runs first.
    """
    tree = ast.parse(text)
    found = {".".join(package)}
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in found if name]
    return ast.dump(_without_docstrings(tree)), frozenset(
        ".".join(each[: size + 1]) for each in parts for size in range(len(each))
    )


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The tree and all statements in it, in any order. Expressions, which are most of a tree, hold no statements."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            left += getattr(node, part, ())


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, changed in place."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in _statements(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
