"""Training steps on a CPU with the two halves of a batch side by side, each on a thread of its own.

A step of a small model consists of hundreds of short operations. When PyTorch divides each of them between two threads, these
wait for each other hundreds of times, and for milliseconds if something else needs a core. Here each thread takes half of the
images through all blocks and back, and they meet three times. A step of the default model takes 52 ms instead of 51 to 58, and
86 ms instead of 186 while another process keeps one of the two cores busy (AMD EPYC, Zen 5).

What sums over all images is not divided: the products that are the gradients of linear layers are shared out whole, once both
halves have come back (`_Linear`). Layer norms sum over each half, as PyTorch's two threads do. So the trained model is the one
that PyTorch trains with two threads: byte for byte on that machine.

Models with other layers in their blocks, hooks, GPUs, odd numbers of images and other numbers of threads are left to PyTorch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from timm.layers import Attention, DropPath, LayerNorm, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fgg.models.joined_block import hooked
from fgg.models.onednn_training import available, of_weight, product

THREADS = 2
MOST_FLOATS = (
    2**27
)  # that linear layers keep of a batch, half a gigabyte; with more, operations are long, and nothing is gained
LAYERS = (nn.Linear, nn.LayerNorm, LayerNorm, nn.GELU, nn.Identity, nn.Dropout, DropPath)


@contextlib.contextmanager
def side_by_side(model: VisionTransformer, batch: int, onednn: bool = False) -> Iterator[None]:
    """Inside the block, the model's steps for ``batch`` images are computed in halves, if it can be done (`divisible`).

    With ``onednn``, the products of the blocks' linear layers are oneDNN's (see `fgg.models.onednn_training`).
    """
    small = divisible(model) and batch * _kept(model) <= MOST_FLOATS
    if torch.get_num_threads() != THREADS or batch % THREADS or not small:
        yield
        return
    norms = [norm for norm in model.children() if isinstance(norm, nn.LayerNorm)]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as other:
            _replace(model.blocks, _Halves(model.blocks, other, onednn and available()))
            for norm in norms:
                _replace(norm, _Norm(norm))
            yield
    finally:
        for module in model.modules():
            if isinstance(vars(module).get("forward"), _OURS):
                del module.forward
        torch.set_num_threads(THREADS)


def _kept(model: VisionTransformer) -> int:
    """The floats that the linear layers of the blocks keep of an image."""
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    layers = (module for module in model.blocks.modules() if isinstance(module, nn.Linear))
    return tokens * sum(layer.in_features + layer.out_features for layer in layers)


def divisible(model: VisionTransformer) -> bool:
    """Whether a model's blocks consist of layers that this module knows, in float32 on a CPU, with nothing hooked or replaced."""
    modules, blocks = list(model.modules()), model.blocks
    inside = [
        module for block in blocks for module in block.modules() if not isinstance(module, Block | Attention | Mlp)
    ]
    return (
        type(blocks) is nn.Sequential
        and len(blocks) > 0
        and all(type(block) is Block and type(block.attn) is Attention and type(block.mlp) is Mlp for block in blocks)
        and all(block.attn.fused_attn for block in blocks)
        and all(type(module) in LAYERS for module in inside)
        and not any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
        and not any(hooked(module) or module._backward_hooks or module._backward_pre_hooks for module in modules)
        and not any("forward" in vars(module) for module in modules)
        and all(p.device.type == "cpu" and p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
        and not model.grad_checkpointing
    )


class _Halves:
    """The forward of a model's blocks, x (B, T, D) to (B, T, D), with gradients for x and for all parameters."""

    def __init__(self, blocks: nn.Sequential, other: ThreadPoolExecutor, onednn: bool) -> None:
        self._blocks, self._other = blocks, other
        self._place = threading.local()
        modules = list(blocks.modules())
        self._layers = [_Linear(module, self._place, onednn) for module in modules if type(module) is nn.Linear]
        self._drops = [_DropPath(module, self._place) for module in modules if type(module) is DropPath]
        for layer in self._layers:
            _replace(layer.module, layer)
        for drop in self._drops:
            _replace(drop.module, drop)
        of_layers = {id(each) for own in self._layers for each in own.parameters}
        self._others = [each for each in blocks.parameters() if id(each) not in of_layers]
        self._parameters = [each for own in self._layers for each in own.parameters] + self._others
        self._last: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        return _Blocks.apply(x, self, *self._parameters)

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """What the last block returns for x (B, T, D), and the input and the output of each half, for `backward`."""
        if len(x) % THREADS:
            raise ValueError(f"a batch of {len(x)} images has no halves")
        for layer in self._layers:
            layer.allocate(x)
        for drop in self._drops:
            drop.draw(x)
        kept: dict[int, tuple[Tensor, Tensor]] = {}

        def half(number: int) -> None:
            self._place.rows = rows = _rows(x, number)
            leaf = x[rows].detach().requires_grad_()
            with torch.enable_grad():
                kept[number] = leaf, nn.Sequential.forward(self._blocks, leaf)

        self._both(half)
        self._last = [kept[number] for number in range(THREADS)]
        return torch.cat([out.detach() for _, out in self._last]), self._last

    def backward(self, halves: list[tuple[Tensor, Tensor]], gradient: Tensor) -> list[Tensor]:
        """The gradients of x and of the parameters, given that of the last block's output (B, T, D)."""
        if halves is not self._last:
            raise RuntimeError(
                "the linear layers keep their inputs for the last batch alone; go back before the next one"
            )
        found: dict[int, tuple[Tensor, ...]] = {}

        def half(number: int) -> None:
            leaf, out = halves[number]
            found[number] = torch.autograd.grad(out, [leaf, *self._others], gradient[_rows(gradient, number)])

        self._both(half)
        left = iter(self._layers)

        def products(_number: int) -> None:
            for layer in left:  # the next one goes to the thread that is free first
                layer.product()

        self._both(products)
        (first, *one), (second, *two) = (found[number] for number in range(THREADS))
        of_layers = [each for layer in self._layers for each in layer.gradients]
        return [torch.cat([first, second]), *of_layers, *(a + b for a, b in zip(one, two, strict=True))]

    def _both(self, task: Callable[[int], None]) -> None:
        """Call a task with 0 here and with 1 on the other thread; both have ended when this returns or raises."""
        running = self._other.submit(task, 1)
        try:
            task(0)
        finally:
            running.result()


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: _Halves, *parameters: Tensor) -> Tensor:
        ctx.halves = halves
        out, ctx.kept = halves.forward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *of_parameters = ctx.halves.backward(ctx.kept, gradient)
        return of_x, None, *of_parameters


class _Linear:
    """The forward of a linear layer that keeps the inputs and the outputs' gradients of the whole batch.

    With Y = X W^T + b and G the gradient of Y, the gradients of W and b are G^T X and the column sums of G.
    """

    def __init__(self, module: nn.Linear, place: threading.local, onednn: bool) -> None:
        self.module, self._place = module, place
        self.linear: Callable[..., Tensor] = product if onednn else functional.linear
        self._of_weight = of_weight if onednn else _of_weight
        self.parameters = [each for each in (module.weight, module.bias) if each is not None]
        self.inputs = self.outputs = torch.empty(0)
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        return _Deferred.apply(x, self, self._place.rows)

    def allocate(self, x: Tensor) -> None:
        """Memory for a batch with the tokens of x (B, T, D)."""
        if self.inputs.shape[:2] != x.shape[:2]:
            self.inputs = x.new_empty(*x.shape[:2], self.module.in_features)
            self.outputs = x.new_empty(*x.shape[:2], self.module.out_features)

    def product(self) -> None:
        """Form the gradients of the parameters."""
        rows, sums = self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)
        self.gradients = [self._of_weight(rows, sums), sums.sum(0)][: len(self.parameters)]


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Linear, rows: slice) -> Tensor:
        ctx.layer, ctx.rows = layer, rows
        layer.inputs[rows] = x
        return layer.linear(layer.inputs[rows], layer.module.weight, layer.module.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer = ctx.layer
        layer.outputs[ctx.rows] = gradient
        return layer.linear(layer.outputs[ctx.rows], layer.module.weight.t()), None, None


class _DropPath:
    """The forward of timm's DropPath, drawn for the whole batch at once."""

    def __init__(self, module: DropPath, place: threading.local) -> None:
        self.module, self._place = module, place
        self._scale: Tensor | None = None

    def draw(self, x: Tensor) -> None:
        """Draw as timm's `drop_path` does: a scale for each image of x, 0 or 1 / share kept."""
        keep = 1 - self.module.drop_prob
        self._scale = None
        if self.module.drop_prob > 0 and self.module.training:
            self._scale = x.new_empty(len(x), 1, 1).bernoulli_(keep)
            if self.module.scale_by_keep and keep > 0:
                self._scale.div_(keep)

    def __call__(self, x: Tensor) -> Tensor:
        return x if self._scale is None else x * self._scale[self._place.rows]


class _Norm:
    """The forward of a layer norm outside of the blocks, in halves."""

    def __init__(self, module: nn.LayerNorm) -> None:
        self._module = module

    def __call__(self, x: Tensor) -> Tensor:
        forward = type(self._module).forward
        return torch.cat([forward(self._module, half) for half in x.chunk(THREADS)])


_OURS = (_Halves, _Linear, _DropPath, _Norm)


def _replace(module: Any, forward: Callable[[Tensor], Tensor]) -> None:
    module.forward = forward


def _of_weight(rows: Tensor, gradient: Tensor) -> Tensor:
    return gradient.t().mm(rows)


def _rows(x: Tensor, number: int) -> slice:
    """The images of a half."""
    length = len(x) // THREADS
    return slice(number * length, (number + 1) * length)
