"""Which experiments get case studies, where prototypes come from, and what is refused."""

from pathlib import Path

import pytest

from fgg.errors import FggError
from fgg.experiments import case_experiments, prototype_split
from fgg.pipeline.configuration import check

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"
COMBINED = ["gated-l0-combined-c10-a1", "gated-l0.1-combined-c10-a1"]


def configured(cases=None, baselines=("transmm",), split="test", **top):
    dataset = {
        "source": "image_folder",
        "path": "pictures",
        "split": split,
        "model": {"architecture": "vit_tiny_patch16_224"},
        "preprocess": {},
        "sae": {"layers": [0, 1]},
    }
    gated = {"layers": [[0], [0, 1]], "construction": ["combined", "no_sae"], "shuffle_decoder": [False, True]}
    grid = {"baselines": list(baselines), "gated": gated, "controls": ["permuted_gate"]}
    config = {"run": ["mine"], "datasets": {"mine": dataset}, "experiments": grid, **top}
    return check(config if cases is None else {**config, "cases": cases}, SCHEMA)


def test_every_combined_gate_and_no_control():
    assert case_experiments(configured(), "mine") == COMBINED


def test_named_experiments_in_the_order_of_the_grid():
    wanted = ["gated-l0.1-combined-c10-a1", "gated-l0-combined-c10-a1-shuffled"]
    assert case_experiments(configured({"experiments": wanted}), "mine") == wanted[::-1]


def test_none_when_switched_off_or_without_transmm():
    assert case_experiments(configured({"enabled": False}), "mine") == []
    assert case_experiments(configured(baselines=["rollout"], baseline="rollout"), "mine") == []


def test_none_of_the_baseline():
    assert case_experiments(configured(baseline=COMBINED[0]), "mine") == COMBINED[1:]


@pytest.mark.parametrize(("explained", "wanted", "found"), [
    ("test", None, "train"), ("train", None, "val"), ("val", None, "train"), ("test", "val", "val"),
])  # fmt: skip
def test_prototypes_never_come_from_the_explained_split(explained, wanted, found):
    assert prototype_split(configured({"split": wanted}, split=explained), "mine") == found


REFUSED = {
    "the explained split": ({"split": "test"}, "cases.split: 'test' is what is explained of 'mine'"),
    "no such experiment": ({"experiments": ["gated-l0-combined-c10-a"]}, "did you mean 'gated-l0-combined-c10-a1'?"),
    "no SAE": ({"experiments": ["gated-l0-no_sae-c10-a1"]}, "has no gate made of SAE features"),
    "a control": ({"experiments": ["gated-l0-combined-c10-a1-permuted"]}, "has no gate made of SAE features"),
    "a baseline": ({"experiments": ["transmm"]}, "has no gate made of SAE features"),
    "a word": ({"experiments": "all"}, "cases.experiments: 'all'"),
    "none": ({"per_category": 0}, "cases.per_category: 0"),
    "a typo": ({"prototype": 3}, "did you mean 'prototypes'?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    cases, message = REFUSED[case]
    with pytest.raises(FggError) as caught:
        configured(cases)
    assert message in str(caught.value)


def test_named_experiments_need_transmm():
    with pytest.raises(FggError, match="changes are counted from transmm"):
        configured({"experiments": COMBINED}, baselines=["rollout"], baseline="rollout")


def test_nothing_is_checked_of_what_is_switched_off():
    configured({"enabled": False, "split": "test", "experiments": ["gone"]})
