"""Every method, gate and control on every kind of model, against the slow definitions, image by image."""

import definitions as slow
import numpy as np
import pytest
import torch
from zoo import method_options

import fgg
from fgg import gating
from fgg.attribution import controls
from fgg.catalogue import CONSTRUCTIONS
from fgg.models.capture import capture
from fgg.randomness import content_id

GATES = [
    fgg.Gate((0,), "combined"),
    fgg.Gate((1,), "combined", clamp_max=5.0, alpha=0.5),
    fgg.Gate((0, 1), "combined", shuffle_decoder=True, shuffle_seed=7),
    fgg.Gate((0, 1), "activation_only", alpha=2.0),
    fgg.Gate((1, 0), "gradient_only", clamp_max=3.0),
    fgg.Gate((0,), "no_sae"),
]


def name_of(gate):
    return f"{gate.construction}-l{'.'.join(map(str, gate.layers))}" + "-shuffled" * gate.shuffle_decoder


@pytest.fixture(scope="module")
def seen(model, images):
    """The slow look at each image: predicted class, and one that is not predicted."""
    predicted = [slow.look(model, image) for image in images[:2]]
    return predicted + [slow.look(model, image, target=index) for index, image in enumerate(images[2:])]


@pytest.fixture(scope="module")
def target(seen):
    return torch.tensor([one.target for one in seen])


@pytest.fixture(scope="module")
def vanilla(seen):
    return [slow.transmm(one) for one in seen]


def weights_of(sae):
    names = ("W_enc", "W_dec", "b_enc", "b_dec")
    weights = {name: getattr(sae, name).detach().double().numpy() for name in names}
    return weights | {"normalize": sae.cfg.normalize_activations}


def slow_scores(gate, one, saes):
    order = gating.shuffle(40, gate.shuffle_seed).tolist() if gate.shuffle_decoder else None
    return {
        layer: slow.gate_scores(
            gate.construction,
            one.residuals[layer][one.prefix :],
            one.gradients[layer][one.prefix :],
            weights_of(saes[layer]),
            order,
        )
        for layer in gate.layers
    }


def check(measured, expected, tolerance=1e-5, what=""):
    """Within the tolerance of each row's largest value."""
    measured, expected = np.asarray(measured, np.float64), np.asarray(expected, np.float64)
    assert measured.shape == expected.shape
    error = np.abs(measured - expected).max(-1) / np.abs(expected).max(-1)
    assert error.max() < tolerance, f"{what}: {error}"
    assert expected.std(-1).min() > 0, "the definition gives a constant map, which proves nothing"


def test_capture_sees_what_is_there(model, images, seen, target):
    layers = list(range(len(model.blocks)))
    found = capture(model, images, target, cams=True, attention=True, layers=layers)
    for index, one in enumerate(seen):
        np.testing.assert_allclose(found.logits[index], one.logits, atol=2e-5)
        for layer in layers:
            by_hand = slow.attention_by_hand(model.blocks[layer], one.inputs[layer])
            np.testing.assert_allclose(by_hand, one.attention[layer], atol=1e-12)
            np.testing.assert_allclose(found.attention[layer][index], by_hand.mean(0), atol=3e-6)
            cam = slow.cam(one.attention[layer], one.attention_gradient[layer])
            np.testing.assert_allclose(found.cams[layer][index], cam, atol=2e-5 * np.max(cam) + 1e-9)
            np.testing.assert_allclose(found.residuals[layer][index], one.residuals[layer], atol=2e-5)
            largest = np.abs(one.gradients[layer]).max()
            np.testing.assert_allclose(found.gradients[layer][index], one.gradients[layer], atol=1e-5 * largest)


def test_transmm(model, images, target, vanilla):
    out = fgg.attribute(model, images, target=target)
    check(out.relevance, vanilla)
    assert out.target.tolist() == target.tolist()
    assert out.gates == out.scores == {}


def test_rollout(model, images, target, seen):
    check(fgg.attribute(model, images, "rollout", target=target).relevance, [slow.rollout(one) for one in seen])


def test_gradcam(model, images, target, seen):
    expected = np.array([slow.gradcam(one) for one in seen])
    measured = fgg.attribute(model, images, "gradcam", target=target).relevance
    assert (expected > 0).any()
    assert (expected == 0).any(), "no patch is cut off at zero"
    # A whole map may be cut off, so the scale is that of all maps.
    np.testing.assert_allclose(measured, expected, atol=1e-5 * expected.max(), rtol=0)
    assert (measured.numpy() >= 0).all()


def test_tokentm(model, images, target, seen):
    expected = [slow.tokentm(model, one) for one in seen]
    check(fgg.attribute(model, images, "tokentm", target=target).relevance, expected)


def test_random_is_uniform_and_keyed_by_the_image(model, images):
    out = fgg.attribute(model, images, "random", image_ids=list("abcd"), seed=3)
    assert out.relevance.shape == (len(images), model.patch_embed.num_patches)
    for name, row in zip("abcd", out.relevance, strict=True):
        again = fgg.attribute(model, images[:1], "random", image_ids=[name], seed=3).relevance[0]
        assert torch.equal(row, again)
    assert ((out.relevance >= 0) & (out.relevance < 1)).all()
    assert len(out.relevance.unique()) == out.relevance.numel()
    other = fgg.attribute(model, images, "random", image_ids=list("abcd"), seed=4)
    assert not torch.equal(out.relevance, other.relevance)


def test_what_the_model_said(model, images):
    """Whatever is explained, the prediction is the model's, in eval mode."""
    with torch.no_grad():
        logits = model(images)
    for method, options in method_options().items():
        out = fgg.attribute(model, images, method, target=1, **options)
        torch.testing.assert_close(out.logits, logits, atol=1e-5, rtol=0)
        assert out.predicted.tolist() == logits.argmax(-1).tolist()
        assert out.target.tolist() == [1] * len(images)
        torch.testing.assert_close(out.confidence, logits.softmax(-1).amax(-1), atol=1e-6, rtol=0)
        assert out.relevance.dtype == out.confidence.dtype == out.logits.dtype == torch.float32
        assert not out.relevance.requires_grad


def test_the_predicted_class_is_the_default(model, images):
    predicted = fgg.attribute(model, images).predicted
    default, named = fgg.attribute(model, images), fgg.attribute(model, images, target=predicted)
    assert torch.equal(default.relevance, named.relevance)
    other = fgg.attribute(model, images, target=(predicted + 1) % 5)
    assert not torch.allclose(default.relevance, other.relevance, rtol=1e-2)


@pytest.mark.parametrize("gate", GATES, ids=name_of)
def test_gates(gate, model, images, target, seen, saes):
    out = fgg.attribute(model, images, gate=gate, saes=saes, target=target)
    assert sorted(out.gates) == sorted(out.scores) == sorted(gate.layers)
    for index, one in enumerate(seen):
        scores = slow_scores(gate, one, saes)
        gates = {layer: slow.gate(row, gate.clamp_max, gate.alpha) for layer, row in scores.items()}
        for layer in gate.layers:
            check(out.scores[layer][index], scores[layer], 2e-5, "score")
            np.testing.assert_allclose(out.gates[layer][index], gates[layer], rtol=1e-3)
            assert gates[layer].max() > 1.2, "the gate is open nowhere, which proves nothing"
            assert gates[layer].min() < 1 / 1.2
        check(out.relevance[index], slow.transmm(one, gates), 2e-4)


def test_every_construction_is_tried():
    assert {gate.construction for gate in GATES} == set(CONSTRUCTIONS)


def test_permuted_gate(model, images, target, seen, saes):
    """The same gates, carried to other patches by an order keyed by (seed, image, layer)."""
    gate, ids = fgg.Gate((0, 1)), ["w", "x", "y", "z"]
    straight = fgg.attribute(model, images, gate=gate, saes=saes, target=target)
    out = fgg.attribute(
        model, images, gate=gate, saes=saes, target=target, control="permuted_gate", image_ids=ids, seed=5
    )
    for index, (name, one) in enumerate(zip(ids, seen, strict=True)):
        orders = []
        for layer in gate.layers:
            order = controls.permutation([name], straight.gates[layer].shape[1], layer, 5)[0].tolist()
            assert sorted(order) == list(range(len(order)))
            assert order != list(range(len(order)))
            expected = [float(straight.gates[layer][index][patch]) for patch in order]
            assert out.gates[layer][index].tolist() == expected
            orders.append(order)
        assert orders[0] != orders[1]
        gates = {layer: out.gates[layer][index].double().numpy() for layer in gate.layers}
        check(out.relevance[index], slow.transmm(one, gates))
    assert torch.equal(out.scores[0], straight.scores[0])
    assert not torch.allclose(out.relevance, straight.relevance, rtol=0.01)


def test_sharpened(model, images, target, vanilla, seen, saes):
    gate = fgg.Gate((0, 1))
    out = fgg.attribute(model, images, gate=gate, saes=saes, target=target, control="sharpened")
    gated = fgg.attribute(model, images, gate=gate, saes=saes, target=target).relevance
    for index, one in enumerate(seen):
        gates = {layer: slow.gate(row, 10.0, 1.0) for layer, row in slow_scores(gate, one, saes).items()}
        expected = slow.sharpen(vanilla[index], slow.transmm(one, gates))
        row = out.relevance[index].double().numpy()
        np.testing.assert_allclose(row / row.max(), expected, atol=2e-4)
        assert row.max() == pytest.approx(vanilla[index].max(), rel=1e-5)
        assert row.argsort().tolist() == np.argsort(vanilla[index]).tolist()
        assert slow.log_spread(row) == pytest.approx(slow.log_spread(gated[index].tolist()), rel=1e-3)


# ---------------------------------------------------------------- batches, order, keys


def everything(model, images, saes, target=None, **options):
    """Each method, gate and control: name -> attribution."""
    options["target"] = target
    out = {method: fgg.attribute(model, images, method, **options, **own) for method, own in method_options().items()}
    for gate in GATES:
        out[name_of(gate)] = fgg.attribute(model, images, gate=gate, saes=saes, **options)
    for control in ("permuted_gate", "sharpened"):
        out[control] = fgg.attribute(model, images, gate=fgg.Gate((0, 1)), saes=saes, control=control, **options)
    return out


# The first divides by sums that may be near zero; terms of the second one's sums cancel, and may leave little above zero.
TOLERANCES = {"chefer_lrp": 1e-2, "gradcam": 5e-5}


def assert_same(one, other, index):
    """Row i of the first is row index[i] of the second: within 1e-5 of the row's largest value, 1e-4 with a gate.

    The gate divides by a MAD, which may be far below the scores it is made of, and so enlarges their rounding.
    """
    for name in one:
        tolerance = TOLERANCES.get(name, 1e-4 if one[name].gates else 1e-5)
        for field in ("relevance", "logits", "confidence"):
            a, b = getattr(one[name], field), getattr(other[name], field)[index]
            scale = b.abs().amax(-1, keepdim=True) if a.ndim > 1 else 1.0
            assert ((a - b).abs() <= tolerance * scale).all(), (name, field, (a - b).abs().max())
        assert one[name].predicted.tolist() == other[name].predicted[index].tolist()
        assert one[name].target.tolist() == other[name].target[index].tolist()
        for layer, rows in one[name].gates.items():
            torch.testing.assert_close(rows, other[name].gates[layer][index], rtol=1e-4, atol=0)


def test_a_batch_gives_what_one_image_gives(model, images, saes):
    together = everything(model, images, saes)
    for index in range(len(images)):
        assert_same(everything(model, images[index : index + 1], saes), together, [index])


def test_order_and_batch_size_do_not_matter(model, images, saes, target):
    """Also for the keyed controls: their keys come from the images' content, or from their names."""
    order, ids = [2, 0, 3, 1], ["a", "b", "c", "d"]
    shuffled_ids = [ids[i] for i in order]
    together = everything(model, images, saes, target)
    assert_same(everything(model, images[order], saes, target[order]), together, order)
    assert_same(everything(model, images, saes, target, batch_size=3), together, [0, 1, 2, 3])
    named = everything(model, images, saes, target, image_ids=ids)
    moved = everything(model, images[order], saes, target[order], image_ids=shuffled_ids, batch_size=3)
    assert_same(moved, named, order)
    for method in ("random", "permuted_gate"):
        assert not torch.allclose(named[method].relevance, together[method].relevance)


def test_tokentm_alone_is_what_it_is_in_company(model, images, saes):
    from fgg.attribution.attribute import Wanted, attribute_several
    from fgg.attribution.registry import find_method

    wanted = [Wanted(find_method("tokentm")), Wanted(find_method("transmm")), Wanted(find_method("rollout"))]
    several = attribute_several(model, images, wanted, None, list("abcd"), 0)
    (alone,) = attribute_several(model, images, wanted[:1], None, list("abcd"), 0)
    assert torch.equal(several[0].logits, alone.logits) and torch.equal(several[0].relevance, alone.relevance)


def test_images_without_a_name_are_known_by_their_content(plain, pictures):
    ids = [content_id(picture.numpy()) for picture in pictures]
    named = fgg.attribute(plain, pictures, "random", image_ids=ids).relevance
    assert torch.equal(named, fgg.attribute(plain, pictures, "random").relevance)


def test_a_target_for_all_is_a_target_for_each(plain, pictures):
    for target in (2, torch.tensor(2), torch.tensor([2, 2, 2, 2])):
        out = fgg.attribute(plain, pictures, target=target, batch_size=3)
        assert out.target.tolist() == [2, 2, 2, 2]
        assert torch.equal(out.relevance, fgg.attribute(plain, pictures, target=2, batch_size=3).relevance)


def test_under_no_grad_the_numbers_are_the_same(plain, pictures):
    with torch.no_grad():
        inside = fgg.attribute(plain, pictures, gate=fgg.Gate((0,), "no_sae")).relevance
        assert not torch.is_grad_enabled()
    assert torch.equal(inside, fgg.attribute(plain, pictures, gate=fgg.Gate((0,), "no_sae")).relevance)


def test_no_images_give_no_rows(plain, pictures):
    assert fgg.attribute(plain, pictures[:0]).relevance.shape == (0, 16)
    assert fgg.attribute(plain, pictures[:0], "random").relevance.shape == (0, 16)


# ---------------------------------------------------------------- sizes other than the model's own


@pytest.mark.parametrize("method", method_options())
def test_images_of_another_size(method, make_model):
    model = make_model(dynamic_img_size=True, img_size=24)
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    out = fgg.attribute(model, images, method)
    assert out.relevance.shape == (2, 20)
    if method in ("transmm", "rollout", "gradcam"):
        check(out.relevance, [getattr(slow, method)(slow.look(model, image)) for image in images])


def test_equal_relevance_of_equal_patches(make_model):
    """Patches that cannot be told apart (no positions, same content) tie exactly enough to be seen as such."""
    model = make_model(pos_embed="none")
    images = torch.full((2, 3, 32, 32), 0.7)
    images[:, :, :8, :8] = -1.0
    out = fgg.attribute(model, images)
    rest = out.relevance[:, 1:]
    assert ((rest - rest.mean(1, keepdim=True)).abs() < 1e-5 * out.relevance.amax()).all()
    assert ((out.relevance[:, 0] - rest.mean(1)).abs() > 1e-3 * out.relevance.amax()).all()
