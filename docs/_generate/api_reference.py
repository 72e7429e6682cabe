"""The reference of the Python interface: which docstrings stand on which page. Imports no torch."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import fgg

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {
    "attribution": ("Maps", ["attribute", "Attribution", "Gate", "methods", "method", "to_patches", "to_pixels"]),
    "faithfulness": (
        "Scores",
        [
            *("saco", "faithfulness_correlation", "draw_subsets", "pixel_flipping", "srg", "insertion", "deletion"),
            *("order_curves", "localisation", "metrics", "metric"),
        ],
    ),
    "data": ("Models, SAEs, images", ["load_model", "load_sae", "Preprocess"]),
    "runs": ("Runs and results", ["open_run", "example_run", "read_results"]),
    "plot": ("Pictures", ["plot"]),
    "errors": ("Errors", ["FggError", "__version__"]),
}
ABOUT = {
    "attribution": "Compute maps, gate them, and change between patches and pixels.",
    "faithfulness": "Score maps: does the model react to patches as the map says?",
    "data": "Load what is explained.",
    "runs": "Open what the workflow made, and read its tables.",
    "plot": "Draw maps, gates and curves on matplotlib axes.",
    "errors": "What fgg raises when its user can mend something.",
}
ALSO = {"fgg.run": ["Images"], "fgg.attribution.registry": ["Method"], "fgg.faithfulness.registry": ["Metric"]}
VERSION = "## fgg.\\_\\_version\\_\\_\n\nThe version of fgg, a text such as `{}`."


def groups() -> dict[str, tuple[str, list[str]]]:
    """Page -> its title and the public names on it; names that no group has stand on a page of their own."""
    sorted_in = {name for _, names in GROUPS.values() for name in names}
    left = [name for name in fgg.__all__ if name not in sorted_in]
    known = {page: (title, [name for name in names if name in fgg.__all__]) for page, (title, names) in GROUPS.items()}
    return known | ({"more": ("More", left)} if left else {})


def api_pages() -> dict[str, str]:
    """The pages, as Markdown: an index, and one for each group."""
    pages = {}
    rows = []
    for page, (title, names) in groups().items():
        parts = [f"# {title}", ABOUT.get(page, "")]
        shown: list[str] = []  # paths of what stands on the page
        for name in names:
            parts += _entries(name, shown)
        pages[f"reference/api/{page}.md"] = "\n\n".join(parts) + "\n"
        rows += [f"- [{title}]({page}.md): {', '.join(f'`fgg.{name}`' for name in names)}. {ABOUT.get(page, '')}"]
    head = [
        "# Python",
        "The public interface is what `import fgg` offers. All else may change between versions. Modules are loaded on first "
        "use, so that `import fgg` itself costs nothing.",
        "\n".join(rows),
        "The notebooks show the interface at work: [first steps](../../notebooks/first_steps.md).",
    ]
    return pages | {"reference/api/index.md": "\n\n".join(head) + "\n"}


def _entries(name: str, shown: list[str]) -> list[str]:
    if name == "__version__":
        return [VERSION.format(fgg.__version__)]
    if name in fgg._ROOMS:
        return [_entry(f"fgg.{name}.{each}", f"{module}.{each}") for module, each in _members(f"fgg.{name}")]
    module = fgg._PLACES[name]
    entries = []
    for own in [name, *_returned(module, name)]:
        path = f"{module}.{own}"
        if path not in shown:
            shown.append(path)
            entries.append(_entry(f"fgg.{own}" if own in fgg.__all__ else own, path))
    return entries


def _entry(title: str, path: str) -> str:
    return f"::: {path}\n    options:\n      heading: {title}\n      toc_label: {title.removeprefix('fgg.')}"


def _members(package: str) -> list[tuple[str, str]]:
    """The public names of a package, each with the module that defines it."""
    tree = ast.parse(ROOT.joinpath(*package.split("."), "__init__.py").read_text(encoding="utf-8"))
    origin = {
        alias.name: str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    (listed,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return [(origin[each], each) for each in listed]


def _returned(module: str, name: str) -> list[str]:
    """The classes of a module that a function of it returns, and those named in `ALSO`."""
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    said = " ".join(ast.unparse(node.returns) for node in functions if node.returns)
    found = [each for each in classes if re.search(rf"\b{each}\b", said)]
    return [*found, *ALSO.get(module, [])]
