"""Seeds as an axis: names of folders, what runs share, and names that collide."""

from __future__ import annotations

import pytest

from fgg.errors import FggError
from fgg.pipeline.seeds import instances


def of(**config):
    return instances({"run": ["toy"], "seed": 0, "seeds": None, **config})


def test_one_seed_is_one_instance_with_the_datasets_name():
    (own,) = of(seed=7).values()
    assert (own.name, own.prepared, own.model, own.label) == ("toy", "toy", "toy", "7")
    assert own.seeds == {"split": 7, "model": 7, "sae": 7}


def test_a_list_repeats_everything():
    found = of(seeds=[3, 5])
    assert list(found) == ["toy", "toy-seed5"]
    assert found["toy"].seeds == dict.fromkeys(("split", "model", "sae"), 3)
    second = found["toy-seed5"]
    assert (second.prepared, second.model, second.label) == ("toy-seed5", "toy-seed5", "5")


def test_seeds_of_parts_are_combined_and_share_what_is_equal():
    found = of(seeds={"model": [0, 1], "sae": [0, 1]}, seed=4)
    assert list(found) == ["toy", "toy-sae1", "toy-model1", "toy-model1-sae1"]
    assert {own.prepared for own in found.values()} == {"toy"}
    assert {own.model for own in found.values()} == {"toy", "toy-model1"}
    assert found["toy-model1-sae1"].seeds == {"split": 4, "model": 1, "sae": 1}
    assert found["toy-sae1"].label == "split 4, model 0, sae 1"


def test_each_dataset_has_its_own_runs():
    assert list(of(run=["a", "b"], seeds=[0, 1])) == ["a", "a-seed1", "b", "b-seed1"]


def test_a_name_that_another_dataset_needs_is_refused():
    with pytest.raises(FggError, match="the dataset 'a-seed1' needs the folder 'a-seed1' of 'a'; rename one"):
        of(run=["a", "a-seed1"], seeds=[0, 1])
