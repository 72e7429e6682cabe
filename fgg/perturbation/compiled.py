"""Passes through `torch.compile`: on a GPU a pass is replayed as CUDA graphs, instead of launching some hundred kernels.

A graph belongs to one shape. All passes of an engine therefore have the same number of rows: the last one is filled up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fgg.errors import FggError
from fgg.models.checkpoint_files import first_line

BACKEND = "inductor"
MODE = "reduce-overhead"  # CUDA graphs on a GPU
MOST_ROWS = 256  # in a pass; the last pass of a question is filled up, so larger ones would waste more
Pass = Callable[[nn.Module, Tensor], Tensor]


def in_one_shape(run: Pass, model: nn.Module, inputs: Tensor, rows: int) -> Tensor:
    """``run(model, inputs)``, compiled, for inputs (n, …) in passes of exactly ``rows`` rows: (n, K).

    Args:
        run: a function at the top level of a module, which is compiled once for each model and shape.

    Raises:
        FggError: PyTorch cannot compile it on this machine, or cannot write to its cache.
    """
    parts = []
    for part in inputs.split(rows):
        lacking = rows - len(part)
        whole = torch.cat([part, part[:1].expand(lacking, *part.shape[1:])]) if lacking else part
        torch.compiler.cudagraph_mark_step_begin()
        try:
            found = _compiled(run, BACKEND)(model, whole)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = first_line(getattr(error, "inner_exception", error))
            raise FggError(
                f"compile: PyTorch cannot compile the passes of this model ({reason}); it needs a C++ compiler "
                "on this machine. Install one, or set `compile: false`"
            ) from error
        except OSError as error:
            raise FggError(
                f"compile: PyTorch cannot keep what it compiles ({first_line(error)}). Set TORCHINDUCTOR_CACHE_DIR to a "
                "folder that can be written, or set `compile: false`"
            ) from error
        parts.append(found[: len(part)].clone())  # the next replay of a graph writes to the same memory
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@functools.cache
def _compiled(run: Pass, backend: str) -> Pass:
    mode = MODE if backend == "inductor" else None
    return torch.compile(run, dynamic=False, fullgraph=True, backend=backend, mode=mode)
