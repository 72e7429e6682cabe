"""The numbers of ``fgg explain`` against slow computations: a loop over patches, features or draws each."""

import json
import math

import numpy as np
import pytest
import tiny_dataset
import torch

import fgg
from fgg.explain.gate_effect import at_patch, gate_effect, shares, strongest
from fgg.explain.removal import LEAST_DROP, Removal, patches_of
from fgg.pipeline.metric_rules import metric_rules
from fgg.randomness import content_id, generator

PATCHES, FEATURES, SIDE = 16, 40, 8


@pytest.fixture
def record(explain, tiny):
    """A function: arguments -> the record of the third image, and what was said on standard error."""

    def call(*arguments):
        status, out, err = explain(tiny.split.image_ids[2], "--no-picture", *arguments, "--json")
        assert status == 0
        return json.loads(out)["images"][0], err

    return call


def terms_by_loops(tiny, layer, wanted):
    """f_k h_k of every patch and feature, with a gradient of autograd's own: (N, F) activations, gradients, terms."""
    model, sae = tiny.model, tiny.saes[layer]
    tokens = model._pos_embed(model.patch_embed(tiny.image))
    for block in model.blocks[: layer + 1]:
        tokens = block(tokens)
    tokens = tokens.detach().requires_grad_()
    after = tokens
    for block in model.blocks[layer + 1 :]:
        after = block(after)
    model.forward_head(model.norm(after))[0, wanted].backward()
    at, slope = tokens.detach()[0, 1:], tokens.grad[0, 1:]
    codes, gradients, terms = np.zeros((3, PATCHES, FEATURES))
    for patch in range(PATCHES):
        encoded = sae.encode(at[patch])
        for feature in range(FEATURES):
            codes[patch, feature] = encoded[feature]
            gradients[patch, feature] = sae.W_dec[feature] @ slope[patch]
            terms[patch, feature] = codes[patch, feature] * gradients[patch, feature]
    return codes, gradients, terms


def probability_without(tiny, patches, target, fill=None):
    """The probability with the pixels of patches at the image's mean, or with their tokens left out."""
    model, image = tiny.model, tiny.image.clone()
    if fill == "removal":
        tokens = model._pos_embed(model.patch_embed(image))
        tokens = tokens[:, [0, *(1 + patch for patch in range(PATCHES) if patch not in patches)]]
        for block in model.blocks:
            tokens = block(tokens)
        logits = model.forward_head(model.norm(tokens))
    else:
        mean = tiny.image.mean()
        for patch in patches:
            row, column = SIDE * (patch // 4), SIDE * (patch % 4)
            image[:, :, row : row + SIDE, column : column + SIDE] = mean
        logits = model(image)
    return float(logits[0].detach().double().softmax(-1)[target])


def top(relevance, count):
    return sorted(range(PATCHES), key=lambda patch: (-float(relevance[patch]), patch))[:count]


def test_features_by_loops(record, tiny):
    found, _ = record("--class", "disc")
    wanted, expected = tiny_dataset.CLASSES.index("disc"), []
    assert found["explained"] == "disc"
    for layer in (0, 1):
        terms = terms_by_loops(tiny, layer, wanted)[2]
        sizes = sum(abs(terms[patch, feature]) for patch in range(PATCHES) for feature in range(FEATURES))
        for feature in range(FEATURES):
            total = sum(terms[:, feature])
            share = sum(abs(terms[patch, feature]) for patch in range(PATCHES)) / sizes
            patch = max(range(PATCHES), key=lambda patch: terms[patch, feature] * np.sign(total))
            expected.append((abs(total), layer, feature, total, share, patch))
    expected = sorted(expected, reverse=True)[:6]
    own = found["features"]
    assert [(each["layer"], each["feature"], each["patch"]) for each in own] == [
        (each[1], each[2], each[5]) for each in expected
    ]
    assert [each["contribution"] for each in own] == pytest.approx([each[3] for each in expected], rel=1e-4)
    assert [each["share"] for each in own] == pytest.approx([each[4] for each in expected], rel=1e-4)
    assert [each["effect"] for each in own] == ["BOOST" if each[3] > 0 else "SUPPRESS" for each in expected]
    assert {each["effect"] for each in own} == {"BOOST", "SUPPRESS"}, "otherwise the directions are not tested"


def test_what_the_gate_did_by_loops(record, tiny):
    found, _ = record()
    before, after = (each.relevance[0].tolist() for each in (tiny.plain, tiny.gated))
    totals = [sum(abs(value) for value in values) for values in (before, after)]
    change = [after[patch] / totals[1] - before[patch] / totals[0] for patch in range(PATCHES)]
    gate = found["gate"]
    assert gate["moved"] == pytest.approx(sum(value for value in change if value > 0), rel=1e-4)
    assert gate["moved"] == pytest.approx(-sum(value for value in change if value < 0), rel=1e-4)
    assert gate["top"] == 2 and gate["kept"] == len(set(top(before, 2)) & set(top(after, 2)))
    by_change = sorted(range(PATCHES), key=lambda patch: change[patch])
    assert [each["patch"] for each in gate["lost"]] == by_change[:3]
    assert [each["patch"] for each in gate["gained"]] == by_change[:-4:-1]
    terms = {layer: terms_by_loops(tiny, layer, int(tiny.plain.predicted))[2] for layer in (0, 1)}
    for each in gate["gained"] + gate["lost"]:
        patch = each["patch"]
        assert (each["row"], each["column"]) == divmod(patch, 4)
        assert each["before"] == pytest.approx(before[patch] / totals[0], rel=1e-4)
        assert each["after"] == pytest.approx(after[patch] / totals[1], rel=1e-4)
        for layer in (0, 1):
            assert each["gates"][str(layer)] == pytest.approx(float(tiny.gated.gates[layer][0, patch]), rel=1e-5)
            own = terms[layer][patch]
            largest = sorted(range(FEATURES), key=lambda feature: -abs(own[feature]))[:2]
            named = each["features"][str(layer)]
            assert [one["feature"] for one in named] == largest
            expected = [own[feature] / sum(abs(value) for value in own) for feature in largest]
            assert [one["share"] for one in named] == pytest.approx(expected, rel=1e-3)
    for layer, ends in gate["factors"].items():
        own = tiny.gated.gates[int(layer)]
        assert ends == pytest.approx([float(own.min()), float(own.max())])


@pytest.mark.parametrize("fill", ["mean", "removal"])
def test_removal_by_loops(fill, record, tiny):
    """Every probability with one forward pass of its own."""
    found, _ = record("--fill", fill, "--remove", 20, "--draws", 5, "--seed", 3, "--method", "gated,rollout")
    (own,) = found["removal"]
    target, count = int(tiny.plain.predicted), 3
    assert (own["patches"], own["of"], own["fill"]) == (count, PATCHES, fill)
    assert own["clean"] == pytest.approx(probability_without(tiny, [], target), abs=1e-5)
    assert own["all_removed"] == pytest.approx(probability_without(tiny, range(PATCHES), target, fill), abs=1e-5)
    assert own["measurable"] == (own["clean"] - own["all_removed"] >= 0.05)
    name = content_id(tiny.image.numpy())
    drawn = [generator(3, "explain", name, draw).permutation(PATCHES)[:count].tolist() for draw in range(5)]
    expected = [probability_without(tiny, patches, target, fill) for patches in drawn]
    assert own["random"] == pytest.approx(expected, abs=1e-5)
    assert len({tuple(sorted(patches)) for patches in drawn}) > 1
    maps = {"transmm": tiny.plain, "gated": tiny.gated, "rollout": fgg.attribute(tiny.model, tiny.image, "rollout")}
    assert list(own["maps"]) == list(maps)
    for name, each in maps.items():
        left = probability_without(tiny, top(each.relevance[0], count), target, fill)
        assert own["maps"][name]["probability"] == pytest.approx(left, abs=1e-5)
        assert own["maps"][name]["random_draws_above"] == sum(left < value for value in expected)
        curve = fgg.pixel_flipping(tiny.model, tiny.image, each.relevance, patches_per_step=count, fill=fill).curve
        assert own["maps"][name]["probability"] == pytest.approx(float(curve[0, 1]), abs=1e-6)


def test_a_map_that_is_asked_alone_is_the_same(record):
    together, _ = record("--method", "rollout,gated", "--method", "gradcam")
    assert list(together["maps"]) == ["rollout", "transmm", "gated", "gradcam"], "in the order given"
    alone, _ = record("--method", "gradcam")
    assert alone["maps"]["gradcam"] == together["maps"]["gradcam"] and "gate" not in alone
    assert alone["removal"][0]["maps"]["gradcam"] == together["removal"][0]["maps"]["gradcam"]


def test_the_strongest_patch_of_every_map(record, tiny):
    found, _ = record()
    for name, each in (("transmm", tiny.plain), ("gated", tiny.gated)):
        values = each.relevance[0].tolist()
        best = top(values, 1)[0]
        assert found["maps"][name]["strongest"]["patch"] == best
        assert found["maps"][name]["strongest"]["share"] == pytest.approx(values[best] / sum(values), rel=1e-5)
        assert found["maps"][name]["total"] == pytest.approx(sum(values), rel=1e-5)


def test_where_nothing_can_be_measured(explain, tmp_path):
    """A picture of one colour has no detail that a blur could take away."""
    from PIL import Image

    Image.new("RGB", (40, 48), "teal").save(tmp_path / "plain.png")
    _, out, _ = explain("plain.png", "--no-picture", "--fill", "blur")
    assert "nothing can be measured: the probability of" in out and "random patches" not in out
    assert "fall by at least 5 points" in out
    _, out, _ = explain("plain.png", "--no-picture", "--remove", 0)
    assert "removal" not in out and "of the 2 most relevant patches" in out


@pytest.mark.parametrize(
    ("filled", "measurable"), [(0.25, True), (0.75 - LEAST_DROP - 1e-9, True), (0.71, False), (math.nan, False)]
)
def test_measurable(filled, measurable):
    removal = Removal("mean", 1, 4, 0.75, filled, {"a": 0.5, "b": math.nan}, [0.6, 0.5, 0.4, math.nan])
    assert removal.measurable is measurable
    assert (removal.below("a"), removal.below("b")) == (1, 0), "neither a tie nor NaN is lower"


def test_the_least_drop_is_that_of_the_workflow():
    assert metric_rules()["properties"]["measurable"]["properties"]["least_drop"]["default"] == LEAST_DROP


def test_shares_and_counts():
    assert shares(np.array([1.0, -3.0])).tolist() == [0.25, -0.75]
    assert shares(np.zeros(3)).tolist() == [0, 0, 0]
    assert [patches_of(percent, 196) for percent in (0.1, 10, 100)] == [1, 20, 196]
    assert at_patch(np.zeros(4)) == [] and strongest([], 3) == []


def test_a_gate_that_does_nothing():
    relevance = np.array([0.1, 0.4, 0.2, 0.3])
    effect = gate_effect(relevance, 8 * relevance, {1: np.ones(4)}, [], 2)
    assert (effect.kept, effect.gained, effect.lost, effect.factors) == (2, [], [], {1: (1.0, 1.0)})
    assert effect.moved == 0


def test_the_contributions_are_the_score(tiny):
    from fgg.explain.gate_effect import feature_terms

    for construction in ("combined", "activation_only", "gradient_only"):
        gate = fgg.Gate((0, 1), construction)
        out = fgg.attribute(tiny.model, tiny.image, gate=gate, saes=tiny.saes)
        for own in feature_terms(tiny.model, tiny.image, gate, tiny.saes, int(out.predicted)):
            codes, gradients, _ = terms_by_loops(tiny, own.layer, int(out.predicted))
            assert torch.tensor(own.terms.sum(1)).float() == pytest.approx(out.scores[own.layer][0], rel=1e-3, abs=1e-5)
            assert own.activations == pytest.approx(codes, rel=1e-3, abs=1e-5)
            assert own.gradients == pytest.approx(gradients, rel=1e-3, abs=1e-5)
