"""Training steps on a CPU with the two halves of a batch side by side, each on a thread of its own.

A step of a small model consists of hundreds of short operations. When PyTorch divides each of them between two threads, these
wait for each other hundreds of times, and for milliseconds if something else needs a core. Here each thread takes half of the
images through all blocks and back, and they meet three times: docs/speed.md has the gain.

What sums over all images is not divided: the products that are the gradients of linear layers are shared out whole, once both
halves have come back (`_Linear`). Layer norms sum over each half, as PyTorch's two threads do. What lies outside the blocks is
left to PyTorch. So the trained model is the one that PyTorch trains with two threads: byte for byte on an AMD EPYC (Zen 5).

A pass is divided only if the thread that has entered `side_by_side` takes an even batch through all blocks of a known model in
training. All other passes are timm's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from timm.layers import Attention, DropPath, LayerNorm, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fgg.models.joined_block import hooked
from fgg.models.training_products import ONEDNN, PYTORCH, available, like_pytorch

THREADS = 2
# What linear layers keep of a batch, half a gigabyte. With more, operations are long, and nothing is gained.
MOST_FLOATS = 2**27
LAYERS = (nn.Linear, nn.LayerNorm, LayerNorm, nn.GELU, nn.Identity, nn.Dropout, DropPath)


@contextlib.contextmanager
def side_by_side(model: VisionTransformer, batch: int, onednn: bool = False) -> Iterator[None]:
    """Inside the block, the model's steps for ``batch`` images are computed in halves, if it can be done (`divisible`).

    Its layers, hooks and dropouts are looked at once, when the block is entered. With ``onednn``, the products of the blocks'
    linear layers are oneDNN's (see `fgg.models.training_products`).
    """
    if torch.get_num_threads() != THREADS or batch % THREADS or not divisible(model, batch):
        yield
        return
    try:
        with ThreadPoolExecutor(1) as other:
            _replace(model.blocks, _Halves(model.blocks, other, onednn and available()))
            yield
    finally:
        for module in model.modules():
            if isinstance(vars(module).get("forward"), _Halves | _Linear | _DropPath):
                del module.forward


def divisible(model: VisionTransformer, batch: int) -> bool:
    """Whether a model's blocks consist of layers that this module knows, in float32 on a CPU, with nothing hooked or replaced."""
    blocks = model.blocks
    if type(blocks) is not nn.Sequential or not all(_plain(block) for block in blocks):
        return False
    modules = list(model.modules())
    layers = [module for module in blocks.modules() if type(module) is nn.Linear]
    calls = [module for _, module in blocks.named_modules(remove_duplicate=False) if type(module) is nn.Linear]
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    return (
        0 < len(layers) == len(calls)  # each linear layer keeps one batch
        and batch * tokens * sum(layer.in_features + layer.out_features for layer in layers) <= MOST_FLOATS
        and not any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)
        and not any(hooked(module) or module._backward_hooks or module._backward_pre_hooks for module in modules)
        and not any("forward" in vars(module) or module._compiled_call_impl is not None for module in modules)
        and all(p.device.type == "cpu" and p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
        and all(layer.weight.is_contiguous() for layer in layers)
        and not model.grad_checkpointing
    )


def _plain(block: nn.Module) -> bool:
    return (
        type(block) is Block
        and type(block.attn) is Attention
        and type(block.mlp) is Mlp
        and bool(block.attn.fused_attn)
        and all(type(m) in LAYERS for m in block.modules() if m not in (block, block.attn, block.mlp))
    )


class _Halves:
    """The forward of a model's blocks, x (B, T, D) to (B, T, D), with gradients for x and for all parameters."""

    def __init__(self, blocks: nn.Sequential, other: ThreadPoolExecutor, onednn: bool) -> None:
        self._blocks, self._other, self._owner = blocks, other, threading.get_ident()
        self._place = _Place()
        modules = list(blocks.modules())
        self._layers = [_Linear(module, self._place, onednn) for module in modules if type(module) is nn.Linear]
        self._drops = [_DropPath(module, self._place) for module in modules if type(module) is DropPath]
        for layer in self._layers:
            _replace(layer.module, layer)
        for drop in self._drops:
            _replace(drop.module, drop)
        self._last: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor) -> Tensor:
        divided = (
            threading.get_ident() == self._owner
            and self._blocks.training
            and torch.is_grad_enabled()
            and x.dtype == torch.float32
            and len(x) % THREADS == 0
            and x.numel() > 0
            and not torch.is_autocast_enabled("cpu")
        )
        return _Blocks.apply(x, self, *self.parameters()) if divided else nn.Sequential.forward(self._blocks, x)

    def parameters(self) -> list[Tensor]:
        """Those of linear layers first."""
        of_layers = [each for layer in self._layers for each in layer.parameters]
        known = {id(each) for each in of_layers}
        return of_layers + [each for each in self._blocks.parameters() if id(each) not in known]

    def forward(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """What the last block returns for x (B, T, D), and the input and the output of each half, for `backward`."""
        for layer in self._layers:
            layer.allocate(x)
        for drop in self._drops:
            drop.draw(x)
        kept: dict[int, tuple[Tensor, Tensor]] = {}

        def half(number: int) -> None:
            leaf = x[_rows(x, number)].detach().requires_grad_()
            with self._place.of(_rows(x, number)), torch.enable_grad():
                kept[number] = leaf, nn.Sequential.forward(self._blocks, leaf)

        self._both(half)
        self._last = [kept[number] for number in range(THREADS)]
        return _joined([out.detach() for _, out in self._last]), self._last

    def backward(
        self, halves: list[tuple[Tensor, Tensor]], parameters: Sequence[Tensor], gradient: Tensor
    ) -> list[Tensor]:
        """The gradients of x and of the parameters, in the order of `parameters`, given that of the output (B, T, D)."""
        if halves is not self._last:
            raise RuntimeError(
                "the linear layers keep their inputs for the last batch alone; go back before the next one"
            )
        others = parameters[sum(len(layer.parameters) for layer in self._layers) :]
        found: dict[int, tuple[Tensor, ...]] = {}

        def half(number: int) -> None:
            leaf, out = halves[number]
            found[number] = torch.autograd.grad(out, [leaf, *others], gradient[_rows(gradient, number)])

        self._both(half)
        left = iter(self._layers)

        def products(_number: int) -> None:
            for layer in left:  # the next one goes to the thread that is free first
                layer.product()

        self._both(products)
        (first, *one), (second, *two) = (found[number] for number in range(THREADS))
        of_layers = [each for layer in self._layers for each in layer.gradients]
        return [_joined([first, second]), *of_layers, *(a + b for a, b in zip(one, two, strict=True))]

    def _both(self, task: Callable[[int], None]) -> None:
        """Call a task with 0 here and with 1 on the other thread; both have ended when this returns or raises."""

        def alone(number: int) -> None:
            torch.set_num_threads(1)
            task(number)

        running = self._other.submit(alone, 1)
        try:
            alone(0)
        finally:
            wait([running])
            torch.set_num_threads(THREADS)
        running.result()


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halves: _Halves, *parameters: Tensor) -> Tensor:
        ctx.halves = halves
        ctx.save_for_backward(*parameters)  # PyTorch sees if one is changed before the way back
        out, ctx.kept = halves.forward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_x, *of_parameters = ctx.halves.backward(ctx.kept, ctx.saved_tensors, gradient)
        return of_x, None, *of_parameters


class _Place(threading.local):
    """The images that this thread is taking through the blocks; None outside of a divided pass."""

    rows: slice | None = None

    @contextlib.contextmanager
    def of(self, rows: slice) -> Iterator[None]:
        self.rows = rows
        try:
            yield
        finally:
            self.rows = None


class _Linear:
    """The forward of a linear layer that keeps the inputs and the outputs' gradients of the whole batch.

    With Y = X W^T + b and G the gradient of Y, the gradients of W and b are G^T X and the column sums of G.
    """

    def __init__(self, module: nn.Linear, place: _Place, onednn: bool) -> None:
        self.module, self._place, self._onednn = module, place, onednn
        self.products = PYTORCH
        self.inputs = self.outputs = torch.empty(0)
        self.gradients: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        rows = self._place.rows
        return nn.Linear.forward(self.module, x) if rows is None else _Deferred.apply(x, self, rows)

    @property
    def parameters(self) -> list[Tensor]:
        """Weight, and bias if there is one."""
        return [each for each in (self.module.weight, self.module.bias) if each is not None]

    def allocate(self, x: Tensor) -> None:
        """Memory for a batch with the tokens of x (B, T, D)."""
        if self.inputs.shape[:2] == x.shape[:2]:
            return
        inputs, outputs = self.module.in_features, self.module.out_features
        self.inputs, self.outputs = x.new_empty(*x.shape[:2], inputs), x.new_empty(*x.shape[:2], outputs)
        rows = len(x) * x.shape[1]
        bias = self.module.bias is not None
        self.products = ONEDNN if self._onednn else like_pytorch(rows // THREADS, rows, inputs, outputs, bias, 1)

    def product(self) -> None:
        """Form the gradients of the parameters."""
        rows, sums = self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)
        self.gradients = [self.products.of_weight(rows, sums), sums.sum(0)][: len(self.parameters)]


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Linear, rows: slice) -> Tensor:
        ctx.layer, ctx.rows = layer, rows
        layer.inputs[rows] = x
        return layer.products.forward(layer.inputs[rows], layer.module.weight, layer.module.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer = ctx.layer
        layer.outputs[ctx.rows] = gradient
        return layer.products.of_input(layer.outputs[ctx.rows], layer.module.weight), None, None


class _DropPath:
    """The forward of timm's DropPath, drawn for the whole batch at once."""

    def __init__(self, module: DropPath, place: _Place) -> None:
        self.module, self._place = module, place
        self._scale = torch.empty(0)

    def draw(self, x: Tensor) -> None:
        """Draw a scale for each image of x: 0, or 1 / share kept."""
        self._scale = DropPath.forward(self.module, x.new_ones(len(x), 1, 1))

    def __call__(self, x: Tensor) -> Tensor:
        rows = self._place.rows
        return DropPath.forward(self.module, x) if rows is None else x * self._scale[rows]


def _replace(module: Any, forward: Callable[[Tensor], Tensor]) -> None:
    module.forward = forward


def _rows(x: Tensor, number: int) -> slice:
    """The images of a half."""
    length = len(x) // THREADS
    return slice(number * length, (number + 1) * length)


def _joined(halves: list[Tensor]) -> Tensor:
    """The halves of a tensor (B, T, D) in the layout that they have, on which the order of later sums depends."""
    first = halves[0]
    whole = first.new_empty_strided((THREADS * len(first), *first.shape[1:]), first.stride())
    return torch.cat(halves, out=whole)
