"""LibraGrad and Libra FullGrad+ against their definitions, against lxt, and against conservation."""

import copy
import functools

import numpy as np
import pytest
import slow_relevance as slow
import torch
from timm.layers import GluMlp, GroupNorm1, RmsNorm, SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock
from torch import nn

from fgg.attribution import backward_rules
from fgg.attribution.gradients import gradient, rest_of, tokens_after
from fgg.attribution.libragrad import balanced, libragrad
from fgg.attribution.libragrad_fullgrad_plus import libragrad_fullgrad_plus
from fgg.errors import FggError
from fgg.models.capture import at_rest
from fgg.models.zero_shot import ZeroShotHead

RULES = slow.Rules(taylor=False)
TARGET = torch.tensor([1, 3, 0, 3])
# Parts that no model of the zoo has.
PARTS = {
    "swiglu": {"mlp_layer": SwiGLU, "act_layer": nn.SiLU, "depth": 2},
    "packed-swiglu": {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "depth": 2},
    "gate-last": {"mlp_layer": functools.partial(GluMlp, gate_last=True), "act_layer": nn.SiLU, "depth": 2},
    "rms-norm": {"norm_layer": functools.partial(RmsNorm, eps=1e-6), "qk_norm": True, "depth": 2},
}


@pytest.fixture(scope="module")
def traces(model, images):
    return [slow.trace(model, image) for image in images]


def pixels(traces):
    return [slow.at_pixels(one, int(k), RULES) for one, k in zip(traces, TARGET, strict=True)]


def tokens(traces, layer):
    return [slow.at_tokens(one, int(k), RULES, layer) for one, k in zip(traces, TARGET, strict=True)]


def full(one, target):
    """FullGrad+ by its sums: inputs of all blocks, and biases at each token."""
    biases = []
    found = slow.gradients(one, target, RULES, biases=biases)
    depth = len(one.blocks)
    total = sum((one.tokens[layer] * found[layer]).sum(-1) for layer in range(depth)) + sum(biases)
    return total[one.model.num_prefix_tokens :]


def show(what, **differences):
    print(what, {name: f"{value:.1e}" for name, value in differences.items()})
    assert differences["float64"] < 1e-9
    assert differences["float32"] < 1e-4


def test_at_pixels_and_tokens(model, images, traces):
    precise = copy.deepcopy(model).double()
    show(
        "pixels",
        float64=slow.largest(libragrad(precise, images.double(), TARGET, {}), pixels(traces)),
        float32=slow.largest(libragrad(model, images, TARGET, {}), pixels(traces)),
    )
    show(
        "tokens",
        float64=slow.largest(libragrad(precise, images.double(), TARGET, {}, layers=[1]), tokens(traces, 1)),
        float32=slow.largest(libragrad(model, images, TARGET, {}, layers=[1]), tokens(traces, 1)),
    )


def test_fullgrad_plus(model, images, traces):
    expected = [full(one, int(k)) for one, k in zip(traces, TARGET, strict=True)]
    precise = copy.deepcopy(model).double()
    show(
        "FullGrad+",
        float64=slow.largest(libragrad_fullgrad_plus(precise, images.double(), TARGET), expected),
        float32=slow.largest(libragrad_fullgrad_plus(model, images, TARGET), expected),
    )


@pytest.mark.parametrize("part", PARTS)
def test_parts_that_the_zoo_lacks(part, make_model, make_images):
    model = make_model(**PARTS[part]).double()
    images, target = make_images(model, 2).double(), torch.tensor([2, 4])
    found = [slow.trace(model, image) for image in images]
    expected = [slow.at_pixels(one, int(k), RULES) for one, k in zip(found, target, strict=True)]
    assert slow.largest(libragrad(model, images, target, {}), expected) < 1e-9
    if part != "rms-norm":  # whose last norm has no bias to sum
        expected = [full(one, int(k)) for one, k in zip(found, target, strict=True)]
        assert slow.largest(libragrad_fullgrad_plus(model, images, target), expected) < 1e-9


def without_biases(model):
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return model


def everything(model, images, layer):
    """Relevance of all tokens, prefix and position embedding included, after a block."""
    with at_rest(model), balanced(model):
        x = tokens_after(model, images, [layer])[layer]
        return (x * gradient(rest_of(model, layer), x, TARGET)).sum((1, 2))


def test_nothing_is_lost_without_biases(model, images):
    free, images = without_biases(model), images.double()
    logits = free(images).gather(1, TARGET[:, None])[:, 0].detach()
    for layer in range(len(free.blocks)):
        torch.testing.assert_close(everything(free, images, layer), logits, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(everything(copy.deepcopy(model).double(), images, 0), logits, rtol=0.01)


def test_inputs_and_biases_add_up_to_the_logit(traces):
    """The biases that FullGrad+ sums are all there are, but for those behind the pooling."""
    for one, target in zip(traces, TARGET.tolist(), strict=True):
        biases = []
        found = slow.gradients(one, target, RULES, biases=biases)
        total = (one.tokens[0] * found[0]).sum() + sum(each.sum() for each in biases) + one.head.bias[target]
        if one.fc_norm is not None:
            total += (one.head.weight[target] * one.fc_norm.bias).sum()
        assert total == pytest.approx(one.head.y[target], rel=1e-9)


def test_a_zero_shot_head_divides_by_a_constant(plain, pictures):
    model = copy.deepcopy(plain).double()
    model.head = ZeroShotHead(24, 7, 5, 10.0).double()
    for index, image in enumerate(pictures.double()):
        linear = copy.deepcopy(model)
        with torch.no_grad():
            features = model.forward_head(model.forward_features(image[None]), pre_logits=True)
            length = model.head.projection(features).norm()
            linear.head = nn.Linear(24, 5).double()
            linear.head.weight.copy_(10.0 * model.head.text @ model.head.projection.weight / length)
            linear.head.bias.zero_()
        one = (image[None], TARGET[index : index + 1], {})
        assert slow.largest(libragrad(model, *one), libragrad(linear, *one)) < 1e-9
    expected = without_biases(model)(pictures.double()).gather(1, TARGET[:, None])[:, 0].detach()
    torch.testing.assert_close(everything(without_biases(model), pictures.double(), 1), expected)


def test_the_limit_of_an_activation_at_zero(plain):
    x = torch.tensor([-1.0, 0.0, 1e-42, 1e-20, 2.0], requires_grad=True)
    with backward_rules.linear_activations(plain):
        plain.blocks[0].mlp.act(x).sum().backward()
    gate = 0.5 * (1 + torch.erf(x.detach() / 2**0.5))
    torch.testing.assert_close(x.grad, gate)


def test_the_forward_values_are_the_same_bits(model, images):
    model = copy.deepcopy(model)
    for block in model.blocks:
        block.attn.fused_attn = False
    wanted, inputs = model(images), images.clone().requires_grad_()
    rules = [balanced(model), backward_rules.halved_attention(model), backward_rules.gamma_rule(model, 0.5, 0.5)]
    for rule in rules:
        with rule:
            assert torch.equal(model(inputs), wanted)


# ---------------------------------------------------------------- against lxt


def from_torchvision(other, make_model):
    """A timm model with the weights of torchvision's ViT."""
    model = make_model(depth=len(other.encoder.layers), num_classes=other.num_classes)
    names = {"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    pairs = (("conv_proj", "patch_embed.proj"), ("encoder.layers.encoder_layer_", "blocks."), ("ln_1", "norm1"))
    pairs += (("ln_2", "norm2"), ("self_attention.in_proj_", "attn.qkv."), ("self_attention.out_proj", "attn.proj"))
    pairs += (("mlp.0", "mlp.fc1"), ("mlp.3", "mlp.fc2"), ("encoder.ln", "norm"), ("heads.head", "head"))
    weights = {}
    for name, value in other.state_dict().items():
        for old, new in pairs:
            name = name.replace(old, new)
        weights[names.get(name, name)] = value
    model.load_state_dict(weights)
    return model.double()


def test_against_lxt(monkeypatch, make_model, make_images):
    """Lxt's ViT rules stop the gradient of queries and keys, which makes the attention constant."""
    efficient = slow.import_lxt()
    rules = pytest.importorskip("lxt.efficient.models.vit_torch").cp_LRP
    vision_transformer = pytest.importorskip("torchvision.models.vision_transformer")
    other = vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=48, num_classes=5
    )
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    other = other.double().eval()
    model = from_torchvision(other, functools.partial(make_model, mlp_ratio=2.0))
    images = make_images(model).double()
    torch.testing.assert_close(model(images), other(images))
    measured = libragrad(model, images, TARGET, {})

    # lxt changes the classes of torch; monkeypatch restores them.
    for kind in (nn.GELU, nn.LayerNorm, nn.MultiheadAttention):
        monkeypatch.setattr(kind, "forward", kind.forward)
        monkeypatch.setattr(kind, "original_forward", None, raising=False)
    efficient.monkey_patch(vision_transformer, rules)
    inputs = images.clone().requires_grad_()
    other(inputs).gather(1, TARGET[:, None]).sum().backward()
    relevance = (inputs * inputs.grad).detach().sum(1)
    expected = relevance.unflatten(2, (4, 8)).unflatten(1, (4, 8)).sum((2, 4)).flatten(1)
    difference = slow.largest(measured, expected)
    print(f"lxt: {difference:.1e}")
    assert difference < 1e-7


# ---------------------------------------------------------------- batches, gates, state, refusals


@pytest.mark.parametrize("options", [{}, {"layers": [0, 2]}])
def test_a_batch_gives_what_one_image_gives(options, model, images):
    together = libragrad(model, images, TARGET, {}, **options)
    whole = libragrad_fullgrad_plus(model, images, TARGET)
    for index in range(len(images)):
        one = slice(index, index + 1)
        assert slow.largest(libragrad(model, images[one], TARGET[one], {}, **options), together[one]) < 1e-5
        assert slow.largest(libragrad_fullgrad_plus(model, images[one], TARGET[one]), whole[one]) < 1e-5


def test_gates_multiply_at_their_layer(model, images):
    first, second = (libragrad(model, images, TARGET, {}, layers=[layer]) for layer in (0, 2))
    gates = {2: 0.5 + torch.rand(second.shape, generator=torch.Generator().manual_seed(4))}
    ones = {layer: torch.ones_like(first) for layer in (0, 2)}
    both = libragrad(model, images, TARGET, {}, layers=[0, 2])
    assert torch.equal(libragrad(model, images, TARGET, ones, layers=[0, 2]), both)
    torch.testing.assert_close(both, first + second)
    torch.testing.assert_close(libragrad(model, images, TARGET, gates, layers=[0, 2]), first + second * gates[2])


def test_the_state_of_gradients_outside_does_not_matter(plain, pictures):
    for method in (functools.partial(libragrad, gates={}), libragrad_fullgrad_plus):
        wanted = method(plain, pictures, TARGET)
        with torch.no_grad():
            assert torch.equal(method(plain, pictures, TARGET), wanted)
        with torch.inference_mode():
            assert torch.equal(method(plain, pictures.clone(), TARGET), wanted)
        with at_rest(plain):  # MLPs are joined already
            assert slow.largest(method(plain, pictures, TARGET), wanted) < 1e-5
            assert "forward" in vars(plain.blocks[0].mlp)


def test_the_model_is_left_as_it_came(plain, pictures):
    for options in ({}, {"layers": [1]}):
        slow.check_left_as_it_came(plain, lambda model, o=options: libragrad(model, pictures, TARGET, {}, **o))
    slow.check_left_as_it_came(plain, lambda model: libragrad_fullgrad_plus(model, pictures, TARGET))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"block_fn": ResPostBlock}, "blocks of type ResPostBlock"),
        ({"block_fn": ParallelScalingBlock}, "blocks of type ParallelScalingBlock"),
        ({"class_token": False, "global_pool": "map"}, "pools by attention"),
        ({"norm_layer": GroupNorm1}, "norms of type GroupNorm1"),
        ({"act_layer": nn.Sigmoid}, "activations of type Sigmoid"),
        ({"act_layer": functools.partial(nn.SiLU, inplace=True)}, "activations of type SiLU"),
    ],
)
def test_models_without_rules_are_refused(changes, names, make_model, pictures):
    model = make_model(**changes)
    with pytest.raises(FggError, match=rf"libragrad is not defined for .*{names}.*leave it out"):
        libragrad(model, pictures, TARGET, {})
    with pytest.raises(FggError, match=rf"libragrad_fullgrad_plus is not defined for .*{names}.*leave it out"):
        libragrad_fullgrad_plus(model, pictures, TARGET)


def test_a_layer_beyond_the_depth_is_refused(plain, pictures):
    with pytest.raises(FggError, match="layer 4 is beyond the model's depth 4"):
        libragrad(plain, pictures, TARGET, {}, layers=[4])


def test_hybrids_have_tokens_only(plain, pictures):
    model = copy.deepcopy(plain)
    model.patch_embed.__class__ = type("HybridEmbed", (type(plain.patch_embed),), {})
    with pytest.raises(FggError, match="pixels of a HybridEmbed; set its option layers"):
        libragrad(model, pictures, TARGET, {})
    measured = libragrad(model, pictures, TARGET, {}, layers=[1])
    np.testing.assert_array_equal(measured, libragrad(plain, pictures, TARGET, {}, layers=[1]))
