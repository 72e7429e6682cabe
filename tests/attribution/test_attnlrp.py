"""AttnLRP against its rules, against lxt and zennit, and against conservation."""

import copy
import functools
import types

import pytest
import slow_relevance as slow
import torch
from timm.layers import SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

from fgg.attribution import backward_rules
from fgg.attribution.attnlrp import attnlrp, relevance_rules
from fgg.attribution.gradients import gradient, rest_of, tokens_after
from fgg.errors import FggError
from fgg.models.capture import at_rest

TARGET = torch.tensor([1, 3, 0, 3])
GAMMAS = {"gamma": 0.25, "gamma_projection": 0.6}


@pytest.fixture(scope="module")
def traces(model, images):
    return [slow.trace(model, image) for image in images]


@pytest.mark.parametrize("options", [{}, GAMMAS, {"gamma": 0.05}, {"gamma_projection": 100.0}], ids=str)
def test_at_pixels_and_tokens(options, model, images, traces):
    rules = slow.Rules(taylor=True, **options)
    pairs = list(zip(traces, TARGET.tolist(), strict=True))[:2]
    precise, images, target = copy.deepcopy(model).double(), images[:2], TARGET[:2]
    expected = [slow.at_pixels(one, k, rules) for one, k in pairs]
    differences = [
        slow.largest(attnlrp(precise, images.double(), target, {}, **options), expected),
        slow.largest(attnlrp(model, images, target, {}, **options), expected),
    ]
    if "gamma_projection" not in options or "gamma" in options:
        expected = [slow.at_tokens(one, k, rules, 1) for one, k in pairs]
        differences += [
            slow.largest(attnlrp(precise, images.double(), target, {}, layers=[1], **options), expected),
            slow.largest(attnlrp(model, images, target, {}, layers=[1], **options), expected),
        ]
    print("pixels, tokens", options, [f"{value:.1e}" for value in differences])
    assert max(differences[::2]) < 1e-9
    # A gamma rule jumps where an output changes its sign, which enlarges the rounding of float32.
    assert max(differences[1::2]) < (1e-3 if options else 1e-4)


@pytest.mark.parametrize("mlp", [SwiGLU, SwiGLUPacked])
def test_gated_mlps(mlp, make_model, make_images):
    model = make_model(mlp_layer=mlp, act_layer=nn.SiLU, depth=2).double()
    images, target = make_images(model, 2).double(), torch.tensor([2, 4])
    found = [slow.trace(model, image) for image in images]
    for options in ({}, GAMMAS):
        rules = slow.Rules(taylor=True, **options)
        expected = [slow.at_pixels(one, int(k), rules) for one, k in zip(found, target, strict=True)]
        assert slow.largest(attnlrp(model, images, target, {}, **options), expected) < 1e-9


def without_biases(model):
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_what_is_lost_is_what_the_softmax_keeps(gamma, model, images):
    """Without biases, relevance of all tokens and what the softmax of later blocks keeps are the logit, at each layer.

    The relevance that a softmax keeps is that of its outputs less that of its inputs.
    """
    free = without_biases(model)
    for image, target in zip(images[:2], TARGET, strict=False):
        one = slow.trace(free, image)
        logit = one.head.y[target]
        rules, kept = slow.Rules(taylor=True, gamma=gamma), [[] for _ in one.blocks]
        g = slow.back_head(one, int(target), rules)
        for layer in reversed(range(len(one.blocks))):
            with at_rest(free), relevance_rules(free, gamma):
                x = tokens_after(free, image[None].double(), [layer])[layer]
                measured = (x * gradient(rest_of(free, layer), x, target[None])).sum().item()
            assert measured + sum(map(sum, kept)) == pytest.approx(logit, rel=1e-8)
            g = slow.back_block(one.blocks[layer], g, rules, kept[layer])
        assert abs(sum(map(sum, kept))) > 1e-3 * abs(logit), "the softmax keeps nothing, which proves nothing"


def test_without_softmax_all_relevance_reaches_the_tokens(model, images):
    """With constant attention in place of the softmax, the other rules hand on the logit exactly."""
    free, images = without_biases(model), images.double()
    logits = free(images).gather(1, TARGET[:, None])[:, 0].detach()
    for layer in range(len(free.blocks)):
        with (
            at_rest(free),
            backward_rules.constant_norms(free),
            backward_rules.linear_activations(free),
            backward_rules.constant_attention(free),
            backward_rules.gamma_rule(free, 0.4, 0.0),
        ):
            x = tokens_after(free, images, [layer])[layer]
            total = (x * gradient(rest_of(free, layer), x, TARGET)).sum((1, 2))
        torch.testing.assert_close(total, logits, rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------- against lxt and zennit


def by_lxt(model):
    """A copy of a timm model whose modules run lxt's rules."""
    slow.import_lxt()
    from lxt.efficient import patches
    from lxt.efficient.rules import identity_rule_implicit

    def attend(_module, q, k, v):
        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v

    def attention(self, x, **_masks):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        mixed = patches.wrap_attention_forward(attend)(self, self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = types.MethodType(patches.layer_norm_forward, module)
    for block in model.blocks:
        block.attn.forward = types.MethodType(attention, block.attn)
        block.mlp.act.forward = functools.partial(identity_rule_implicit, block.mlp.act.forward)
    return model.requires_grad_(False)


def summed(model, relevance):
    height, width = model.patch_embed.patch_size
    return relevance.sum(1).unflatten(2, (-1, width)).unflatten(1, (-1, height)).sum((2, 4)).flatten(1)


def test_against_lxt(model, images):
    model, images = copy.deepcopy(model).double(), images.double()
    inputs = images.clone().requires_grad_()
    logits = by_lxt(model)(inputs)
    torch.testing.assert_close(logits, model(images))
    logits.gather(1, TARGET[:, None]).sum().backward()
    difference = slow.largest(attnlrp(model, images, TARGET, {}), summed(model, (inputs * inputs.grad).detach()))
    print(f"lxt: {difference:.1e}")
    assert difference < 1e-6


def test_gammas_against_lxt_with_zennit(model, images, monkeypatch):
    """Lxt changes a class of zennit so that its rules give gradients; monkeypatch restores it."""
    rules, composites = pytest.importorskip("zennit.rules"), pytest.importorskip("zennit.composites")
    core = pytest.importorskip("zennit.core")
    model, images = copy.deepcopy(model).double(), images.double()
    other = by_lxt(model)
    for name in ("forward", "backward"):
        monkeypatch.setattr(core.BasicHook, name, getattr(core.BasicHook, name))
    slow.import_lxt().monkey_patch_zennit()
    kinds = [
        (nn.Conv2d, rules.Gamma(GAMMAS["gamma_projection"], stabilizer=1e-12)),
        (nn.Linear, rules.Gamma(GAMMAS["gamma"], stabilizer=1e-12)),
    ]
    inputs = images.clone().requires_grad_()
    with composites.LayerMapComposite(kinds).context(other) as hooked:
        hooked(inputs).gather(1, TARGET[:, None]).sum().backward()
    measured = attnlrp(model, images, TARGET, {}, **GAMMAS)
    difference = slow.largest(measured, summed(model, (inputs * inputs.grad).detach()))
    print(f"lxt with zennit's gamma: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("gamma", [0.1, 0.25, 100.0])
@pytest.mark.parametrize("kind", ["linear", "projection"])
def test_the_gamma_rule_against_zennit(kind, gamma, plain):
    """Relevance of one layer; inputs, weights, biases and outputs have both signs."""
    rules = pytest.importorskip("zennit.rules")
    model, draw = copy.deepcopy(plain).double(), torch.Generator().manual_seed(8)
    layer = model.patch_embed.proj if kind == "projection" else model.blocks[0].mlp.fc1
    shape = (3, 3, 32, 32) if kind == "projection" else (3, 7, 24)
    x = torch.randn(shape, generator=draw, dtype=torch.float64)
    z = layer(x).detach()
    relevance = torch.randn(z.shape, generator=draw, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with backward_rules.gamma_rule(model, gamma, gamma):
        assert torch.equal(layer(ours), z)
        layer(ours).backward(relevance / z)
    handle = rules.Gamma(gamma, stabilizer=1e-14).register(layer)
    layer(theirs).backward(relevance)
    handle.remove()
    difference = ((ours * ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max()).item()
    print(f"zennit: {difference:.1e}")
    assert difference < 1e-9


# ---------------------------------------------------------------- batches, gates, state, refusals


@pytest.mark.parametrize("options", [{}, {"layers": [0, 2]}, {**GAMMAS}], ids=str)
def test_a_batch_gives_what_one_image_gives(options, model, images):
    model, images = copy.deepcopy(model).double(), images.double()
    together = attnlrp(model, images, TARGET, {}, **options)
    for index in range(len(images)):
        one = slice(index, index + 1)
        assert slow.largest(attnlrp(model, images[one], TARGET[one], {}, **options), together[one]) < 1e-9


def test_gates_multiply_at_their_layer(model, images):
    first, second = (attnlrp(model, images, TARGET, {}, layers=[layer]) for layer in (0, 2))
    gates = {2: 0.5 + torch.rand(second.shape, generator=torch.Generator().manual_seed(4))}
    ones = {layer: torch.ones_like(first) for layer in (0, 2)}
    both = attnlrp(model, images, TARGET, {}, layers=[0, 2])
    assert torch.equal(attnlrp(model, images, TARGET, ones, layers=[0, 2]), both)
    torch.testing.assert_close(both, first + second)
    torch.testing.assert_close(attnlrp(model, images, TARGET, gates, layers=[0, 2]), first + second * gates[2])


def test_the_state_outside_does_not_matter(plain, pictures):
    wanted = attnlrp(plain, pictures, TARGET, {}, **GAMMAS)
    with torch.no_grad():
        assert torch.equal(attnlrp(plain, pictures, TARGET, {}, **GAMMAS), wanted)
    with torch.inference_mode():
        assert torch.equal(attnlrp(plain, pictures.clone(), TARGET, {}, **GAMMAS), wanted)
    with at_rest(plain):  # MLPs are joined already
        assert slow.largest(attnlrp(plain, pictures, TARGET, {}, **GAMMAS), wanted) < 1e-3
        assert "forward" in vars(plain.blocks[0].mlp)


def test_the_model_is_left_as_it_came(plain, pictures):
    for options in ({}, GAMMAS, {"layers": [1], **GAMMAS}):
        slow.check_left_as_it_came(plain, lambda model, o=options: attnlrp(model, pictures, TARGET, {}, **o))


@pytest.mark.parametrize("name", ["gamma", "gamma_projection"])
def test_a_negative_gamma_is_refused(name, plain, pictures):
    with pytest.raises(FggError, match=rf"attnlrp: {name} is -0.1; it must be 0 or more"):
        attnlrp(plain, pictures, TARGET, {}, **{name: -0.1})


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"block_fn": ResPostBlock}, "blocks of type ResPostBlock"),
        ({"block_fn": ParallelScalingBlock}, "blocks of type ParallelScalingBlock"),
        ({"class_token": False, "global_pool": "map"}, "pools by attention"),
        ({"act_layer": nn.Sigmoid}, "activations of type Sigmoid"),
    ],
)
def test_models_without_rules_are_refused(changes, names, make_model, pictures):
    with pytest.raises(FggError, match=rf"attnlrp is not defined for .*{names}.*leave it out"):
        attnlrp(make_model(**changes), pictures, TARGET, {})


def test_a_layer_beyond_the_depth_is_refused(plain, pictures):
    with pytest.raises(FggError, match="layer 4 is beyond the model's depth 4"):
        attnlrp(plain, pictures, TARGET, {}, layers=[4])
