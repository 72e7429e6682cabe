"""PyTorch's compiler is left out while a command starts, and is whole again for whoever wants it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fgg import compiler

# As `python -m fgg.attribution` starts: the package first, then what its modules import.
START = """
import sys
sys.argv[0] = "-m"
import fgg
from timm.models.vision_transformer import VisionTransformer
"""


def end_well(script: str) -> None:
    """Run a script in a process of its own, where nothing is imported yet."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", START + script], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr


def test_a_command_starts_without_it_and_then_has_it_whole():
    """Fails when a release of timm or torchvision wants more of the compiler: all works then, but starts slowly."""
    end_well("""
import fgg.attribution.__main__
from fgg.errors import command
@command
def main(argv):
    import torch
    assert not [name for name in sys.modules if "torch._dynamo" in name]
    calls = []
    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward
    assert torch.compile(lambda x: 2 * x, backend=backend)(torch.ones(2)).tolist() == [2, 2] and len(calls) == 1
    assert "torch/_dynamo" in torch._dynamo.__file__
sys.exit(main([]))
""")


@pytest.mark.parametrize(
    "wanted",
    [
        "from torch._dynamo.utils import counters",
        "import torch._dynamo.config",
        "from torchvision.ops import roi_align as r; assert r.__globals__['is_compile_supported']('cpu') is not None",
    ],
)
def test_what_else_is_wanted_of_it_is_there(wanted):
    end_well(f"""
assert type(sys.modules["torch._dynamo"]).__name__ == "_StandIn"
{wanted}
import torch._dynamo, torch._dynamo.utils
assert "torch/_dynamo" in torch._dynamo.__file__ and "torch/_dynamo" in torch._dynamo.utils.__file__
""")


def test_nothing_stands_in_its_place_where_no_command_starts():
    import torch._dynamo

    before = sys.modules["torch._dynamo"]
    compiler.leave_out()  # it is there already
    assert sys.modules["torch._dynamo"] is before is torch._dynamo
    compiler.put_back()
    assert sys.modules["torch._dynamo"] is before
