"""Make the notebooks of this folder from their texts: NAME.ipynb from NAME.py, without outputs.

    python examples/make_notebooks.py

The texts are the source: cells begin with ``# %%``. Needs jupytext (requirements-dev.txt).
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

EXAMPLES = Path(__file__).resolve().parent
NOTEBOOKS = (
    "first_steps",
    "own_model_and_images",
    "own_method_and_metric",
    "sae_from_another_library",
)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebook(name: str) -> nbformat.NotebookNode:
    """The notebook of a text; the same text gives the same bytes."""
    found = jupytext.reads((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"), fmt="py:percent")
    found.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    found.nbformat, found.nbformat_minor = 4, 5
    for number, cell in enumerate(found.cells):
        cell["id"], cell["metadata"] = f"cell-{number:02}", {}
    return found


def text(name: str) -> str:
    """The notebook as its file holds it."""
    return nbformat.writes(notebook(name)) + "\n"


def main() -> None:
    """Write all notebooks."""
    for name in NOTEBOOKS:
        (EXAMPLES / f"{name}.ipynb").write_text(text(name), encoding="utf-8")
        print(f"examples/{name}.ipynb")


if __name__ == "__main__":
    main()
