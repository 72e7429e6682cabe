"""All files of a run are the same, byte for byte, whatever the machine, the time and the order of files in folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import one_process
import pytest
from pictures import draw

from tests.faults.small_workflow import planned
from tests.kills.files import content, differences

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = Path(__file__).with_name("elsewhere.py")
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")]
# Where the order of the files cannot matter: function -> why.
UNORDERED = {
    "tables._sweep": "all are removed",
    "outputs._remove_empty": "asks whether there are any",
    "folder._empty": "asks whether there are any",
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> dict[str, list[str]]:
    """The commands of the small workflow."""
    folder = tmp_path_factory.mktemp("planned")
    draw(folder / "pictures", per_class=8, side=16)
    return planned(folder)


def test_the_same_bytes_elsewhere(commands, tmp_path):
    """Other hash seed, locale, time zone, clock, numbers of threads and of cores, order of folders, dates, and place."""
    here, there = tmp_path / "here", tmp_path / "another place {x}"
    draw(here / "pictures", per_class=8, side=16)
    one_process.run(commands.values(), here)
    for picture in sorted((here / "pictures").rglob("*.png"), reverse=True):
        copied = there / picture.relative_to(here)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, copied)
        os.utime(copied, (1e9, 1e9))
    changes = {
        **dict.fromkeys(THREADS, "4"),
        **{"PYTHONHASHSEED": "4711", "TZ": "Pacific/Kiritimati", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    }
    done = subprocess.run(
        [sys.executable, str(ELSEWHERE)],
        input=json.dumps(list(commands.values())),
        capture_output=True,
        text=True,
        cwd=there,
        env={**os.environ, **changes},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(re.search(r"(?m)^(\d+) folders in another order$", done.stdout)[1]) > 10
    expected = content(here)
    assert len(expected) > 100
    assert differences(content(there), expected) == []
