"""Layers whose gate means nothing are found by measurement, and named."""

import warnings

import pytest
import torch

from fgg.attribution.attribute import attribute
from fgg.attribution.gate import Gate
from fgg.degeneracy import CANCELLED, OK, ZERO, expected, measured, note
from fgg.models.layer_diagnosis import diagnose


def statuses(model, images):
    return [record["status"] for record in diagnose(model, images)]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_a_class_token_model(depth, make_model, make_images):
    """The class token reads patches last in block depth-1, through a norm that cancels what depth-2 leaves."""
    model = make_model(depth=depth)
    found = statuses(model, make_images(model))
    assert found == ([OK] * depth + [CANCELLED, ZERO])[-depth:] if depth > 1 else found == [ZERO]
    assert dict(enumerate(found)) == expected(depth)


def test_the_numbers_behind_the_status(make_model, make_images):
    model = make_model(reg_tokens=3, img_size=24)
    records = diagnose(model, make_images(model))
    assert [record["layer"] for record in records] == [0, 1, 2, 3]
    assert [record["status"] for record in records] == [OK, OK, CANCELLED, ZERO]
    assert all(record["survives"] > 1e-2 for record in records[:2])
    assert 0 < records[2]["survives"] < 1e-5
    assert records[2]["patch_share"] > 0.05
    assert records[3]["patch_share"] == records[3]["survives"] == 0
    assert measured(records) == {0: OK, 1: OK, 2: CANCELLED, 3: ZERO}


def test_a_pooling_model_is_measured_not_assumed(make_model, make_images):
    """With fc_norm the pooled patches are normed together: no layer cancels, and the last is the best."""
    pooled = make_model(class_token=False, global_pool="avg")
    assert statuses(pooled, make_images(pooled)) == [OK] * 4
    # With the norm before the pool each patch passes the scale-invariant norm by itself, and the last layer cancels.
    normed = make_model(class_token=False, global_pool="avg", fc_norm=False)
    assert statuses(normed, make_images(normed)) == [OK, OK, OK, CANCELLED]


def test_without_a_final_norm_nothing_cancels_in_the_last_layer(make_model, make_images):
    model = make_model(class_token=False, global_pool="avg", fc_norm=False, final_norm=False)
    assert statuses(model, make_images(model))[-1] == OK


def test_one_image_is_enough(plain, pictures):
    assert [r["status"] for r in diagnose(plain, pictures[:1])] == [OK, OK, CANCELLED, ZERO]


def test_a_model_that_ignores_its_images(make_model, make_images):
    """No gradient reaches any patch: zero everywhere, and no division by it."""
    model = make_model()
    with torch.no_grad():
        model.head.weight.zero_()
    records = diagnose(model, make_images(model))
    assert [record["status"] for record in records] == [ZERO] * 4
    assert all(record["survives"] == record["patch_share"] == 0 for record in records)


STATUS = {0: OK, 1: CANCELLED, 2: ZERO}
NOISE = "residual x gradient is analytically zero, so the gate is rounding noise"
REST = "residual x gradient is analytically zero, so the score holds only the SAE's bias and reconstruction error"
SHUT = "the gradient at the patches is zero, so the gate is 1"


@pytest.mark.parametrize(
    ("construction", "layers", "text"),
    [
        ("combined", [0], ""),
        ("combined", [1], f"layer 1: {REST}"),
        ("combined", [2], f"layer 2: {SHUT}"),
        ("combined", [0, 1, 2], f"layer 1: {REST}; layer 2: {SHUT}"),
        ("no_sae", [1], f"layer 1: {NOISE}"),
        ("no_sae", [1, 2], f"layer 1: {NOISE}; layer 2: {SHUT}"),
        ("gradient_only", [1], ""),
        ("gradient_only", [2], f"layer 2: {SHUT}"),
        ("activation_only", [0, 1, 2], ""),
        ("combined", [7], ""),
    ],
)
def test_note(construction, layers, text):
    assert note({"gate": {"construction": construction, "layers": layers}}, STATUS) == text


def test_experiments_without_a_gate_have_no_note():
    assert note({"method": "rollout"}, STATUS) == note({"gate": None}, STATUS) == ""


def test_what_the_note_says_is_true(plain, pictures, make_sae):
    """Cancelled: the score is rounding against its terms. Zero: the gate is 1."""
    import fgg

    out = fgg.attribute(plain, pictures, gate=fgg.Gate((1, 2, 3), "no_sae"))
    assert out.scores[1].abs().median() > 1e3 * out.scores[2].abs().median()
    assert (out.scores[3] == 0).all()
    assert (out.gates[3] == 1).all()
    shut = fgg.attribute(plain, pictures, gate=fgg.Gate((3,)), saes={3: make_sae(1)})
    assert (shut.gates[3] == 1).all()
    assert torch.equal(shut.relevance, fgg.attribute(plain, pictures).relevance)


def test_a_gate_that_means_nothing_is_warned_of(plain, pictures):
    """The plain model has four blocks and reads the class token."""
    for layers, warned in (((1,), False), ((2,), True), ((1, 3), True)):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            attribute(plain, pictures, gate=Gate(layers, "no_sae"))
        assert bool([each for each in found if "means nothing" in str(each.message)]) == warned, layers
