"""What a model still knows when a layer's residual stream is replaced by its SAE's reconstruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from fgg.data.load import Split
from fgg.data.preprocess import Preprocess
from fgg.models.capture import at_rest
from fgg.models.device import images_per_batch
from fgg.progress import batches


def downstream(
    model: VisionTransformer,
    preprocess: Preprocess,
    sae: Any,
    layer: int,
    split: Split,
    mean: Tensor,
    batch: int | None = None,
    known: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Compare the model's predictions with and without the replacement, on a split.

    The patches' residual after the layer is replaced by the reconstruction, and, as the worst case, by its mean; the other
    tokens stay. ``loss_recovered`` is the share of the loss (cross-entropy with the label) by which the mean is worse than the
    original that the reconstruction wins back: 1 is as good as the original, 0 no better than the mean. NaN if the mean is
    not worse.

    Args:
        mean: the residual's mean over patches, (D,).
        batch: images in a pass of the model; None takes what suits the model.
        known: keeps the images and the answers that do not depend on the SAE, for the next call with the same images and
            mean.

    Returns:
        ``same_prediction``, the share of images whose prediction stays; ``kl``, mean KL divergence of the probabilities from
        the original ones, in nats; ``accuracy_before`` and ``accuracy_after``; ``loss``, ``loss_replaced`` and
        ``loss_ablated``; ``loss_recovered``; ``downstream_images``.
    """
    device = mean.device
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda patches: patches,
        "replaced": lambda patches: sae.decode(sae.encode(patches)).to(patches.dtype),
        "ablated": lambda patches: mean.to(patches.dtype).expand_as(patches),
    }
    keep, known = known is not None, {} if known is None else known
    changes = {name: change for name, change in changes.items() if name not in known}
    logits: dict[str, list[Tensor]] = {name: [] for name in changes}
    for rows in batches(len(split), images_per_batch(model, batch), f"downstream of layer {layer}"):
        place = f"images from {rows.start}"
        images = known[place] if place in known else split.tensors(preprocess, rows).to(device)
        if keep:
            known[place] = images
        for name, change in changes.items():
            with replaced(model, layer, change), torch.no_grad():
                logits[name].append(model(images).double())
    answers = known | {name: torch.cat(each) for name, each in logits.items()}
    known |= {name: answers[name] for name in ("", "ablated")}
    clean, after, ablated = (answers[name] for name in ("", "replaced", "ablated"))
    labels = torch.from_numpy(split.labels).to(device)
    losses = [float(cross_entropy(each, labels)) for each in (clean, after, ablated)]
    kl = kl_div(after.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)
    room = losses[2] - losses[0]
    return {
        "same_prediction": float((clean.argmax(-1) == after.argmax(-1)).double().mean()),
        "kl": max(0.0, float(kl)),
        "accuracy_before": float((clean.argmax(-1) == labels).double().mean()),
        "accuracy_after": float((after.argmax(-1) == labels).double().mean()),
        "loss": losses[0],
        "loss_replaced": losses[1],
        "loss_ablated": losses[2],
        "loss_recovered": (losses[2] - losses[1]) / room if room > 0 else float("nan"),
        "downstream_images": len(labels),
    }


@contextmanager
def replaced(model: VisionTransformer, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, the model's patches leave a layer as ``change`` gives them, (B, N, D) to (B, N, D)."""
    prefix = model.num_prefix_tokens

    def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :prefix], change(output[:, prefix:])], dim=1)

    handle = model.blocks[layer].register_forward_hook(hook)
    try:
        with at_rest(model):
            yield
    finally:
        handle.remove()
