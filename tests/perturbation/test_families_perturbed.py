"""The engine on every kind of model: filling equals filled pixels, removal equals a slow computation of the tokens left."""

import numpy as np
import pytest
import torch
from families import FAMILIES, make_family, slow_forward

from fgg.features.deletion import rest
from fgg.models.architectures import after, logits_of
from fgg.models.capture import at_rest, capture
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill


@pytest.fixture(scope="module")
def case():
    """A function: family -> model, images and masks; each made once."""
    made = {}

    def give(family):
        if family not in made:
            model, images = make_family(family)
            draw = torch.Generator().manual_seed(4)
            masks = torch.rand(2, 5, model.patch_embed.num_patches, generator=draw) > 0.5
            masks[:, 0], masks[:, 1] = False, True
            made[family] = model, images, masks
        return made[family]

    return give


def filled(model, image, mask, values):
    """One image with the masked patches filled: by one value each, or from another image."""
    image, (tall, wide) = image.clone(), model.patch_embed.patch_size
    columns = image.shape[2] // wide
    for number in mask.nonzero()[:, 0].tolist():
        place = (
            slice(None),
            *(
                slice(at * side, at * side + side)
                for at, side in zip(divmod(number, columns), (tall, wide), strict=True)
            ),
        )
        image[place] = values[place] if values.ndim == 3 else values[number]
    return image


@pytest.mark.parametrize("filling", ["mean", "values", "blur", "noise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_filling_equals_filled_pixels(family, filling, case):
    model, images, masks = case(family)
    engine = Perturber(model, images)
    assert engine.path == "tokens"
    patches = masks.shape[-1]
    if filling in ("mean", "values"):
        draw = torch.Generator().manual_seed(8)
        values = torch.randn(2, patches, generator=draw) if filling == "values" else None
        own = images.mean((1, 2, 3))[:, None].expand(-1, patches) if values is None else values
        found = engine.logits(masks, values)
    else:
        fill = make_fill(filling, images, tuple(model.patch_embed.patch_size), None, ["a", "b"], 3)
        found, own = engine.using(fill).logits(masks), fill.values
    with torch.no_grad():
        expected = torch.stack(
            [
                torch.stack([model(filled(model, image, mask, value)[None])[0] for mask in own_masks])
                for image, own_masks, value in zip(images, masks, own, strict=True)
            ]
        )
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)
    assert expected.std(1).min() > 1e-3, "filling changes nothing, which proves nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_removal_equals_the_slow_computation(family, case):
    """Tokens that stay keep their own positions, also where these are rotations or relative biases."""
    model, images, masks = case(family)
    found = Perturber(model, images).using(make_fill("removal", images, (8, 8), None, ["a", "b"], 3)).logits(masks)
    reads_patches = model.global_pool != "token"
    for number, image in enumerate(images):
        for version, mask in enumerate(masks[number]):
            kept = (~mask).nonzero()[:, 0].tolist()
            if not kept and reads_patches:
                assert found[number, version].isnan().all()
                continue
            expected = slow_forward(model, image, kept=kept).logits.detach()
            np.testing.assert_allclose(found[number, version], expected, atol=2e-5)
    for module in model.modules():
        assert "get_bias" not in vars(module) and "_get_rel_pos_bias" not in vars(module)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rest_of_the_model(family, case):
    """The blocks behind a layer, called one by one, give what the whole model gives."""
    model, images, _ = case(family)
    seen = capture(model, images, layers=(0, 1, 2))
    with at_rest(model), torch.no_grad():
        for layer in range(3):
            tokens = seen.residuals[layer]
            torch.testing.assert_close(rest(model, layer, tokens), seen.logits, atol=1e-5, rtol=0)
            torch.testing.assert_close(
                logits_of(model, after(model, tokens, layer + 1)), seen.logits, atol=1e-5, rtol=0
            )
