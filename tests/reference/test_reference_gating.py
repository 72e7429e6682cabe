"""Every non-degenerate gate of the reference: scores, gates, gated relevance; and the features behind them."""

import numpy as np
import pytest
import torch

from fgg import gating
from fgg.attribution.attribute import attribute
from fgg.attribution.gate import Gate
from fgg.degeneracy import note
from fgg.models.capture import capture
from fgg.models.layer_diagnosis import diagnose


@pytest.fixture(scope="module")
def configurations(read):
    return read("gating_configs.json")


def to_gate(stored) -> Gate:
    return Gate(
        tuple(stored["layers"]),
        stored["gate_construction"].lower(),
        stored["clamp_max"],
        stored["alpha"],
        stored["shuffle_decoder"],
        stored["shuffle_decoder_seed"],
    )


@pytest.fixture(scope="module")
def run(reference_model, reference_images, reference_saes, read):
    """A function: stored configuration -> attribution. A layer without an SAE is left out, as the vectors have it."""

    def attribute_as_stored(stored):
        gate = to_gate(stored)
        if gate.construction != "no_sae":
            gated = tuple(layer for layer in gate.layers if layer in reference_saes)
            gate = Gate(gated, *(getattr(gate, n) for n in list(gate.__dataclass_fields__)[1:]))
        return attribute(reference_model, reference_images, gate=gate, saes=reference_saes)

    return attribute_as_stored


def test_every_gate(configurations, run, read, close):
    stored = read("gating.npz")
    compared = set()
    for entry in configurations:
        if entry["numerically_degenerate"]:
            continue
        name, out = entry["id"], run(entry)
        for place, layer in enumerate(entry["layers"]):
            if layer not in out.gates:
                assert (stored[f"{name}_gate"][:, place] == 1).all(), f"{name}: layer {layer} was gated"
                continue
            scores = stored[f"{name}_s"][:, place]
            largest = np.abs(scores).max(1, keepdims=True)
            close(out.scores[layer], scores, atol=2e-5 * largest, what=f"{name} score {layer}")
            close(out.gates[layer], stored[f"{name}_gate"][:, place], rtol=1e-3, what=f"{name} gate {layer}")
        raw = stored[f"{name}_raw"]
        close(out.relevance, raw, atol=2e-4 * raw.max(1, keepdims=True), what=f"{name} relevance")
        compared.add((entry["gate_construction"].lower(), entry["shuffle_decoder"]))
    constructions = {(entry["gate_construction"].lower(), entry["shuffle_decoder"]) for entry in configurations}
    assert compared == constructions  # none is left out altogether


def test_gates_follow_from_the_stored_scores(configurations, read, close):
    stored = read("gating.npz")
    for entry in configurations:
        if not entry["numerically_degenerate"]:
            check_step(entry, stored, close)


def test_gates_follow_from_scores_of_pure_rounding(configurations, read, close):
    """Where the score is noise the floor of the MAD matters, and the step from score to gate has no excuse."""
    stored = read("gating.npz")
    for entry in configurations:
        check_step(entry, stored, close)


def check_step(entry, stored, close):
    for place in range(len(entry["layers"])):
        gates = stored[f"{entry['id']}_gate"][:, place]
        scores = torch.from_numpy(stored[f"{entry['id']}_s"][:, place])
        if not (gates == 1).all():
            close(gating.gate(scores, entry["clamp_max"], entry["alpha"]), gates, rtol=1e-3, what=entry["id"])


def test_size_of_the_contributions(configurations, reference_model, reference_images, reference_saes, read, close):
    """`_absmag` is the sum of the absolute contributions f_k h_k of a patch."""
    stored = read("gating.npz")
    seen = capture(reference_model, reference_images, layers=sorted(reference_saes))
    first = reference_model.num_prefix_tokens
    for entry in configurations:
        if entry["gate_construction"].lower() != "combined" or entry["numerically_degenerate"]:
            continue
        for place, layer in enumerate(entry["layers"]):
            if layer not in reference_saes:
                continue
            sae = reference_saes[layer]
            decoder = sae.W_dec.detach()
            if entry["shuffle_decoder"]:
                decoder = decoder[gating.shuffle(len(decoder), entry["shuffle_decoder_seed"])]
            with torch.no_grad():
                codes = sae.encode(seen.residuals[layer][:, first:])
            sizes = (codes * (seen.gradients[layer][:, first:] @ decoder.T)).abs().sum(-1)
            expected = stored[f"{entry['id']}_absmag"][:, place]
            close(sizes, expected, atol=2e-5 * expected.max(), what=f"{entry['id']} layer {layer}")


def test_shuffled_order(read):
    for name, order in read("shuffle_perm.npz").items():
        assert gating.shuffle(len(order), 12345).tolist() == order.tolist(), name


def test_debug_features(reference_model, reference_images, reference_saes, read, close):
    """Features above 0.1 in every patch: which, and their activations, gradients and contributions."""
    stored = read("debug_sparse.npz")
    seen = capture(reference_model, reference_images, layers=sorted(reference_saes))
    first = reference_model.num_prefix_tokens
    for layer, sae in reference_saes.items():
        with torch.no_grad():
            codes = sae.encode(seen.residuals[layer][:, first:])
        gradients = seen.gradients[layer][:, first:] @ sae.W_dec.detach().T
        active = codes > 0.1
        if active.sum(-1).tolist() != stored[f"counts_L{layer}"].tolist():
            near = (codes - 0.1).abs().min()
            pytest.fail(f"layer {layer}: other features are active; the nearest to the threshold is {near:.2g} away")
        assert active.nonzero()[:, 2].tolist() == stored[f"indices_L{layer}"].tolist()
        close(codes[active], stored[f"activations_L{layer}"], atol=2e-5)
        scale = np.abs(stored[f"gradients_L{layer}"]).max()
        close(gradients[active], stored[f"gradients_L{layer}"], atol=2e-5 * scale)
        contributions = stored[f"contributions_L{layer}"]
        close((codes * gradients)[active], contributions, atol=2e-5 * np.abs(contributions).max())


def test_degenerate_configurations_are_named(configurations, reference_model, reference_images):
    """What the vectors call degenerate is what the measurement calls noise."""
    status = {record["layer"]: record["status"] for record in diagnose(reference_model, reference_images)}
    for entry in configurations:
        gate = to_gate(entry)
        remark = note({"gate": {"layers": gate.layers, "construction": gate.construction}}, status)
        assert ("rounding noise" in remark) == entry["numerically_degenerate"], (entry, remark)


def on_the_floor(case):
    """Whether the MAD is of the size of its floor."""
    distance = sorted(abs(score - case["median_used"]) for score in case["s"])
    return distance[(len(distance) - 1) // 2] < 1e-6 and max(distance) > 0


def test_gate_from_scores(read, close):
    for case in read("edge_cases.json")["gate_from_scores"]:
        if not on_the_floor(case):
            gates = gating.gate(torch.tensor(case["s"]), case["clamp_max"], case["alpha"])
            close(gates, case["gate"], rtol=1e-5, what=str(case))


def test_gate_from_scores_on_the_floor(read, close):
    cases = [case for case in read("edge_cases.json")["gate_from_scores"] if on_the_floor(case)]
    for case in cases:
        gates = gating.gate(torch.tensor(case["s"]), case["clamp_max"], case["alpha"])
        close(gates, case["gate"], rtol=1e-5, what=str(case))


def test_a_gate_after_the_last_block_is_one(reference_model, reference_images, reference_saes, sae_layers, read, close):
    case = read("edge_cases.json")["last_layer_combined"]
    last = len(reference_model.blocks) - 1
    saes = {last: reference_saes[sae_layers[-1]]}
    out = attribute(reference_model, reference_images, gate=Gate((last,)), saes=saes)
    close(out.gates[last][0], case["gate"], atol=1e-7)
    vanilla = attribute(reference_model, reference_images)
    assert torch.equal(out.relevance, vanilla.relevance) == case["same_as_vanilla"]
