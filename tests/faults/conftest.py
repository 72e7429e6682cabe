"""What the tests of faults share: the drawn pictures, and a workflow that is as small as it can be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small_workflow import pictures, planned, run

from fgg.checksums import FOLDER as RECORDS


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the drawn pictures."""
    return pictures(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """A folder in which every command has run, in this process; and the commands."""
    made = pictures(tmp_path_factory.mktemp("finished"))
    commands = planned(made)
    before = Path.cwd()
    os.chdir(made)
    try:
        for name, (module, *arguments) in commands.items():
            assert run(module, *arguments) == 0, name
    finally:
        os.chdir(before)
    return made, commands


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> tuple[Path, dict[str, list[str]]]:
    """A copy of the finished folder, which is the working folder; and the commands.

    Without the records of checksums, so that what a reader finds by itself is tested; test_damage.py has them.
    """
    made, commands = finished
    for place in ("pictures", "data", "results"):
        shutil.copytree(made / place, tmp_path / place, ignore=shutil.ignore_patterns(RECORDS))
    monkeypatch.chdir(tmp_path)
    return tmp_path, commands
