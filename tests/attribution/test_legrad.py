"""LeGrad against its definition: differences of the score when one weight of the attention moves."""

import copy

import numpy as np
import pytest
import slow_relevance as slow
import torch
from timm.models.vision_transformer import ParallelThingsBlock

from fgg.attribution.legrad import legrad
from fgg.errors import FggError
from fgg.models.capture import at_rest

TARGET = torch.tensor([1, 3, 0, 3])
STEP = 1e-5


def scores(block, model, x, attention, target):
    """The target's score of a block's output for input x (T, D), as a function of its attention; written out."""
    attn, tokens = block.attn, len(x)
    value = attn.qkv(block.norm1(x)).reshape(tokens, 3, attn.num_heads, attn.head_dim)[:, 2]
    heads = [attention[h] @ value[:, h] for h in range(attn.num_heads)]
    middle = x + block.ls1(attn.proj(torch.cat(heads, dim=1)))
    out = middle + block.ls2(block.mlp(block.norm2(middle)))
    normed = model.norm(out)
    pooled = normed[0] if model.global_pool == "token" else normed[model.num_prefix_tokens :].mean(0)
    return model.head(model.fc_norm(pooled))[target]


def sensitivities(one, target):
    """Per block ds/dA (H, T, T), by autograd of the formula above."""
    found = []
    for block, own in zip(one.model.blocks, one.blocks, strict=True):
        attention = torch.from_numpy(own["attention"]).requires_grad_()
        score = scores(block, one.model, torch.from_numpy(own["x"]), attention, target)
        found.append(torch.autograd.grad(score, attention)[0].numpy())
    return found


def expected(one, target, start=0):
    prefix, tokens = one.model.num_prefix_tokens, len(one.tokens[0])
    maps = []
    for gradient in sensitivities(one, target)[start:]:
        row = np.zeros(tokens)
        for head in gradient:
            for query in head:
                row += np.maximum(query, 0) / len(gradient) / tokens
        maps.append(row[prefix:])
    return sum(maps) / len(maps)


@pytest.fixture(scope="module")
def traces(model, images):
    return [slow.trace(model, image) for image in images]


def test_against_the_definition(model, images, traces):
    precise = copy.deepcopy(model).double()
    for start in (0, 1, -1):
        wanted = [expected(one, k, start) for one, k in zip(traces, TARGET.tolist(), strict=True)]
        exact = slow.largest(legrad(precise, images.double(), TARGET, start_layer=start), wanted)
        rounded = slow.largest(legrad(model, images, TARGET, start_layer=start), wanted)
        print(f"from block {start}: float64 {exact:.1e}, float32 {rounded:.1e}")
        assert exact < 1e-9
        assert rounded < 1e-4


def test_the_sensitivities_are_differences_of_the_score(make_model, make_images):
    """Each weight of the attention is moved up and down, in a forward pass by hand."""
    model = make_model(img_size=24, depth=2)
    one = slow.trace(model, make_images(model, 1)[0])
    for own, block, gradient in zip(one.blocks, one.model.blocks, sensitivities(one, 2), strict=True):
        measured = np.zeros_like(gradient)
        for place in np.ndindex(*gradient.shape):
            sides = []
            for sign in (1, -1):
                attention = own["attention"].copy()
                attention[place] += sign * STEP
                with torch.no_grad():
                    sides.append(slow.score(one, slow.run_block(block, own["x"], attention)["out"])[2])
            measured[place] = (sides[0] - sides[1]) / (2 * STEP)
        np.testing.assert_allclose(measured, gradient, atol=1e-7 * np.abs(gradient).max(), rtol=1e-6)


def test_only_the_way_through_the_same_block_counts(plain, pictures):
    """The map of the last block alone is that of the whole model's gradient there; that of the first is not."""
    model, kept = copy.deepcopy(plain), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    gradients = torch.autograd.grad(model(pictures).gather(1, TARGET[:, None]).sum(), kept)
    maps = [gradient.clamp(min=0).mean((1, 2))[:, 1:] for gradient in gradients]
    assert slow.largest(legrad(plain, pictures, TARGET, start_layer=-1), maps[-1]) < 1e-4
    assert slow.largest(legrad(plain, pictures, TARGET), torch.stack(maps).mean(0)) > 0.01


def test_a_batch_gives_what_one_image_gives(model, images):
    together = legrad(model, images, TARGET)
    assert (together >= 0).all()
    for index in range(len(images)):
        one = slice(index, index + 1)
        assert slow.largest(legrad(model, images[one], TARGET[one]), together[one]) < 1e-5


def test_the_state_outside_does_not_matter(plain, pictures):
    wanted = legrad(plain, pictures, TARGET)
    with torch.no_grad():
        assert torch.equal(legrad(plain, pictures, TARGET), wanted)
    with torch.inference_mode():
        assert torch.equal(legrad(plain, pictures.clone(), TARGET), wanted)
    with at_rest(plain):
        assert torch.equal(legrad(plain, pictures, TARGET), wanted)


def test_the_model_is_left_as_it_came(plain, pictures):
    for start in (0, 2):
        slow.check_left_as_it_came(plain, lambda model, s=start: legrad(model, pictures, TARGET, start_layer=s))


@pytest.mark.parametrize("start", [4, -5])
def test_a_block_that_is_not_there_is_refused(start, plain, pictures):
    with pytest.raises(FggError, match=rf"legrad: start_layer is {start}, but the model has 4 blocks"):
        legrad(plain, pictures, TARGET, start_layer=start)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"block_fn": ParallelThingsBlock}, "blocks of type ParallelThingsBlock with 2 attentions"),
        ({"class_token": False, "global_pool": "map"}, "pools by attention"),
    ],
)
def test_other_models_are_refused(changes, names, make_model, pictures):
    with pytest.raises(FggError, match=rf"legrad is not defined for .*{names}.*leave it out"):
        legrad(make_model(**changes), pictures, TARGET)
