"""The order in which a folder lists its files changes nothing."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

from fgg.pipeline.content import content_hash
from tests.determinism.elsewhere import Scan

PACKAGE = Path(__file__).resolve().parents[2] / "fgg"
LISTINGS = {"iterdir", "glob", "rglob", "listdir", "scandir", "walk"}
WITHOUT_ORDER = {"sorted", "any", "sum", "set", "len"}
# Functions that list files in another way -> why their order does not matter.
REASONS = {
    "data/download.py:tree_digest": "a dictionary whose keys are sorted",
    "data/transfer.py:receive": "all are removed",
    "explain/explained_model.py:from_dataset": "a dictionary whose keys are sorted, or looked up",
    "pipeline/content.py:_names": "folders are sorted, and so are the names",
    "share/folder.py:sae_folders": "a dictionary whose keys are sorted",
    "tables.py:_sweep": "all are removed",
}


def listings(path: Path) -> Iterator[str]:
    """The functions of a module that list files and do not sort the list."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    above = {inside: node for node in ast.walk(tree) for inside in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LISTINGS:
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "ast":
                continue
            outer = node
            while not isinstance(outer, ast.FunctionDef | ast.Module):
                outer = above[outer]
                if isinstance(outer, ast.Call) and isinstance(outer.func, ast.Name) and outer.func.id in WITHOUT_ORDER:
                    break
            else:
                yield f"{path.relative_to(PACKAGE).as_posix()}:{getattr(outer, 'name', '')}"


def test_every_list_of_files_is_sorted():
    found = {place for path in sorted(PACKAGE.rglob("*.py")) for place in listings(path)}
    assert sorted(found - REASONS.keys()) == [], "sort what a folder lists, or say here why its order does not matter"
    assert sorted(REASONS.keys() - found) == [], "no longer there"


def test_the_hash_of_a_folder_with_links_within_it(tmp_path, monkeypatch):
    """Links are followed, but not round in circles; which of them are left out goes by their names."""
    for name in ("a", "c", "e"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / f"{name}.png").write_bytes(name.encode())
    for link, target in (("a/b", "c"), ("e/f", "c"), ("c/d", "a")):
        (tmp_path / "images" / link).symlink_to(tmp_path / "images" / target)
    scandir, found = os.scandir, set()
    for backwards in (False, True):

        def scan(path, backwards=backwards):
            return Scan(sorted(scandir(path), key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr(os, "scandir", scan)
        found.add(content_hash([str(tmp_path / "images")]))
    assert len(found) == 1
