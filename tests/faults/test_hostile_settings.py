"""JSON and YAML that are made to do harm, in every place where fgg reads them: one message, bounded memory and time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import at_most, refused
from safetensors.torch import save_file
from weight_places import FEATURES, PRISMA, WIDTH, state

from fgg.data.settings_files import parse_settings
from fgg.data.sources.registry import open_source
from fgg.errors import FggError
from fgg.jobs.command import json_object
from fgg.models.checkpoints import read
from fgg.pipeline.before_snakemake import check_configuration
from fgg.pipeline.config_messages import refuse, unfit
from fgg.saes.sae import load_sae
from fgg.tables import read_json

NESTED = 100_000


BENCH = {"encoder.weight": state()["W_dec"], "encoder.bias": state()["b_enc"], "decoder.weight": state()["W_dec"]}
LENS = {
    "architecture": "standard", "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "metadata": {},
    "apply_b_dec_to_input": True, "normalize_activations": "none",
}  # fmt: skip
SAEV = {"schema": 5, "cls": "Relu", "cfg": {"activation": {"cls": "Relu"}}}
LEARNING = {"trainer": {"dict_class": "AutoEncoderNew", "activation_dim": WIDTH, "dict_size": FEATURES}}
LINEAR = {"encoder.weight": state()["W_dec"], "encoder.bias": state()["b_enc"], "decoder.weight": state()["W_enc"]}
LINEAR |= {"decoder.bias": state()["b_dec"]}


def lens(folder: Path, text: str) -> Any:
    (folder / "cfg.json").write_text(text)
    save_file(state(), folder / "sae_weights.safetensors")
    return load_sae(folder)


def beside(weights: str, content: Any, name: str = "config.json") -> Callable[[Path, str], Any]:
    def load(folder: Path, text: str) -> Any:
        torch.save(content, folder / weights)
        (folder / name).write_text(text)
        return load_sae(folder)

    return load


def saev(folder: Path, text: str) -> Any:
    torch.save(state(), folder / "tensors")
    (folder / "sae.pt").write_bytes(text.replace("\n", " ").encode() + b"\n" + (folder / "tensors").read_bytes())
    return load_sae(folder / "sae.pt")


def scaler(folder: Path, text: str) -> Any:
    (folder / "activation_scaler.json").write_text(text)
    return lens(folder, json.dumps(LENS | {"normalize_activations": "expected_average_only_in"}))


def index(folder: Path, text: str) -> Any:
    (folder / "model.safetensors.index.json").write_text(text)
    return read(folder)


def record(folder: Path, text: str) -> Any:
    (folder / "x.json").write_text(text)
    return read_json(folder / "x.json")


def contents(folder: Path, text: str) -> Any:
    for label in ("HyperKvasir", "b"):
        (folder / label).mkdir()
    (folder / "contents.json").write_text(text)
    lines = [f"{i},a,{name},anatomical-landmarks" for i, name in enumerate(
        ("cecum", "ileum", "retroflex-rectum", "pylorus", "retroflex-stomach", "z-line") * 9)]  # fmt: skip
    (folder / "image-labels.csv").write_text("Video file,Organ,Finding,Classification\n" + "\n".join(lines))
    return open_source({"source": "hyperkvasir", "path": str(folder)})


def argument(folder: Path, text: str) -> Any:
    try:
        return json_object(text)
    except argparse.ArgumentTypeError as error:
        raise FggError(str(error)) from None


# place -> how it is read, and what is right there
PLACES: dict[str, tuple[Callable[[Path, str], Any], dict[str, Any]]] = {
    "cfg.json of sae-lens": (lens, LENS),
    "activation_scaler.json": (scaler, {"scaling_factor": 2.0}),
    "config.json of Prisma": (beside("weights.pt", state()), PRISMA),
    "config.json of dictionary_learning": (beside("ae.pt", LINEAR), LEARNING),
    "config.json of ViSAEBench": (beside("sae.pt", BENCH), {"activation": "topk", "k": 2}),
    "the first line of saev": (saev, SAEV),
    "the index of a checkpoint": (index, {"weight_map": {"a": "x.safetensors"}}),
    "a record of fgg": (record, {"a": 1}),
    "contents.json of a download": (contents, {"revision": "1", "address": "", "citation": "", "licence": "", "tree": ""}),
    "an argument": (argument, {"a": 1}),
}  # fmt: skip


def with_more(good: dict[str, Any], text: str) -> str:
    """The right JSON, with more text in its object."""
    return json.dumps(good)[:-1] + ", " + text + "}"


JSONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "lists within lists": lambda good: with_more(good, '"more": ' + "[" * NESTED + "]" * NESTED),
    "objects within objects": lambda good: with_more(good, '"more": ' + '{"a":' * NESTED + "1" + "}" * NESTED),
    "only brackets": lambda good: "[" * NESTED,
    "a number of 10,000 digits": lambda good: with_more(good, '"more": ' + "9" * 10_000),
    "a key twice": lambda good: with_more(good, '"more": 1, "more": 2'),
    "another key twice": lambda good: with_more(good, json.dumps(good)[1:-1]),
    "a list": lambda good: "[1, 2]",
    "a text": lambda good: '"x"',
    "null": lambda good: "null",
    "nothing": lambda good: "",
    "cut": lambda good: json.dumps(good)[:-2],
    "a comment": lambda good: "/* x */ " + json.dumps(good),
    "zeros": lambda good: "\0" * 1000,
}


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory):
    """sae-lens is imported before memory is measured."""
    lens(tmp_path_factory.mktemp("first"), json.dumps(LENS))


@pytest.mark.parametrize("kind", JSONS)
@pytest.mark.parametrize("place", PLACES)
def test_json(tmp_path, place, kind):
    load, good = PLACES[place]
    with refused(".", 64):
        load(tmp_path, JSONS[kind](good))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("place", ["a record of fgg", "an argument"])
def test_numbers_that_are_not_finite(tmp_path, place, text):
    load, good = PLACES[place]
    with refused("is not a finite number"):
        load(tmp_path, with_more(good, f'"more": [{text}]'))


NUMBERS = [
    "NaN",
    "Infinity",
    "1e999",
    "-1",
    "0",
    "1.5",
    "true",
    "null",
    '"2"',
    "[2]",
    "{}",
    "1" + "0" * 400,
    str(2**62),
]
KEYS = [
    ("cfg.json of sae-lens", "d_in"), ("cfg.json of sae-lens", "d_sae"), ("cfg.json of sae-lens", "architecture"),
    ("cfg.json of sae-lens", "metadata"), ("activation_scaler.json", "scaling_factor"),
    ("config.json of Prisma", "d_in"), ("config.json of Prisma", "hook_point_layer"),
    ("config.json of Prisma", "activation_fn_kwargs"), ("config.json of ViSAEBench", "k"),
    ("config.json of dictionary_learning", "trainer"), ("the first line of saev", "schema"),
    ("the first line of saev", "cfg"), ("the index of a checkpoint", "weight_map"),
]  # fmt: skip
FINE = {
    ("metadata", "null"), ("metadata", "{}"), ("architecture", "null"), ("activation_fn_kwargs", "null"),
    ("activation_fn_kwargs", "{}"), ("hook_point_layer", "0"), ("hook_point_layer", str(2**62)), ("d_in", "null"),
    ("hook_point_layer", "1" + "0" * 400), ("scaling_factor", "1.5"), ("scaling_factor", str(2**62)),
    ("scaling_factor", "null"),
}  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("place", "key"), KEYS)
def test_values_that_do_not_belong(tmp_path, place, key, number):
    """A value of another type or size is refused in one message, or means what it says; no memory is taken for it."""
    load, good = PLACES[place]
    text = json.dumps({**good, key: "HERE"}).replace('"HERE"', number)
    with at_most(64):
        try:
            sae = load(tmp_path, text)
        except FggError as error:
            assert "\n" not in str(error)
        else:
            assert (key, number) in FINE, "this was accepted"
            assert all(tensor.isfinite().all() for tensor in sae.state_dict().values())


def laughs(levels: int, opening: str = "[", closing: str = "]") -> str:
    """Nine references per level: 9^levels values in some lines."""
    lines = ["a0: &a0 x"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {opening}{', '.join([f'*a{level - 1}'] * 9)}{closing}")
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}")
    return "\n".join(lines) + "\n"


YAMLS: dict[str, tuple[str, str]] = {
    "lists of aliases": (laughs(20), "stands for more than"),
    "merged mappings": (merges(20), "stands for more than"),
    "a list that holds itself": ("a: &a [*a]\n", "contains itself"),
    "a mapping that holds itself": ("a: &a {b: *a}\n", "contains itself"),
    "lists within lists": ("a: " + "[" * NESTED + "]" * NESTED, "."),
    "mappings within mappings": ("a: " + "{b: " * NESTED + "}" * NESTED, "."),
    "blocks within blocks": ("".join(" " * i + "a:\n" for i in range(3000)), "."),
    "an object of Python": ("a: !!python/object/apply:os.system ['touch harm']\n", "constructor|tag"),
    "a name of Python": ("a: !!python/name:os.system\n", "constructor|tag"),
    "an unknown tag": ("a: !harm b\n", "constructor|tag"),
    "an unknown alias": ("a: *b\n", "alias"),
    "a list as key": ("? [1, 2]\n: 3\n", "."),
    "a number of 10,000 digits": ("a: " + "9" * 10_000, "."),
    "a date that is none": ("a: 2024-99-99\n", "."),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "line [35]: the key 'a' is there twice"),
    "a key twice, further in": ("a: {x: [{y: 1, 'y': 2}]}\n", "the key 'y' is there twice"),
    "two documents": ("a: 1\n---\nb: 2\n", "."),
    "not closed": ("a: [1\n", "."),
    "control characters": ("a: \x07\n", "."),
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml(tmp_path, kind, monkeypatch):
    text, says = YAMLS[kind]
    monkeypatch.chdir(tmp_path)
    torch.save(BENCH, tmp_path / "sae.pt")
    (tmp_path / "config.yaml").write_text("activation: topk\nk: 2\n" + text)
    with refused(rf"config.yaml is not valid YAML \(.*({says})", 64):
        load_sae(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_aliases_as_libraries_write_them_are_read():
    assert parse_settings("a: &id001 [1, 2]\nb: *id001\n", "YAML") == {"a": [1, 2], "b": [1, 2]}
    assert parse_settings("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", "YAML")["b"] == {"x": 1, "y": 2}
    assert parse_settings("", "YAML") is None


def shared(levels: int, kind: str) -> Any:
    """What a YAML file of aliases is after loading: a few lists that hold each other many times."""
    own: Any = 1
    for _ in range(levels):
        own = [own] * 9 if kind == "list" else {f"k{i}": own for i in range(9)}
    return {"datasets": own}


@pytest.mark.parametrize("kind", ["list", "mapping"])
def test_a_configuration_of_aliases_is_refused_before_it_is_copied(kind):
    with refused("the configuration has faults:\n.*its aliases stand for more than", 16):
        refuse(unfit(shared(30, kind)))


def test_a_configuration_that_contains_itself():
    own: dict[str, Any] = {"datasets": {}}
    own["datasets"]["x"] = own
    with refused("datasets.x.*contains itself|contains itself", 16):
        refuse(unfit(own))


def test_a_configuration_that_is_nested_too_deeply():
    own: Any = 1
    for _ in range(5000):
        own = [own]
    with refused("nested too deeply", 16):
        refuse(unfit({"datasets": own}))


@pytest.mark.parametrize("kind", [*YAMLS, "JSON nested", "JSON list", "JSON twice"])
def test_the_file_of_the_configuration(tmp_path, kind):
    """Snakemake loads it before any rule of fgg can look; it is looked at before that."""
    made = {"JSON nested": '{"a": ' + "[" * NESTED, "JSON list": "[" * NESTED, "JSON twice": '{"a": 1, "a": 2}'}
    (tmp_path / "mine.yaml").write_text(made.get(kind) or YAMLS[kind][0])
    with refused("--configfile .*mine.yaml is (not valid YAML|nested too deeply)", 64, tmp_path):
        check_configuration(tmp_path / "mine.yaml")


def test_a_configuration_of_many_aliases_that_fit(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: &a {x: [1, 2]}\nb: [*a, *a]\nc: {<<: *a, x: 1}\n1: a\n'1': b\n")
    check_configuration(tmp_path / "mine.yaml")
