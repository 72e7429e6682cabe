"""Check for NaN in a model's logits: for how many images, and in which part of the model it appears first."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fgg.errors import FggError


def check_finite(model: VisionTransformer, images: Tensor, logits: Tensor) -> None:
    """Check logits (B, …) of images (B, C, H, W), which may have been perturbed.

    Raises:
        FggError: some are not finite.
    """
    broken = ~logits.isfinite().flatten(1).all(1)
    if not broken.any():
        return
    numbers = broken.nonzero().flatten().tolist()
    raise FggError(
        f"the model's logits are not finite (NaN or infinite) for {len(numbers)} of {len(images)} images of a batch "
        f"(numbers {', '.join(map(str, numbers[:5]))}{', …' if len(numbers) > 5 else ''}), "
        f"{_origin(model, images[broken][:1])}; check its weights and the preprocessing, and leave `precision` at fp32"
    )


def _origin(model: VisionTransformer, image: Tensor) -> str:
    """Where the first value that is not finite appears: the image, a part of the model, or only when perturbed."""
    if not image.isfinite().all():
        return "which contain such values themselves"
    first: list[str] = []

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not first and not output.isfinite().all():
                first.append(name)

        return hook

    parts = [("patch_embed", model.patch_embed)]
    parts += [(f"blocks.{number}", block) for number, block in enumerate(model.blocks)]
    parts += [(name, getattr(model, name)) for name in ("norm", "fc_norm", "head")]
    handles = [part.register_forward_hook(watch(name)) for name, part in parts]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return f"first after {first[0]}" if first else "only when patches are filled"
