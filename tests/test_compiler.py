"""PyTorch's compiler is left out while a command starts, and is whole again for whoever wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As `python -m fgg.attribution` starts: the package first, then all that the command imports.
START = "import sys; sys.argv[0] = '-m'; import fgg; import fgg.attribution.__main__; "


def said(script: str) -> str:
    """What a process says, which must end well."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_command_starts_without_it():
    """Fails when a release of timm or torchvision wants more of the compiler: all would work still, but start slowly."""
    script = (
        "from fgg import compiler; compiler.put_back(); print(sorted(n for n in sys.modules if 'torch._dynamo' in n))"
    )
    assert said(START + script) == "[]"


def test_a_command_that_has_started_has_it_whole():
    script = """
from fgg.errors import command
@command
def main(argv):
    import timm, torch
    calls = []
    def backend(graph, inputs):
        calls.append(len(graph.graph.nodes))
        return graph.forward
    assert 'torch._dynamo' not in sys.modules
    double = torch.compile(lambda x: 2 * x, backend=backend)
    assert double(torch.ones(2)).tolist() == [2, 2] and len(calls) == 1
    assert torch._dynamo.__file__ and timm.create_model('naflexvit_base_patch16_gap')
main([])
"""
    said(START + script)


@pytest.mark.parametrize(
    "wanted",
    [
        "from torch._dynamo.utils import counters; found = counters is not None",
        "import torch._dynamo; found = torch._dynamo.reset",
        "import torch._dynamo.config; found = sys.modules['torch._dynamo.config'].__file__",
        "from torchvision.ops import roi_align as r; found = r.__globals__['is_compile_supported']('cpu') is not None",
    ],
)
def test_what_else_is_wanted_of_it_is_there(wanted):
    still = "assert type(sys.modules['torch._dynamo']).__name__ == '_StandIn'; "
    script = f"{still}{wanted}; assert found; import torch._dynamo as d, torch._dynamo.utils as u; print(d.__file__, u.__file__)"
    assert all("torch/_dynamo" in place for place in said(START + script).split())


def test_whoever_imports_the_package_has_it():
    script = "import fgg.attribution.__main__, sys; print(sys.modules['torch._dynamo'].__file__)"
    assert "torch/_dynamo" in said(script)
