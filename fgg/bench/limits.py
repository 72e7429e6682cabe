"""What this machine can do at most: the rate of its matrix products at a model's own shapes, and of its memory.

The rate is that of the fastest product that PyTorch has for the shapes of the model's linear layers, in this process and with
this number of threads. A stage's share of the limit is the number of its multiplications and additions in matrix products,
divided by its time and by this rate. Norms, softmax, GELU, copies and Python count as time and not as work.

Symbols: T tokens, D width, M width of the MLP's hidden layer, K classes, P numbers per patch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional

from fgg.bench.timing import in_turn
from fgg.models.onednn_linear import bf16_products, linear

ROUNDS = 15
COPIED = 2**26  # numbers of a copy that no cache holds


def shapes(model: Any) -> dict[str, int]:
    """T, D, M, K, P and the depth of a timm VisionTransformer with standard blocks."""
    block, embed = model.blocks[0], model.patch_embed
    return {
        "tokens": embed.num_patches + model.num_prefix_tokens,
        "width": model.embed_dim,
        "hidden": block.mlp.fc1.out_features,
        "classes": model.num_classes,
        "pixels": embed.proj.weight[0].numel(),
        "depth": len(model.blocks),
    }


def matrix_rate(model: Any, rows: int, device: torch.device, precision: str) -> dict[str, float]:
    """Floating-point operations per second in products at the shapes of a block's linear layers, by each way to compute them.

    Args:
        rows: images in a batch.
        precision: ``bf16`` adds the products in bfloat16.
    """
    size = shapes(model)
    d, m = size["width"], size["hidden"]
    work, spent = 0, {"torch": 0.0, "fgg": 0.0, **({"bf16": 0.0} if precision == "bf16" else {})}
    with torch.inference_mode():
        for inner, outer in ((d, 3 * d), (d, d), (d, m), (m, d)):
            x = torch.randn(rows * size["tokens"], inner, device=device)
            weight, bias = torch.randn(outer, inner, device=device), torch.randn(outer, device=device)
            low = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
            ways = {
                "torch": partial(functional.linear, x, weight, bias),
                "fgg": partial(linear, x, weight, bias),
                "bf16": partial(functional.linear, *low),
            }
            work += 2 * x.shape[0] * inner * outer
            with bf16_products():
                for name, seconds in in_turn({name: ways[name] for name in spent}, device, ROUNDS).items():
                    spent[name] += seconds
    return {name: work / seconds for name, seconds in spent.items()}


def memory_rate(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    seconds = in_turn({"copy": lambda: target.copy_(source)}, device, 5)["copy"]
    return 2 * source.numel() * source.element_size() / seconds


def operations(model: Any) -> dict[str, float]:
    """Multiplications and additions of an image in matrix products, by kind of pass.

    ``forward`` is a bare pass. ``perturbed`` is one of the engine's: without the first block's projection to queries, keys
    and values, and with one row in the last block. ``attribution`` is a forward pass and a backward pass to the first
    attention, without gradients of the weights. ``training`` is a forward and a backward pass with them.
    """
    size = shapes(model)
    tokens, d, m, depth = size["tokens"], size["width"], size["hidden"], size["depth"]
    layers = 2 * tokens * (4 * d * d + 2 * d * m)
    attention = 4 * tokens * tokens * d
    embedding = 2 * tokens * d * size["pixels"]
    head = 2 * d * size["classes"]
    first, last = 2 * tokens * 3 * d * d, 2 * tokens * 2 * d * d + 2 * (2 * d * d + 2 * d * m) + 4 * tokens * d
    return {
        "forward": float(embedding + depth * (layers + attention) + head),
        "perturbed": float((depth - 1) * (layers + attention) - first + last + head),
        "attribution": float(embedding + depth * (2 * layers + 3 * attention) - first + 2 * head),
        "training": float(2 * embedding + 3 * depth * (layers + attention) + 3 * head),
    }
