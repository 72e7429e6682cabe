"""The configuration: the schema is strict and complete, faults are named, the grid's ids are stable and unique."""

import copy
import datetime
import itertools
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fgg.errors import FggError
from fgg.experiments import dataset_config, experiment_id, experiments, needs_sae
from fgg.faithfulness.registry import defaults, metrics
from fgg.pipeline.configuration import check, known_depth, schema_rules

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
RULES = schema_rules(SCHEMA)

# Objects that take keys of any name.
OPEN = {
    "datasets": "the names are the user's",
    "datasets.*.model.kwargs": "passed on to timm, which knows its own",
    "datasets.*.model.zero_shot.class_names": "the classes are the user's",
    "datasets.*.experiments": "overrides: checked after they are merged",
    "datasets.*.metrics": "overrides: checked after they are merged",
    "experiments.external": "the names are the user's",
}


def resolve(rule):
    return RULES["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule


def walk(rule=RULES, place="", required=True):
    """Every rule below: (place, rule, whether it is required); a map's values are at ``place.*``."""
    rule = resolve(rule)
    yield place, rule, required
    start = f"{place}." if place else ""
    for key, below in rule.get("properties", {}).items():
        yield from walk(below, start + key, key in rule.get("required", ()))
    for word, mark in (("additionalProperties", "*"), ("items", "[]")):
        if isinstance(rule.get(word), dict):
            yield from walk(rule[word], start + mark)


PLACES = list(walk())
STRICT = [(place, rule) for place, rule, _ in PLACES if rule.get("type") == "object" and place not in OPEN]
LEAVES = [
    (place, rule, required)
    for place, rule, required in PLACES
    if "properties" not in rule and not place.endswith(("*", "[]"))
]


def default():
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def changed(path, value, config=None):
    """The default configuration with one key set; missing levels are made."""
    config = copy.deepcopy(config or default())
    *way, last = path.split(".")
    place = config
    for key in way:
        place = place.setdefault(key, {})
    place[last] = value
    return config


def fault(config):
    """The message of a configuration that must be refused."""
    with pytest.raises(FggError) as error:
        check(config, SCHEMA)
    return str(error.value)


def ids(config, dataset="elpv"):
    return list(experiments(check(config, SCHEMA), dataset))


# ---- the schema


def test_every_key_is_described_and_has_a_default_where_it_may_be_left_out():
    assert len(LEAVES) > 60, "the walk must reach the leaves"
    assert not [place for place, rule, _ in LEAVES if not rule.get("description", "").strip()]
    # `datasets.*` is a map's value, not a key
    optional = [(place, rule) for place, rule, required in PLACES if not required]
    off = {f"metrics.{name}" for name in set(metrics()) - set(defaults())}  # unless they are named
    off.add("metrics.localisation")  # depends on the dataset
    assert {place for place, rule in optional if "default" not in rule} == off


def test_no_object_takes_unknown_keys_but_the_listed_ones():
    objects = [(place, rule) for place, rule, _ in PLACES if "object" in rule.get("type", "")]
    assert {place for place, rule in objects if rule.get("additionalProperties") is not False} == set(OPEN)
    assert not [place for place, rule, _ in PLACES if "properties" in rule and "object" not in rule["type"]]


def test_defaults_obey_the_schema():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(RULES)
    for place, rule, _ in PLACES:
        if "default" in rule and "required" not in rule:
            faults = list(Draft202012Validator({**rule, "$defs": RULES["$defs"]}).iter_errors(rule["default"]))
            assert not faults, (place, faults)


def test_the_default_configuration_is_valid_and_names_no_key_that_the_schema_lacks():
    assert check(default(), SCHEMA)
    known = {place for place, _, _ in PLACES}
    forms = {place for place, rule, _ in PLACES if "anyOf" in rule}  # a value, or a table that the schema checks as one

    def keys(value, place=""):
        for key, below in value.items() if isinstance(value, dict) and place not in forms else ():
            here = f"{place}.*" if place in OPEN else f"{place}.{key}".lstrip(".")
            if place in OPEN and f"{place}.*" not in known:
                continue
            yield here
            yield from keys(below, here)

    used = set(keys(default()))
    assert used <= known and {"run", "datasets.*.model.train.epochs", "metrics.saco.patches_per_bin"} <= used


def test_defaults_are_filled_in_at_every_depth():
    config = check(
        {
            "run": ["a"],
            "datasets": {
                "a": {"source": "elpv", "model": {"architecture": "vit_tiny_patch16_224"}, "preprocess": {}, "sae": {}}
            },
            "experiments": {"baselines": ["transmm"]},
        },
        SCHEMA,
    )

    def assert_filled(value, rule, place):
        rule = resolve(rule)
        for key, below in rule.get("properties", {}).items():
            if place == ".metrics" and key not in (*defaults(), "fills", "measurable"):
                continue  # a metric that is off unless it is named
            assert key in value, f"{place}.{key}"
            if "default" in resolve(below) and not isinstance(value[key], dict) and not place.endswith("experiments"):
                assert value[key] == resolve(below)["default"] or key in ("source", "architecture")
            if isinstance(value[key], dict):
                assert_filled(value[key], below, f"{place}.{key}")
        if isinstance(rule.get("additionalProperties"), dict):
            for name, below in value.items():
                assert_filled(below, rule["additionalProperties"], f"{place}.{name}")

    assert_filled(config, RULES, "")
    assert config["datasets"]["a"]["model"]["train"]["epochs"] == 36
    assert config["experiments"]["gated"]["clamp_max"] == [10]
    assert config["metrics"]["faithfulness_correlation"] == {
        "runs": 20,
        "trials": 3,
        "subset_size": 20,
        "fill": None,
    }


def test_the_given_configuration_is_left_as_it_was_and_its_values_stay():
    given_ = default()
    before = copy.deepcopy(given_)
    config = check(given_, SCHEMA)
    assert given_ == before
    assert config["datasets"]["elpv"]["model"]["kwargs"] == before["datasets"]["elpv"]["model"]["kwargs"]
    config["datasets"]["elpv"]["sae"]["train"]["k"] = 1
    assert (
        check(given_, SCHEMA)["datasets"]["elpv"]["sae"]["train"]["k"]
        == before["datasets"]["elpv"]["sae"]["train"]["k"]
    )


def test_a_checked_configuration_checks_again_to_itself():
    once = check(default(), SCHEMA)
    assert check(once, SCHEMA) == once


# ---- faults


@pytest.mark.parametrize(("place", "rule"), STRICT, ids=[place or "top level" for place, _ in STRICT])
def test_a_misspelt_key_is_named_with_its_neighbour_and_the_choice(place, rule):
    right = max(rule["properties"], key=len)
    wrong = right[:-1] + "zz"
    place = place.replace("*", "elpv")
    message = fault(changed(f"{place}.{wrong}".lstrip("."), 1, check(default(), SCHEMA)))
    assert f"{place or 'top level'}: unknown key '{wrong}'" in message
    assert f"did you mean '{right}'?" in message
    assert "allowed: " + ", ".join(sorted(rule["properties"])) in message


def test_a_key_without_neighbour_gets_no_guess():
    message = fault(changed("qqqqqq", 1))
    assert "unknown key 'qqqqqq'; allowed: " in message and "did you mean" not in message


def test_all_faults_are_told_at_once():
    message = fault(changed("devise", "cpu", changed("seed", -1)))
    assert "devise" in message and "seed: -1 does not fit; allowed: an integer at least 0" in message


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("device", "gpu", ["device: 'gpu' is not allowed", "choose from: auto, cpu, cuda"]),
        ("precision", "fp16", ["precision: 'fp16'", "(did you mean 'bf16'?)", "fp32, tf32, bf16"]),
        ("protocol", "thesys", ["protocol: 'thesys'", "'thesis'"]),
        ("shards", 0, ["shards", "1"]),
        ("run", ["elvp"], ["run: dataset 'elvp' is not defined", "(did you mean 'elpv'?)", "defined: ", "elpv"]),
        ("run", [], ["run: []"]),
        ("run", ["elpv", "elpv"], ["run", "non-unique"]),
        ("datasets.elpv.source", "imagefolder", ["datasets.elpv.source", "'image_folder'"]),
        ("datasets.elpv.split", "testing", ["datasets.elpv.split", "train, val, test"]),
        ("experiments.baselines", ["transmn"], ["experiments.baselines[0]: 'transmn'", "(did you mean 'transmm'?)"]),
        (
            "experiments.gated.construction",
            ["combine"],
            [
                "experiments.gated.construction[0]",
                "(did you mean 'combined'?)",
                "activation_only, gradient_only, no_sae",
            ],
        ),
        ("experiments.controls", ["permuted"], ["experiments.controls[0]", "permuted_gate", "sharpened"]),
        ("experiments.gated.shuffle_decoder", [1], ["experiments.gated.shuffle_decoder[0]: 1", "true or false"]),
        ("experiments.gated.clamp_max", [1], ["experiments.gated.clamp_max[0]: 1"]),
        ("experiments.gated.clamp_max", 10, ["experiments.gated.clamp_max: 10", "a list"]),
        ("experiments.gated.clamp_max", [10, 10.0], ["experiments.gated.clamp_max", "non-unique"]),
        ("experiments.gated.alpha", [0], ["experiments.gated.alpha[0]: 0"]),
        ("experiments.gated.layers", [[]], ["experiments.gated.layers[0]"]),
        ("experiments.gated.layers", [1, 2], ["experiments.gated.layers[0]: 1", "a list"]),
        ("experiments.gated.layers", [[-1]], ["experiments.gated.layers[0][0]: -1"]),
        ("experiments.gated.layers", [[1, 1]], ["experiments.gated.layers[0]", "non-unique"]),
        ("seed", "0", ["seed: '0'", "integer"]),
        ("seed", True, ["seed: True", "integer"]),
        ("batch_size", 0, ["batch_size: 0"]),
        ("datasets.elpv.max_images", 0, ["datasets.elpv.max_images: 0"]),
        ("datasets.elpv.max_images", "all", ["datasets.elpv.max_images: 'all'", "integer"]),
        ("datasets.elpv.model.kwargs", None, ["datasets.elpv.model.kwargs: nothing is given", "a mapping"]),
        ("datasets.elpv.model.train.learning_rate", "1e-3", ["learning_rate: '1e-3'", "number"]),
        ("datasets.elpv.model.train.epochs", 1.5, ["epochs: 1.5", "integer"]),
        ("datasets.elpv.preprocess.std", [0.1, 0.0, 0.1], ["datasets.elpv.preprocess.std[1]"]),
        ("datasets.elpv.sae.train.architecture", "top_k", ["datasets.elpv.sae.train.architecture", "'topk'"]),
        ("datasets.elpv", None, ["datasets.elpv: nothing is given", "a mapping"]),
        ("datasets", None, ["datasets: nothing is given"]),
        ("experiments", None, ["experiments: nothing is given"]),
        ("metrics.saco.bins", 1, ["metrics.saco.bins: 1"]),
    ],
)
def test_a_wrong_value_is_told_with_its_place(path, value, parts):
    message = fault(changed(path, value))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("key", ["run", "datasets", "experiments"])
def test_a_missing_key_is_named(key):
    config = default()
    del config[key]
    assert f"top level: the key '{key}' is missing" in fault(config)


@pytest.mark.parametrize("key", ["source", "model", "sae"])
def test_a_missing_key_of_a_dataset_is_named(key):
    config = default()
    del config["datasets"]["elpv"][key]
    assert f"datasets.elpv: the key '{key}' is missing" in fault(config)


def test_the_preprocessing_may_be_left_out():
    config = default()
    del config["datasets"]["elpv"]["preprocess"]
    own = check(config, SCHEMA)["datasets"]["elpv"]["preprocess"]
    assert own == dict.fromkeys(["resize", "crop", "channels", "interpolation", "mean", "std"])
    assert check(changed("datasets.elpv.preprocess", {}), SCHEMA)["datasets"]["elpv"]["preprocess"] == own
    for key in own:
        assert check(changed(f"datasets.elpv.preprocess.{key}", None), SCHEMA)
    message = fault(changed("datasets.elpv.preprocess.channels", "cmyk"))
    assert "choose from: rgb, grey, extremes, dark_lines, null" in message


def test_a_planted_colour_needs_channels_that_show_it():
    planted = {"source": "planted", "planted": {"cue": "colour"}, "preprocess": {}}
    config = changed("datasets.elpv", default()["datasets"]["elpv"] | planted)
    assert check(config, SCHEMA)
    message = fault(changed("datasets.elpv.model.kwargs.in_chans", 1, config))
    assert "preprocess.channels: 'grey' hides the cue's colour" in message


def test_a_dataset_name_that_cannot_be_a_folder_is_refused():
    config = default()
    config["datasets"]["../x"] = config["datasets"]["elpv"]
    assert "'../x'" in fault(config)


# ---- faults between keys


def test_a_gated_layer_beyond_the_depth():
    message = fault(changed("experiments.gated.layers", [[2], [1, 6]]))
    assert "experiments.gated.layers: layer 6 is beyond the model's depth 6; layers are 0 to 5" in message
    assert ids(changed("experiments.gated.layers", [[2]]))


def test_an_sae_layer_beyond_the_depth():
    message = fault(changed("datasets.elpv.sae.layers", [1, 2, 7]))
    assert "datasets.elpv.sae.layers: layer 7 is beyond the model's depth 6" in message


def test_a_gated_layer_without_an_sae():
    message = fault(changed("experiments.gated.layers", [[2], [3, 4]]))
    assert "datasets.elpv.sae.layers: [1, 2] has no SAE for the gated layers [3, 4]" in message


def test_a_gate_without_sae_needs_none():
    config = changed("experiments.gated.layers", [[4]], changed("datasets.elpv.sae.layers", []))
    config["experiments"] |= {"controls": []}
    config["experiments"]["gated"] |= {"construction": ["no_sae"], "shuffle_decoder": [False]}
    assert "gated-l4-no_sae-c10-a1" in ids(config)


def test_a_path_of_saes_needs_the_layer():
    message = fault(changed("datasets.elpv.sae.weights", "saes/mine"))
    assert "datasets.elpv.sae.weights: 'saes/mine' needs the placeholder {layer}" in message
    assert ids(changed("datasets.elpv.sae.weights", "saes/{layer}"))


def test_no_experiments():
    assert "experiments: none for dataset 'elpv'" in fault(changed("experiments", {}))


def test_a_baseline_that_is_not_run():
    message = fault(changed("baseline", "rollout2"))
    assert "baseline: 'rollout2' is not among the experiments of 'elpv'" in message and "rollout," in message
    assert ids(changed("baseline", "gated-l2-combined-c10-a1"))


def test_the_sharpened_control_needs_no_experiment_beside_it():
    assert "gated-l2-combined-c10-a1-sharpened" in ids(
        changed("experiments.baselines", ["rollout"], changed("baseline", "rollout"))
    )


def test_an_image_folder_needs_a_path():
    assert "datasets.elpv.path: missing" in fault(changed("datasets.elpv.source", "image_folder"))
    assert ids(changed("datasets.elpv.path", "x", changed("datasets.elpv.source", "image_folder")))


def test_fractions_must_add_up():
    message = fault(changed("datasets.elpv.fractions", {"train": 0.8}))
    assert "datasets.elpv.fractions" in message and "do not add up to 1" in message


def test_faults_between_keys_count_only_for_datasets_that_are_run():
    config = default()
    config["datasets"]["other"] = copy.deepcopy(config["datasets"]["elpv"]) | {"source": "image_folder"}
    assert ids(config)
    config["run"] = ["elpv", "other"]
    assert "datasets.other.path: missing" in fault(config)


# ---- overrides of a dataset


def test_overrides_are_merged_key_by_key():
    config = changed("datasets.elpv.experiments", {"gated": {"layers": [[1]]}, "controls": []})
    config = changed("datasets.elpv.metrics", {"saco": {"bins": 7}}, config)
    config["datasets"]["plain"] = copy.deepcopy(default()["datasets"]["elpv"])
    config["run"] = ["elpv", "plain"]
    checked = check(config, SCHEMA)
    own = dataset_config(checked, "elpv")
    assert own["experiments"]["baselines"] == default()["experiments"]["baselines"]
    assert own["experiments"]["gated"]["construction"] == default()["experiments"]["gated"]["construction"]
    assert own["metrics"]["saco"] == {"patches_per_bin": 4, "bins": 7, "ranks": False, "weigh": "total", "fill": None}
    assert (
        own["metrics"]["pixel_flipping"]["patches_per_step"]
        == default()["metrics"]["pixel_flipping"]["patches_per_step"]
    )
    assert "gated-l1-combined-c10-a1" in ids(config) and "gated-l2-combined-c10-a1" not in ids(config)
    assert not [name for name in ids(config) if name.endswith(("-permuted", "-sharpened"))]
    assert ids(config, "plain") == ids(default())


@pytest.mark.parametrize(
    ("part", "value", "parts"),
    [
        ("experiments", {"gated": {"layer": [[1]]}}, ["datasets.elpv.experiments.gated", "(did you mean 'layers'?)"]),
        ("experiments", {"baselines": ["transmn"]}, ["datasets.elpv.experiments.baselines[0]: 'transmn'"]),
        ("experiments", {"gated": 3}, ["datasets.elpv.experiments.gated: 3"]),
        ("experiments", None, ["datasets.elpv.experiments: nothing is given"]),
        ("metrics", {"saco": {"bin": 3}}, ["datasets.elpv.metrics.saco", "(did you mean 'bins'?)"]),
        ("metrics", {"saco": {"bins": "3"}}, ["datasets.elpv.metrics.saco.bins: '3'"]),
        ("metrics", {"saco": 3}, ["datasets.elpv.metrics.saco: 3"]),
    ],
)
def test_overrides_are_checked_after_merging(part, value, parts):
    message = fault(changed(f"datasets.elpv.{part}", value))
    assert all(text in message for text in parts), message


def test_an_override_cannot_gate_beyond_the_depth_or_without_sae():
    message = fault(changed("datasets.elpv.experiments", {"gated": {"layers": [[3], [9]]}}))
    assert "layer 9 is beyond the model's depth 6" in message and "no SAE for the gated layers [3, 9]" in message


# ---- the grid


def test_the_ids_of_the_default_grid():
    config = default()
    config["experiments"].pop("sanity", None)  # the sanity checks have tests of their own
    assert ids(config) == [
        "random",
        "rollout",
        "gradcam",
        "tokentm",
        "transmm",
        "transmm-p0.5",
        "transmm-p2",
        "transmm-p4",
        "gated-l2-combined-c10-a1",
        "gated-l2-combined-c10-a1-permuted",
        "gated-l2-combined-c10-a1-sharpened",
        "gated-l2-combined-c10-a1-values",
        "gated-l2-combined-c10-a1-order",
        "gated-l2-combined-c10-a1-frozen",
        "gated-l2-combined-c10-a1-pca",
        "gated-l2-combined-c10-a1-shuffled",
        "gated-l2-activation_only-c10-a1",
        "gated-l2-gradient_only-c10-a1",
        "gated-l2-no_sae-c10-a1",
        "gated-l1.2-combined-c10-a1",
        "gated-l1.2-combined-c10-a1-permuted",
        "gated-l1.2-combined-c10-a1-sharpened",
        "gated-l1.2-combined-c10-a1-values",
        "gated-l1.2-combined-c10-a1-order",
        "gated-l1.2-combined-c10-a1-frozen",
        "gated-l1.2-combined-c10-a1-pca",
        "gated-l1.2-combined-c10-a1-shuffled",
        "gated-l1.2-activation_only-c10-a1",
        "gated-l1.2-gradient_only-c10-a1",
        "gated-l1.2-no_sae-c10-a1",
    ]


def test_an_experiment_says_how_it_is_made():
    grid = experiments(check(default(), SCHEMA), "elpv")
    gate = {"layers": [1, 2], "construction": "combined", "clamp_max": 10.0, "alpha": 1.0, "shuffle_decoder": False}
    assert grid["rollout"] == {"method": "rollout"}
    assert grid["gated-l1.2-combined-c10-a1"] == {"method": "transmm", "gate": gate, "control": None}
    assert grid["gated-l1.2-combined-c10-a1-permuted"] == {
        "method": "transmm",
        "gate": gate,
        "control": "permuted_gate",
    }
    assert grid["gated-l1.2-combined-c10-a1-shuffled"]["gate"] == {**gate, "shuffle_decoder": True}
    assert not needs_sae(grid["transmm"]) and not needs_sae(grid["gated-l2-no_sae-c10-a1"])
    assert needs_sae(grid["gated-l2-activation_only-c10-a1"]) and needs_sae(grid["gated-l2-gradient_only-c10-a1"])


def test_numbers_in_ids_are_short():
    gate = {"layers": [11, 2], "construction": "no_sae", "clamp_max": 2.5, "alpha": 0.125, "shuffle_decoder": False}
    assert experiment_id(gate) == "gated-l2.11-no_sae-c2.5-a0.125"


def test_shuffling_goes_with_combined_only():
    grid = experiments(check(changed("experiments.gated.shuffle_decoder", [True]), SCHEMA), "elpv")
    gated = {name: chosen for name, chosen in grid.items() if "gate" in chosen}
    assert list(gated) == ["gated-l2-combined-c10-a1-shuffled", "gated-l1.2-combined-c10-a1-shuffled"]
    assert all(chosen["gate"]["construction"] == "combined" for chosen in gated.values())


def test_the_order_of_keys_and_the_spelling_of_numbers_do_not_change_ids():
    config = default()
    twin = {key: config[key] for key in reversed(config)}
    twin["experiments"] = {key: config["experiments"][key] for key in reversed(config["experiments"])}
    gated = config["experiments"]["gated"]
    twin["experiments"]["gated"] = {key: gated[key] for key in reversed(gated)} | {"clamp_max": [10.0], "alpha": [1.0]}
    twin["experiments"]["gated"]["layers"] = [[2], [2, 1]]
    a, b = (experiments(check(each, SCHEMA), "elpv") for each in (config, twin))
    assert a == b and list(a) == list(b)
    assert [type(value) for value in a["gated-l2-no_sae-c10-a1"]["gate"].values()] == [
        type(value) for value in b["gated-l2-no_sae-c10-a1"]["gate"].values()
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 7),
        ("device", "cuda"),
        ("precision", "bf16"),
        ("protocol", "thesis"),
        ("batch_size", 3),
        ("baseline", "rollout"),
        ("metrics.saco.bins", 5),
        ("metrics.faithfulness_correlation.runs", 50),
        ("datasets.elpv.max_images", None),
        ("datasets.elpv.split", "val"),
        ("datasets.elpv.model.train.epochs", 1),
        ("datasets.elpv.sae.train.k", 3),
        ("datasets.elpv.sae.layers", [0, 1, 2, 3]),
    ],
)
def test_what_does_not_choose_the_experiment_is_not_in_its_id(path, value):
    config = check(changed(path, value), SCHEMA)
    assert experiments(config, "elpv") == experiments(check(default(), SCHEMA), "elpv")


# Up to four digits; longer numbers are below.
numbers = st.integers(1, 9999)
grids = st.fixed_dictionaries(
    {
        "layers": st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), min_size=1, max_size=4),
        "construction": st.lists(
            st.sampled_from(["combined", "activation_only", "gradient_only", "no_sae"]), min_size=1, unique=True
        ),
        "clamp_max": st.lists(numbers.map(lambda n: 1 + n / 100), min_size=1, max_size=4, unique=True),
        "alpha": st.lists(numbers.map(lambda n: n / 1000), min_size=1, max_size=4, unique=True),
        "shuffle_decoder": st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(gated=grids, controls=st.sampled_from([[], ["permuted_gate"], ["permuted_gate", "sharpened"]]))
def test_ids_and_experiments_are_one_to_one(gated, controls):
    config = {"datasets": {"a": {}}, "metrics": {}}
    config["experiments"] = {"baselines": ["random", "transmm"], "gated": gated, "controls": controls, "sanity": []}
    found = experiments(config, "a")
    wanted = set()
    for layers, kind, clamp_max, alpha, shuffle in itertools.product(
        {frozenset(layers) for layers in gated["layers"]},
        gated["construction"],
        gated["clamp_max"],
        gated["alpha"],
        gated["shuffle_decoder"],
    ):
        if not shuffle:
            wanted |= {(layers, kind, clamp_max, alpha, False, None)}
        if kind == "combined":
            wanted |= {(layers, kind, clamp_max, alpha, shuffle, None)}
            wanted |= {(layers, kind, clamp_max, alpha, False, c) for c in controls if not shuffle}
    given_back = [
        (frozenset(e["gate"]["layers"]), *list(e["gate"].values())[1:], e["control"])
        for e in found.values()
        if "gate" in e
    ]
    assert len(given_back) == len(set(given_back)) == len(wanted)
    assert set(given_back) == wanted
    assert all(name == name.strip() and not set(name) & set("/ :*{}'\"") for name in found)


@pytest.mark.parametrize("key", ["clamp_max", "alpha"])
def test_numbers_that_differ_late_give_different_ids(key):
    found = ids(changed(f"experiments.gated.{key}", [10, 10.0000001]))
    ungated = 8  # five baselines, three powers
    assert len(found) - ungated == 2 * (len(ids(default())) - ungated)


# ---- values that are no JSON


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("experiments.gated.clamp_max", [math.inf]),
        ("experiments.gated.alpha", [math.nan]),
        ("datasets.elpv.model.train.learning_rate", math.nan),
    ],
)
def test_numbers_must_be_finite(path, value):
    assert path in fault(changed(path, value))


def test_a_date_is_a_fault_like_another():
    assert "datasets.elpv.path" in fault(changed("datasets.elpv.path", datetime.date(2024, 1, 1)))


def test_a_depth_that_is_no_number_is_a_fault():
    assert "depth" in fault(changed("datasets.elpv.model.kwargs.depth", "6"))


def test_an_unknown_key_among_overrides_has_a_clean_place():
    message = fault(changed("datasets.elpv.experiments", {"baseline": ["random"]}))
    assert "datasets.elpv.experiments: unknown key 'baseline' (did you mean 'baselines'?)" in message


# ---- what a model's name tells


@pytest.mark.parametrize(
    ("architecture", "kwargs", "depth"),
    [
        ("vit_base_patch16_224", {}, 12),
        ("vit_large_patch14_clip_224", {}, 24),
        ("deit_tiny_patch16_224", {"depth": 3}, 3),
        ("vit_so400m_patch14_siglip_224", {}, None),
        ("beit_base_patch16_224", {}, None),
    ],
)
def test_the_depth_that_a_name_tells(architecture, kwargs, depth):
    assert known_depth({"architecture": architecture, "kwargs": kwargs}) == depth


def test_layers_beyond_a_depth_that_only_the_name_tells():
    config = changed("datasets.elpv.model", {"architecture": "vit_base_patch16_224"})
    config = changed("datasets.elpv.sae.layers", [1, 2, 15], config)
    assert "layer 15 is beyond the model's depth 12; layers are 0 to 11" in fault(config)


def test_subsets_larger_than_the_image_are_a_fault_of_the_configuration():
    message = fault(changed("metrics.faithfulness_correlation.subset_size", 100))
    assert "subset_size: 100 must be below the 100 patches of an image" in message
    assert "metrics.saco: 101 bins for 100 patches; there must be 2 to 100" in fault(changed("metrics.saco.bins", 101))
    message = fault(changed("datasets.elpv.metrics.pixel_flipping.patches_per_step", 101))
    assert "metrics.pixel_flipping.patches_per_step: 101 is more than the 100 patches of an image" in message
    lone = changed("metrics.saco.patches_per_bin", 100)
    assert "metrics.saco: 1 bins for 100 patches; there must be 2 to 100" in fault(lone)
    check(lone | {"protocol": "thesis"}, SCHEMA)  # whose definition knows a single bin


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0, 0], "seeds: [0, 0] holds something twice"),
        ([], "seeds: [] does not fit; allowed: a list with 1 or more entries"),
        ({"saee": [0, 1]}, "seeds: unknown key 'saee' (did you mean 'sae'?)"),
    ],
)
def test_an_alternative_of_the_right_kind_says_what_is_wrong(value, words):
    assert words in fault(changed("seeds", value))
