"""The grid with options of methods, and with the gate on methods other than TransMM."""

import pytest

from fgg.comparison.tables import hypotheses
from fgg.errors import FggError
from fgg.experiments import candidates, case_experiments, experiments, ungated_id

GATED = {
    "layers": [[2], [1, 2]],
    "construction": ["combined"],
    "clamp_max": [10],
    "alpha": [1],
    "shuffle_decoder": [False],
}


def grid(baselines=("transmm",), controls=(), **gated):
    own = {"baselines": list(baselines), "gated": {**GATED, **gated}, "controls": list(controls), "powers": [2]}
    return experiments({"datasets": {"toy": {}}, "experiments": own}, "toy")


def test_options_enter_the_id_and_the_settings():
    found = grid(
        [
            "transmm",
            {"method": "attnlrp", "options": {"gamma": 0.25}},
            {"method": "smoothgrad", "options": {"samples": 10, "noise": 0.1}, "name": "quick"},
            {"method": "input_x_gradient", "options": {"layers": [1, 2]}},
            {"method": "attnlrp", "choose": {"gamma": [0.1, 1]}},
        ],
        layers=[],
    )
    assert list(found) == [
        "transmm",
        "attnlrp-gamma0.25",
        "quick",
        "input_x_gradient-layers1.2",
        "attnlrp-gamma-chosen",
    ]
    assert found["quick"] == {"method": "smoothgrad", "options": {"samples": 10, "noise": 0.1}}
    assert found["attnlrp-gamma-chosen"] == {"method": "attnlrp", "choose": {"gamma": [0.1, 1]}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"method": "attnlrp", "options": {"gama": 1}}, "'attnlrp' has no option 'gama'; it has .*gamma"),
        ({"method": "transmm", "options": {"layers": [1]}}, "'transmm' has no option 'layers'; it has none"),
        ({"method": "rise", "name": "transmm"}, "'transmm' is the name of another method"),
        ({"method": "rise", "options": {"samples": "many"}}, "rise: samples 'many' must be a whole number"),
        ({"method": "rise", "options": {"fill": "blurr"}}, "fill 'blurr' is unknown; choose from mean"),
        ({"method": "attnlrp", "options": {"gamma": float("nan")}}, "gamma nan must be a finite number"),
        ({"method": "libragrad", "options": {"layers": 2}}, "layers 2 must be different whole numbers"),
        ({"method": "libragrad", "options": {"layers": []}}, r"layers \[\] must be different whole numbers"),
        ({"method": "rise", "choose": {"samples": [10, "x"]}}, "samples 'x' must be a whole number"),
        (
            {"method": "rise", "options": {"samples": 5}, "choose": {"samples": [10, 20]}},
            "samples is both given and chosen",
        ),
        (
            {"method": "libragrad", "options": {"layers": [1]}, "name": "libragrad-layers2"},
            "'libragrad-layers2' is the id of",
        ),
    ],
)
def test_wrong_options(entry, message):
    with pytest.raises(FggError, match=message):
        grid(["transmm", entry], methods=["transmm", "libragrad"])


def test_a_gate_on_other_methods():
    found = grid(["transmm"], ["permuted_gate", "powers"], methods=["transmm", "tokentm", "libragrad"])
    assert found["gated-l2-combined-c10-a1"]["method"] == "transmm"
    assert found["gated-libragrad-l1.2-combined-c10-a1-permuted"] == {
        "method": "libragrad",
        "gate": {
            "layers": [1, 2],
            "construction": "combined",
            "clamp_max": 10.0,
            "alpha": 1.0,
            "shuffle_decoder": False,
        },
        "control": "permuted_gate",
    }
    # The methods without the gate are there once, at the gated layers where the method has layers.
    assert found["tokentm"] == {"method": "tokentm"}
    assert found["libragrad-layers1.2"] == {"method": "libragrad", "options": {"layers": [1, 2]}}
    assert ungated_id("libragrad", [2, 1]) == "libragrad-layers1.2" and ungated_id("tokentm", [2]) == "tokentm"
    assert [name for name in found if name.startswith("transmm-p")] == ["transmm-p2"]


def test_each_gate_is_compared_with_its_own_method():
    found = grid(["transmm"], ["permuted_gate", "powers"], methods=["transmm", "libragrad"])
    pairs = list(hypotheses(found))
    assert ("gated-libragrad-l2-combined-c10-a1", "ungated", "libragrad-layers2") in pairs
    assert ("gated-libragrad-l2-combined-c10-a1", "permuted", "gated-libragrad-l2-combined-c10-a1-permuted") in pairs
    assert ("gated-l2-combined-c10-a1", "transmm", "transmm") in pairs
    powers = {name for name, against, _ in pairs if against == "power"}
    assert powers == {"gated-l2-combined-c10-a1", "gated-l1.2-combined-c10-a1"}
    assert all(partner in found for _, _, partner in pairs)


def test_a_method_without_a_place_for_a_gate():
    with pytest.raises(FggError, match=r"gated.methods: 'occlusion' has no place for a gate; choose from .*transmm"):
        grid(methods=["occlusion"])


def test_case_studies_are_about_transmm():
    own = {"baselines": ["transmm"], "gated": {**GATED, "methods": ["transmm", "tokentm"]}, "controls": []}
    config = {
        "datasets": {"toy": {}},
        "experiments": own,
        "baseline": "transmm",
        "cases": {"enabled": True, "experiments": "combined"},
    }
    assert case_experiments(config, "toy") == ["gated-l2-combined-c10-a1", "gated-l1.2-combined-c10-a1"]
    assert candidates(experiments(config, "toy")) == ["gated-l2-combined-c10-a1", "gated-l1.2-combined-c10-a1"]
