"""Versions that several maps contain are computed once, and only where that cannot change a bit of any map's scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fgg.perturbation import engine as engines
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import Fill, make_fill
from fgg.perturbation.known_rows import KnownRows, independent, names

DEFAULT = {"img_size": 80, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def test_rows_are_found_again_by_image_and_mask():
    masks = drawn(40, 100).numpy()
    owners = np.arange(40) % 7
    own = names(owners, np.packbits(masks, axis=-1))
    assert len(set(own)) == 40 and names(owners + 1, np.packbits(masks, axis=-1))[0] not in own
    known, logits = KnownRows(), torch.randn(40, 3)
    for start, end in ((0, 1), (1, 5), (5, 40)):
        known.add(own[start:end], logits[start:end])
    order = torch.randperm(40).tolist()
    assert torch.equal(known.take([own[place] for place in order]), logits[order])
    assert len(known) == 40 and own[3] in known and b"other" not in known


@pytest.mark.parametrize("removal", [False, True])
def test_what_depends_on_other_rows_is_noticed(removal):
    def values(masks, owners):
        return (masks.float() @ torch.arange(20.0))[..., None] + owners[:, None, None]

    assert independent(values, 3, 20, 8, removal)
    assert not independent(lambda masks, owners: values(masks, owners) + len(masks), 3, 20, 8, removal)
    assert not independent(lambda masks, owners: values(masks, owners).cumsum(0), 3, 20, 8, removal)


@pytest.mark.parametrize("kind", ["mean", "image", "removal"])
def test_maps_share_versions_bit_by_bit(make_model, make_images, kind):
    model = make_model()
    images = make_images(model)
    fill = Fill("own", "image", images.flip(0)) if kind == "image" else make_fill(kind, images, (8, 8))
    questions = [drawn(len(images), 6, model.patch_embed.num_patches, seed=seed) for seed in range(3)]
    questions.append(torch.cat([questions[0][:, ::2], questions[1][:, :1], questions[2].flip(1)], dim=1))
    alone = [Perturber(model, images).using(fill).for_one_map().logits(each) for each in questions]
    shared = Perturber(model, images).using(fill)
    together = [shared.for_one_map().logits(each) for each in questions]
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert shared.passes.shared == (len(images) * 10 if shared._independent() else 0)
    assert shared.passes.asked == len(images) * 28


def test_where_rows_depend_on_each_other_every_map_computes_its_own(make_model, make_images, monkeypatch):
    monkeypatch.setattr(engines, "independent", lambda *_given, **_named: False)
    model = make_model()
    images = make_images(model)
    shared = Perturber(model, images).using(make_fill("mean", images, (8, 8)))
    masks = drawn(len(images), 5, model.patch_embed.num_patches)
    for part in (masks, masks[:, 2:].flip(1)):
        shared.for_one_map().logits(part)
    assert (shared.passes.shared, shared.passes.computed) == (0, len(images) * 8)


@pytest.mark.parametrize("kind", ["mean", "removal"])
def test_rows_of_the_default_model_are_independent(make_model, make_images, kind):
    """Each number of filled or removed patches, alone and with others in a pass."""
    model = make_model(**DEFAULT)
    images = make_images(model)
    engine = Perturber(model, images).using(make_fill(kind, images, (8, 8)))
    if not engine._independent():
        pytest.skip("on this processor rows are not independent, so versions are not shared")
    order = torch.rand(len(images), 100, generator=torch.Generator().manual_seed(0)).argsort(1)
    masks = order[:, None] < torch.arange(1, 100)[:, None]
    together = engine._answered(masks, None)
    for image in range(2):
        for version in range(0, 99, 7):
            owner = torch.tensor([image])
            assert torch.equal(
                engine._answered(masks[image : image + 1, version : version + 1], None, owner)[0, 0],
                together[image, version],
            )


def test_removal_of_odd_heads_is_not_shared(make_model, make_images):
    """With few tokens left, PyTorch's attention gives rows of heads 10 wide other bits in another place of a pass."""
    model = make_model(embed_dim=20, num_heads=2)
    images = make_images(model)
    engine = Perturber(model, images)
    assert not engine.using(make_fill("removal", images, (8, 8)))._independent()


def test_no_versions_and_other_draws_of_a_fill(make_model, make_images):
    model = make_model()
    images = make_images(model)
    engine = Perturber(model, images)
    masks = drawn(len(images), 3, model.patch_embed.num_patches)
    mean = engine.using(make_fill("mean", images, (8, 8))).for_one_map()
    assert mean.logits(masks[:, :0]).shape == (len(images), 0, model.num_classes)
    assert mean.single_logits(torch.tensor([], dtype=torch.long), masks[:0, 0]).shape == (0, model.num_classes)
    names_ = [str(number) for number in range(len(images))]
    first, second = (make_fill("noise", images, (8, 8), None, names_, seed) for seed in (0, 1))
    found = [engine.using(fill).for_one_map().logits(masks) for fill in (first, second)]
    assert not torch.equal(*found)
