"""LRP x gradient against the rules of Chefer, Gur and Wolf 2021, looped over in float64 one image at a time."""

import copy

import numpy as np
import pytest
import slow_relevance as slow
import torch
from timm.layers import GroupNorm1, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

from fgg.attribution.chefer_lrp import chefer_lrp
from fgg.errors import FggError
from fgg.models.capture import at_rest, capture
from fgg.models.zero_shot import ZeroShotHead

TARGET = torch.tensor([1, 3, 0, 3])


def divide(a, b):
    """Element by element; the floor and the zero are those of the authors' code."""
    a, b = np.broadcast_arrays(a, b)
    out = np.zeros(a.shape)
    for place in np.ndindex(*a.shape):
        below = max(b[place], 1e-9) + min(b[place], 1e-9)
        if below == 0:
            below = 1e-9
        out[place] = a[place] / below if b[place] != 0 else 0.0
    return out


def by_linear(relevance, own):
    """Per token and output: shared by the positive ones among the products of input and weight."""
    x, relevance = np.atleast_2d(own.x), np.atleast_2d(relevance)
    out = np.zeros_like(x)
    for t in range(len(x)):
        for o in range(len(own.weight)):
            parts = np.array([max(part, 0.0) for part in own.weight[o] * x[t]])
            out[t] += parts * divide(relevance[t, o], parts.sum())
    return out.reshape(own.x.shape)


def by_sum(relevance, a, b):
    one, other = a * divide(relevance, a + b), b * divide(relevance, a + b)
    whole, both = relevance.sum(), abs(one.sum()) + abs(other.sum())
    return (
        one * divide(divide(abs(one.sum()), both) * whole, one.sum()),
        other * divide(divide(abs(other.sum()), both) * whole, other.sum()),
    )


def by_product(relevance, a, b):
    """Of the sums over r of a[i, r] b[r, j]: each term takes its share, and leaves half of it with either factor."""
    share = divide(relevance, a @ b)
    to_a, to_b = np.zeros_like(a), np.zeros_like(b)
    for i in range(len(a)):
        for r in range(a.shape[1]):
            for j in range(b.shape[1]):
                term = a[i, r] * b[r, j] * share[i, j]
                to_a[i, r] += term / 2
                to_b[r, j] += term / 2
    return to_a, to_b


def by_copies(x, one, other):
    return x * (divide(one, x) + divide(other, x))


def by_block(own, relevance):
    skipped, added = by_sum(relevance, own["middle"], own["mlp"])
    added = by_linear(by_linear(added, own["fc2"]), own["fc1"])
    relevance = by_copies(own["middle"], skipped, added)
    skipped, added = by_sum(relevance, own["x"], own["attended"])
    heads, tokens, size = own["v"].shape
    added = by_linear(added, own["proj"]).reshape(tokens, heads, size)
    weights, parts = np.zeros_like(own["attention"]), np.zeros((tokens, 3, heads, size))
    for h in range(heads):
        weights[h], parts[:, 2, h] = by_product(added[:, h], own["attention"][h], own["v"][h])
        parts[:, 0, h], keys = by_product(weights[h], own["q"][h], own["k"][h].T)
        parts[:, 1, h] = keys.T
    return by_copies(own["x"], skipped, by_linear(parts.reshape(tokens, -1), own["qkv"])), weights


def by_head(one, target):
    chosen = np.zeros(len(one.head.y))
    chosen[target] = 1.0
    pooled = by_linear(chosen, one.head)
    y = slow.value_of(one.norm, one.tokens[-1])
    out, prefix = np.zeros_like(y), one.model.num_prefix_tokens
    share = divide(pooled, one.pooled)
    if one.model.global_pool == "token":
        out[0] = y[0] * share
    else:
        for t in range(prefix, len(y)):
            out[t] = y[t] / (len(y) - prefix) * share
    return out


def attention_gradients(model, image, target):
    """The gradients of the logit with respect to each block's attention, by torch."""
    model, kept = copy.deepcopy(model).double().eval(), []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logit = model(image[None].double())[0, target]
    return [gradient[0].numpy() for gradient in torch.autograd.grad(logit, kept)]


@pytest.fixture(scope="module")
def attention_maps(model, images):
    """Per image its trace, and per block the mean over heads of max(relevance x gradient, 0)."""
    found = []
    for image, target in zip(images[:2], TARGET.tolist(), strict=False):
        one = slow.trace(model, image)
        relevance, maps = by_head(one, target), []
        for own, gradient in zip(
            reversed(one.blocks), reversed(attention_gradients(model, image, target)), strict=True
        ):
            relevance, weights = by_block(own, relevance)
            maps.insert(0, np.maximum(weights * gradient, 0).mean(0))
        found.append((one, maps))
    return found


def expected(attention_maps, start=0, gates=None):
    """The row that the head reads of the product of I + C_l; gates multiply the patch columns of C_l."""
    rows = []
    for index, (one, maps) in enumerate(attention_maps):
        prefix, joint = one.model.num_prefix_tokens, np.eye(len(maps[0]))
        for layer in range(start, len(maps)):
            cam = maps[layer].copy()
            if gates and layer in gates:
                cam[:, prefix:] *= gates[layer][index].double().numpy()
            joint = (np.eye(len(cam)) + cam) @ joint
        row = joint[0] if one.model.global_pool == "token" else joint[prefix:].mean(0)
        rows.append(row[prefix:])
    return rows


def test_against_the_rules(model, images, attention_maps):
    precise, images, target = copy.deepcopy(model).double(), images[:2], TARGET[:2]
    for start in (0, 2):
        wanted = expected(attention_maps, start)
        exact = slow.largest(chefer_lrp(precise, images.double(), target, {}, start_layer=start), wanted)
        rounded = slow.largest(chefer_lrp(model, images, target, {}, start_layer=start), wanted)
        print(f"from block {start}: float64 {exact:.1e}, float32 {rounded:.1e}")
        assert exact < 1e-6
        # Sums and products are divided by values near zero, which enlarges the rounding of float32.
        assert rounded < 2e-2


def test_gates_multiply_the_columns_of_the_patches(model, images, attention_maps):
    precise, images, target = copy.deepcopy(model).double(), images[:2].double(), TARGET[:2]
    plain = chefer_lrp(precise, images, target, {})
    gates = {
        layer: 0.5 + torch.rand(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(layer))
        for layer in (0, 1, 2)
    }
    assert torch.equal(chefer_lrp(precise, images, target, {0: torch.ones_like(plain)}), plain)
    assert slow.largest(chefer_lrp(precise, images, target, gates), expected(attention_maps, 0, gates)) < 1e-6
    late = {2: gates[2]}
    measured = chefer_lrp(precise, images, target, late, start_layer=1)
    assert slow.largest(measured, expected(attention_maps, 1, late)) < 1e-6
    assert slow.largest(plain, expected(attention_maps, 0, gates)) > 1e-3


def test_relevance_is_the_whole_at_every_block(attention_maps):
    """Sums and copies lose nothing, so each block's relevance is that of the logit, 1, up to what biases take."""
    for one, _ in attention_maps:
        relevance = by_head(one, 1)
        for own in reversed(one.blocks):
            assert relevance.sum() == pytest.approx(1, rel=1e-3)
            relevance, _ = by_block(own, relevance)


def test_a_batch_gives_what_one_image_gives(model, images):
    model, images = copy.deepcopy(model).double(), images.double()
    together = chefer_lrp(model, images, TARGET, {})
    for index in range(len(images)):
        one = slice(index, index + 1)
        assert slow.largest(chefer_lrp(model, images[one], TARGET[one], {}), together[one]) < 1e-6


def test_a_zero_shot_head(plain, pictures):
    """The rule for positive contributions does not see the length, so two linear rules follow each other."""
    model = copy.deepcopy(plain).double()
    model.head = ZeroShotHead(24, 7, 5, 10.0).double()
    linear = copy.deepcopy(model)
    first, second = nn.Linear(24, 7, bias=False).double(), nn.Linear(7, 5, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(model.head.projection.weight)
        second.weight.copy_(model.head.text)
    image = pictures[:1].double()
    linear.head = nn.Linear(24, 5).double()  # keeps the trace's head, which is replaced below
    one = slow.trace(linear, image[0])
    one.head = slow.run_linear(first, one.head.x)
    image_side = by_linear(np.eye(5)[3], slow.run_linear(second, one.head.y))
    relevance, gradients = np.zeros_like(one.tokens[-1]), attention_gradients(model, image[0], 3)
    relevance[0] = by_linear(image_side, one.head)
    maps = []
    for own, gradient in zip(reversed(one.blocks), reversed(gradients), strict=True):
        relevance, weights = by_block(own, relevance)
        maps.insert(0, np.maximum(weights * gradient, 0).mean(0))
    measured = chefer_lrp(model, image, torch.tensor([3]), {})
    assert slow.largest(measured, expected([(one, maps)])) < 1e-6


def test_the_state_outside_does_not_matter(plain, pictures):
    wanted = chefer_lrp(plain, pictures, TARGET, {})
    with torch.no_grad():
        assert torch.equal(chefer_lrp(plain, pictures, TARGET, {}), wanted)
    with torch.inference_mode():
        assert torch.equal(chefer_lrp(plain, pictures.clone(), TARGET, {}), wanted)
    with at_rest(plain):  # MLPs are joined already
        assert slow.largest(chefer_lrp(plain, pictures, TARGET, {}), wanted) < 1e-2
        assert "forward" in vars(plain.blocks[0].mlp)


def test_the_model_is_left_as_it_came(plain, pictures):
    for start in (0, 2):
        slow.check_left_as_it_came(plain, lambda model, s=start: chefer_lrp(model, pictures, TARGET, {}, start_layer=s))


def test_it_is_not_transmm(plain, pictures):
    """The relevance of the attention stands where TransMM has the attention itself."""
    found = capture(plain, pictures, TARGET, cams=True).cams[-1]
    measured = chefer_lrp(plain, pictures, TARGET, {}, start_layer=3)
    assert slow.largest(measured, found[:, 0, 1:]) > 0.01


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"block_fn": ResPostBlock}, "blocks of type ResPostBlock"),
        ({"block_fn": ParallelScalingBlock}, "blocks of type ParallelScalingBlock"),
        ({"class_token": False, "global_pool": "map"}, "pools by attention"),
        ({"norm_layer": GroupNorm1}, "norms of type GroupNorm1"),
        ({"mlp_layer": SwiGLU, "act_layer": nn.SiLU}, "MLPs of type SwiGLU"),
        ({"num_classes": 0}, "a head of type Identity"),
    ],
)
def test_models_without_rules_are_refused(changes, names, make_model, pictures):
    with pytest.raises(FggError, match=rf"chefer_lrp is not defined for .*{names}"):
        chefer_lrp(make_model(**changes), pictures, TARGET, {})


def test_layers_that_do_not_fit_are_refused(plain, pictures):
    with pytest.raises(FggError, match="layer 4 is beyond the model's depth 4"):
        chefer_lrp(plain, pictures, TARGET, {}, start_layer=4)
    with pytest.raises(FggError, match="the gate at layer 1 lies before start_layer 2"):
        chefer_lrp(plain, pictures, TARGET, {1: torch.ones(4, 16)}, start_layer=2)
