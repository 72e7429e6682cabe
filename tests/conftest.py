"""What all tests share: no network, one thread, the reference vectors, and small random models of every kind."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

from pathlib import Path

import pytest
import torch
from timm.layers import LayerNorm
from timm.models.vision_transformer import VisionTransformer

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]
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


def pytest_collection_modifyitems(items):
    """Real runs of the workflow first: they take longest, and two workers then end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("dag") is None)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of the reference vectors."""
    place = Path(os.environ.get("FGG_REFERENCE") or REPOSITORY.parent / "shared" / "reference")
    if not (place / "meta.json").is_file():
        pytest.skip(f"no reference vectors in {place}; set FGG_REFERENCE to their folder")
    return place


def make_model(seed: int = 1, **changes) -> VisionTransformer:
    """A random ViT whose attention is not flat, whose norms are not the identity, and whose classes differ."""
    model = VisionTransformer(**BASE | changes)
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
    from fgg.models.sae import build_sae

    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (width, features), "W_dec": (features, width), "b_enc": (features,), "b_dec": (width,)}
    tensors = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    tensors["b_enc"] -= 0.4
    return build_sae(tensors, normalize=normalize)


@pytest.fixture(scope="session", name="make_model")
def _make_model():
    """The function: seed, changes to timm's arguments -> model."""
    return make_model


@pytest.fixture(scope="session", name="make_images")
def _make_images():
    """The function: model, count, seed -> images."""
    return make_images


@pytest.fixture(scope="session", name="make_sae")
def _make_sae():
    """The function: seed, normalisation, width, features -> SAE."""
    return make_sae


@pytest.fixture(scope="session", params=ZOO, ids=str)
def model(request) -> VisionTransformer:
    """Each model of the zoo in turn."""
    return make_model(**ZOO[request.param])


@pytest.fixture(scope="session")
def plain() -> VisionTransformer:
    """The class-token model, for tests where the kind of model does not matter."""
    return make_model()


@pytest.fixture(scope="session")
def images(model) -> torch.Tensor:
    return make_images(model)


@pytest.fixture(scope="session")
def pictures(plain) -> torch.Tensor:
    """Images for the plain model."""
    return make_images(plain)


@pytest.fixture(scope="session")
def saes() -> dict:
    """SAEs of layers 0 (plain) and 1 (layer norm): both lie before the layers where the score cancels."""
    return {0: make_sae(10), 1: make_sae(11, "layer_norm")}


@pytest.fixture(scope="session")
def relevance(model) -> torch.Tensor:
    """Random relevance of both signs, (4, N)."""
    return torch.randn(4, model.patch_embed.num_patches, generator=torch.Generator().manual_seed(3))
