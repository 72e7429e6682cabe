"""Entries that state what they are: functions whose decorator says name, title and the like, found without running them.

A decorated function is one file's whole contribution: an attribution method, a metric, a source of images, a format of
SAEs. What its decorator states must be literals, so that it can be read from the source. A dry run, the configuration's
check and the tables thus know every entry without importing PyTorch, and an entry of somebody else's package is read in
the same way. Its function is imported where it is called.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fgg.errors import FggError

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")  # mypkg.maps:my_method


@dataclass(frozen=True)
class Declaration:
    """A decorated function as its source states it.

    Attributes:
        module: the function's module.
        function: its name.
        statement: the decorator's keyword arguments; empty for a function without the decorator.
        parameters: the names of its parameters.
        required: those without a default.
        defaults: the defaults that are plain literals.
        about: the first sentence of its docstring.
    """

    module: str
    function: str
    statement: Mapping[str, Any]
    parameters: tuple[str, ...]
    required: tuple[str, ...]
    about: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        return getattr(import_module(self.module), self.function)


Entry = TypeVar("Entry")


class Catalogue(dict[str, Entry]):
    """Entries by name, such as the methods; in a notebook it is a table, elsewhere a line for each."""

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {entry.title} ({entry.citation})" for name, entry in self.items())  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(index=False, escape=True)

    def to_dataframe(self) -> pd.DataFrame:
        """A row per entry with what its decorator states, apart from its options and settings."""
        import pandas as pd

        shown = ("name", "title", "citation", "role", "direction", "definition", "assumes", "cost", "passes")
        rows = [{key: getattr(entry, key, None) for key in shown} for entry in self.values()]
        for row in rows:
            row["passes"] = row["passes"] if isinstance(row["passes"], str) else None  # a method counts them
        return pd.DataFrame(rows, columns=shown).dropna(axis=1, how="all")


def is_reference(name: str) -> bool:
    """Whether a name has the form ``module:function``."""
    return bool(REFERENCE.fullmatch(name))


def declarations(folder: Path, package: str, decorator: str) -> Iterator[Declaration]:
    """What the modules directly in a package's folder declare, in the order of their names."""
    for file in sorted(folder.glob("*.py")):
        if f"@{decorator}" in (text := file.read_text(encoding="utf-8")):
            yield from (own for own in _read(text, f"{package}.{file.stem}", decorator) if own.statement)


def declaration(reference: str, decorator: str) -> Declaration:
    """What a function of another package, ``module:function``, declares; its decorator may be absent.

    Raises:
        FggError: no such module or function, source that is not Python, or a decorator that states no literals.
    """
    module, _, function = reference.partition(":")
    file = source_file(module)
    if file is None:
        raise FggError(
            f"{reference}: there is no module {module!r} in the working folder or on Python's path; install it, put it "
            "into the folder that the command runs in, or name its folder in PYTHONPATH"
        )
    try:
        found = {own.function: own for own in _read(file.read_text(encoding="utf-8"), module, decorator)}
    except (SyntaxError, UnicodeDecodeError) as error:
        raise FggError(f"{reference}: {file} is not valid Python ({error})") from None
    if function not in found:
        known = f"; it has {', '.join(found)}" if found else ""
        raise FggError(f"{reference}: {file} has no function {function!r}{known}")
    return found[function]


def source_file(module: str) -> Path | None:
    """The file of a module, found without running its package; None where there is none, or no Python source."""
    places: Any = None
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        places = [here, *sys.path]
    name = ""
    spec = None
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    file = Path(spec.origin) if spec and spec.origin else None
    return file if file and file.suffix == ".py" and file.is_file() else None


@functools.cache
def _read(text: str, module: str, decorator: str) -> tuple[Declaration, ...]:
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
            required = positional[: len(positional) - len(arguments.defaults)]
            keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            required += [each.arg for each, default in keywords if default is None]
            names = (*positional, *(each.arg for each in arguments.kwonlyargs))
            about = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
            stated = _statement(node, module, decorator)
            found.append(Declaration(module, node.name, stated, names, tuple(required), about, _defaults(arguments)))
    return tuple(found)


def _defaults(arguments: ast.arguments) -> dict[str, Any]:
    """The defaults of a function's parameters that are plain literals."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(each, own) for each, own in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if own]
    found = {}
    for each, own in pairs:
        with contextlib.suppress(ValueError):
            found[each.arg] = ast.literal_eval(own)
    return found


def _statement(node: ast.FunctionDef, module: str, decorator: str) -> dict[str, Any]:
    for each in node.decorator_list:
        call = each.func if isinstance(each, ast.Call) else each
        name = call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
        if name == decorator and isinstance(each, ast.Call):
            try:
                return {own.arg: ast.literal_eval(own.value) for own in each.keywords if own.arg}
            except ValueError:
                raise FggError(
                    f"{module}:{node.name}: @{decorator} is read without running the module, so its arguments must be "
                    "plain literals: text, numbers, True, False, None, and lists, tuples and dictionaries of these"
                ) from None
    return {}
