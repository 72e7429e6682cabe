"""The engine's two paths give what filling pixels one image at a time gives."""

import definitions as slow
import numpy as np
import pytest
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

from fgg.errors import FggError
from fgg.perturbation.engine import Perturber, allows_tokens


def random_masks(images, patches, versions=6, seed=4):
    draw = torch.Generator().manual_seed(seed)
    masks = torch.rand(images, versions, patches, generator=draw) > 0.5
    masks[:, 0], masks[:, 1] = False, True  # nothing and everything
    return masks


def fills(images, patches):
    draw = torch.Generator().manual_seed(8)
    return {
        "mean": None,
        "per image": torch.randn(images, generator=draw),
        "per patch": torch.randn(images, patches, generator=draw, dtype=torch.float64),
    }


def one_by_one(model, images, masks, fill, patch):
    """Logits in float64, version by version; fill as the engine takes it."""
    out = np.zeros((*masks.shape[:2], 5))
    for index, image in enumerate(images.numpy()):
        for version, mask in enumerate(masks[index]):
            picture = image
            for number in mask.nonzero()[:, 0].tolist():
                value = image.mean(dtype=np.float64) if fill is None else fill[index].flatten()
                value = value if fill is None else value[number if len(value) > 1 else 0]
                picture = slow.fill(picture, [number], patch, float(value))
            out[index, version] = slow.clean_logits(model, picture)
    return out


@pytest.mark.parametrize("filling", ["mean", "per image", "per patch"])
def test_both_paths_fill_pixels(filling, model, exact, images, patch):
    patches = model.patch_embed.num_patches
    masks = random_masks(len(images), patches)
    fill = fills(len(images), patches)[filling]
    tokens, pixels = (Perturber(model, images, path=path) for path in ("tokens", "pixels"))
    assert (tokens.path, pixels.path) == ("tokens", "pixels")
    assert tokens.patches == pixels.patches == patches
    a, b = tokens.logits(masks, fill), pixels.logits(masks, fill)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    expected = one_by_one(exact, images, masks, fill, patch)
    np.testing.assert_allclose(a, expected, atol=2e-5)
    np.testing.assert_allclose(b, expected, atol=2e-5)
    assert expected.std(1).min() > 1e-2, "filling changes nothing, which proves nothing"
    assert a.dtype == b.dtype == torch.float32
    torch.testing.assert_close(a[:, 0], tokens.clean, atol=1e-5, rtol=0)


def test_clean_logits_and_mean(model, images, exact):
    for path in ("tokens", "pixels"):
        engine = Perturber(model, images, path=path)
        expected = [slow.clean_logits(exact, image) for image in images]
        np.testing.assert_allclose(engine.clean, expected, atol=2e-5)
        np.testing.assert_allclose(engine.mean, images.double().numpy().mean((1, 2, 3)), atol=1e-6)


def test_the_token_path_is_the_default_where_it_fits(model, images):
    assert allows_tokens(model)
    assert Perturber(model, images).path == "tokens"


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 24, 1000])
def test_rows_per_pass_do_not_matter(rows, model, images):
    patches = model.patch_embed.num_patches
    masks = random_masks(len(images), patches, versions=7)
    for fill in fills(len(images), patches).values():
        expected = Perturber(model, images).logits(masks, fill)
        for path in ("tokens", "pixels"):
            measured = Perturber(model, images, rows=rows, path=path).logits(masks, fill)
            torch.testing.assert_close(measured, expected, atol=1e-5, rtol=0)


def test_one_engine_answers_many_times(model, images):
    """A fill that was asked for before does not linger."""
    patches = model.patch_embed.num_patches
    masks, some = random_masks(len(images), patches), fills(len(images), patches)
    engine = Perturber(model, images)
    first = {name: engine.logits(masks, fill) for name, fill in some.items()}
    for name in reversed(list(some)):
        assert torch.equal(engine.logits(masks, some[name]), first[name])
        assert torch.equal(engine.logits(torch.zeros_like(masks), some[name])[:, 0], engine.clean)


@pytest.mark.parametrize("depth", [1, 2])
def test_short_models(depth, make_model, make_images):
    """The first block, the last, or both at once are the ones that the token path takes apart."""
    model = make_model(depth=depth)
    images = make_images(model)
    masks = random_masks(4, 16)
    tokens, pixels = (Perturber(model, images, path=path).logits(masks) for path in ("tokens", "pixels"))
    torch.testing.assert_close(tokens, pixels, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_fn": ResPostBlock},
        {"block_fn": ParallelScalingBlock},
        {"scale_attn_norm": True, "scale_mlp_norm": True},
        {"global_pool": "map"},
        {"global_pool": "max"},
        {"global_pool": "avg", "pool_include_prefix": True, "reg_tokens": 2},
        {"fc_norm": True},
        {"embed_norm_layer": "layernorm"},
        {"pos_embed": "none"},
        {"final_norm": False},
        {"proj_bias": False},
    ],
    ids=str,
)
def test_rarer_models(changes, make_model, make_images):
    model = make_model(**changes)
    images = make_images(model)
    masks = random_masks(4, 16)
    tokens, pixels = (Perturber(model, images, path=path).logits(masks) for path in ("tokens", "pixels"))
    torch.testing.assert_close(tokens, pixels, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 40), (16, 24)])
def test_images_of_another_size(size, make_model):
    model = make_model(dynamic_img_size=True, img_size=24)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    patches = size[0] * size[1] // 64
    masks = random_masks(2, patches)
    expected = one_by_one(slow.precise(model), images, masks, None, (8, 8))
    for path in ("tokens", "pixels"):
        np.testing.assert_allclose(Perturber(model, images, path=path).logits(masks), expected, atol=2e-5)


class Blurring(PatchEmbed):
    """An embedding of one's own: its type is not timm's, so nothing is assumed about it."""

    def forward(self, x):
        return super().forward(nn.functional.avg_pool2d(x, 3, 1, 1))


def overlapping(model):
    """Patches read their neighbours' pixels, on the same grid."""
    proj = nn.Conv2d(3, 24, 10, 8, 1)
    model.patch_embed.proj = proj


def dilated(model):
    model.patch_embed.proj = nn.Conv2d(3, 24, 4, 8, 0, dilation=2)


def stem(model):
    """Convolutions before the projection, as hybrid models have them."""
    model.patch_embed.proj = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 24, 8, 8))
    model.patch_embed.proj.in_channels = 3


def own_type(model):
    embed = Blurring(32, 8, 3, 24)
    embed.load_state_dict(model.patch_embed.state_dict())
    model.patch_embed = embed


@pytest.mark.parametrize("change", [overlapping, dilated, stem, own_type])
def test_embeddings_that_do_not_fit_take_the_pixel_path(change, make_model, make_images):
    model = make_model()
    images = make_images(model, count=2)
    torch.manual_seed(0)
    change(model)
    model.eval()
    masks = random_masks(2, 16)
    engine = Perturber(model, images)
    assert engine.path == "pixels"
    np.testing.assert_allclose(
        engine.logits(masks), one_by_one(slow.precise(model), images, masks, None, (8, 8)), atol=2e-5
    )
    with pytest.raises(FggError, match="does not allow the token path"):
        Perturber(model, images, path="tokens")


def test_timms_hybrid_models(pictures):
    from timm.layers import HybridEmbed
    from timm.models.vision_transformer import VisionTransformer

    def embed(**options):
        backbone = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU())
        backbone.num_features = 6
        options.pop("img_size"), options.pop("patch_size")
        return HybridEmbed(backbone, img_size=32, patch_size=1, feature_size=(4, 4), **options)

    model = VisionTransformer(32, 8, embed_dim=24, depth=2, num_heads=3, num_classes=5, embed_layer=embed).eval()
    assert model(pictures).shape == (4, 5)
    engine = Perturber(model, pictures)
    assert (engine.path, engine.patches) == ("pixels", 16)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (torch.zeros(2, 1, 32, 32), "1 channels, but the model takes 3"),
        (torch.zeros(2, 3, 40, 32), r"\(40, 32\), but the model takes \(32, 32\)"),
        (torch.full((2, 3, 32, 32), float("nan")), "not finite"),
    ],
)
def test_wrong_images(images, names, plain):
    with pytest.raises(FggError, match=names):
        Perturber(plain, images)


@pytest.mark.parametrize("shape", [(4, 2, 15), (3, 2, 16)])
def test_wrong_masks(shape, plain, pictures):
    with pytest.raises(FggError, match=r"expected \(4, V, 16\)"):
        Perturber(plain, pictures).logits(torch.zeros(shape, dtype=torch.bool))


def test_no_versions_and_no_images(plain, pictures):
    assert Perturber(plain, pictures).logits(torch.zeros(4, 0, 16, dtype=torch.bool)).shape == (4, 0, 5)
    assert Perturber(plain, pictures[:0]).logits(torch.zeros(0, 3, 16, dtype=torch.bool)).shape == (0, 3, 5)


@pytest.mark.parametrize("path", ["tokens", "pixels"])
def test_a_fill_that_is_not_finite(path, plain, pictures):
    with pytest.raises(FggError, match="not finite"):
        Perturber(plain, pictures, path=path).logits(random_masks(4, 16), torch.full((4,), float("nan")))


def test_an_unknown_path(plain, pictures):
    with pytest.raises(FggError, match="pixel"):
        Perturber(plain, pictures, path="pixel")
