"""Small random models of every kind, and images and SAEs for them."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import VisionTransformer

CLASSES, WIDTH = 5, 24
BASE = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 4, "num_heads": 3, "num_classes": CLASSES}
# Every fact about a model that the package has to get right appears at least once, and no two sizes agree by chance.
ZOO = {
    "class-token": {},
    "mean-pool-grey-odd": {"class_token": False, "global_pool": "avg", "img_size": 24, "in_chans": 1},
    "class-token-but-mean-pool": {"global_pool": "avg", "depth": 3},
    "registers-odd": {"reg_tokens": 3, "img_size": 24},
    "registers-outside-embedding-grey": {"reg_tokens": 3, "no_embed_class": True, "in_chans": 1, "depth": 3},
    "non-square": {"img_size": (24, 40)},
    "non-square-patches": {"img_size": (24, 40), "patch_size": (12, 8), "mlp_ratio": 2.0},
    "qk-norm-layer-scale-no-bias": {"qk_norm": True, "init_values": 0.5, "qkv_bias": False},
    "clip-like": {"pre_norm": True, "norm_layer": lambda *a, **k: LayerNorm(*a, **k | {"eps": 1e-5}), "act_layer": "quick_gelu"},
    "dynamic-size": {"dynamic_img_size": True, "img_size": 24},
}  # fmt: skip


def make_model(seed: int = 1, **changes) -> VisionTransformer:
    """A random ViT whose attention is not flat, whose norms are not the identity, and whose classes differ."""
    return randomise(VisionTransformer(**BASE | changes), seed)


def randomise(model, seed: int = 1):
    """The model in eval mode, with random weights as `make_model` describes them."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif "gamma" in name:
                parameter.copy_(0.7 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            elif name.endswith(("token", "embed")):
                parameter.copy_(0.5 * noise)
            else:
                gain = 1.6 if "qkv" in name or "head" in name else 1.0
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
    return model.eval()


def make_images(model: VisionTransformer, count: int = 4, seed: int = 2) -> torch.Tensor:
    """Random images of the model's size; each has its own mean and contrast."""
    draw = torch.Generator().manual_seed(seed)
    size = (count, model.patch_embed.proj.in_channels, *model.patch_embed.img_size)
    shift, spread = torch.randn((count, 1, 1, 1), generator=draw), torch.rand((count, 1, 1, 1), generator=draw)
    return 0.5 * shift + (0.5 + spread) * torch.randn(size, generator=draw)


def make_sae(seed: int, normalize: str = "none", width: int = WIDTH, features: int = 40):
    """A random sae-lens SAE with about a third of its features active."""
    from fgg.saes.sae import build_sae

    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    tensors = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    tensors["b_enc"] -= 0.4
    return build_sae(tensors, normalize=normalize)


# Few samples: what the tests compare does not depend on their number.
FEW = {
    "smoothgrad": {"samples": 3},
    "integrated_gradients": {"steps": 4},
    "rise": {"samples": 60},
    "kernel_shap": {"samples": 64},
}


def method_options() -> dict[str, dict]:
    """The methods that need no masks, and options with which they are quick."""
    from fgg.attribution.registry import methods

    return {name: FEW.get(name, {}) for name, own in methods().items() if own.role != "reference"}
