"""Random mutations of the default configuration: accepted, or refused in words that name the key; never a traceback."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fgg.errors import FggError
from fgg.experiments import experiments
from fgg.pipeline.configuration import check, known_depth
from fgg.pipeline.job_settings import as_json

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
DEFAULT["datasets"] = {"elpv": DEFAULT["datasets"]["elpv"]}  # the others are made of the same keys
FULL = check(DEFAULT, SCHEMA)
JARGON = ("is not of type", "is a required property", "given schemas", "does not match", "is too short", "validat")


def places(value, way=()):
    """Every place in a configuration: its keys and positions from the top."""
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from places(below, (*way, key))


PLACES = sorted(places(FULL), key=str)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "1e-3", "auto", "train", "{layer}", "{", "{0}", "%s", "*", "../x", "a/b", "\x00", "\ud800", "1"]
    ),
    st.dates(),
    st.binary(max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers() | st.dates(), inner)
    ),
    max_leaves=6,
)


def parent(config, way):
    for key in way[:-1]:
        config = config[key]
    return config


def spelt(way):
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in way)
    return text.removeprefix(".")


def verdict(config):
    """The message of a refusal; None where the configuration passes, and the workflow can be planned from it."""
    try:
        checked = check(config, SCHEMA)
        for name in checked["run"]:
            as_json(experiments(checked, name))
            known_depth(checked["datasets"][name]["model"])
    except FggError as error:
        return str(error)
    return None


def check_message(message):
    first, *lines = message.split("\n")
    assert first == "the configuration has faults:" and lines
    assert all(line.startswith("  ") and ": " in line for line in lines), message
    assert not [word for word in JARGON if word in message.lower()], message


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PLACES), VALUES)
@example(("experiments", "gated", "clamp_max", 0), 10**400)
@example(("datasets", "elpv", "model", "kwargs"), {"depth": []})
@example(("run", 0), {})
@example(("seed",), "1e-3")
@example(("baseline",), {"\n": 10**400})
def test_any_value_at_any_place(way, value):
    config = copy.deepcopy(FULL)
    parent(config, way)[way[-1]] = value
    message = verdict(config)
    if message is not None:
        check_message(message)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(["delete", "rename", "swap"]), VALUES), max_size=3))
def test_any_mutilation(steps):
    config = copy.deepcopy(DEFAULT)
    for way, kind, value in steps:
        try:
            place = parent(config, way)
            old = place.pop(way[-1]) if kind != "swap" else place[way[-1]]
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier step took it away
        if kind == "rename" and isinstance(place, dict):
            place[f"{way[-1]}x"] = old
        elif kind == "swap":
            place[way[-1]] = [old, value]
    message = verdict(config)
    if message is not None:
        check_message(message)


LEAVES = [way for way in PLACES if not isinstance(parent(FULL, way)[way[-1]], dict | list) and "kwargs" not in way]


@pytest.mark.parametrize("way", LEAVES, ids=spelt)
def test_a_value_of_no_allowed_kind_is_told_with_its_key_and_what_is_allowed(way):
    """An empty mapping fits no leaf; where a mapping is allowed, it lacks a key or does not belong here."""
    config = copy.deepcopy(FULL)
    parent(config, way)[way[-1]] = {}
    message = verdict(config)
    assert message is not None
    check_message(message)
    lines = [line for line in message.splitlines() if line.startswith(f"  {spelt(way)}")]
    assert lines
    for line in lines:
        assert (
            "is missing" in line
            or "or leave the block out" in line
            or ("{}" in line and ("allowed: " in line or "choose from: " in line))
        )


@pytest.mark.parametrize("config", [[], None, 3, "text", {}, {"run": None}])
def test_a_configuration_that_is_none(config):
    message = verdict(config)
    check_message(message)
    assert "run" in message or "top level" in message
