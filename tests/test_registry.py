"""Registries: what a source states is read without running it, and what cannot be read is refused by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fgg
from fgg import registry
from fgg.attribution.registry import find_method, methods
from fgg.data.sources.registry import sources
from fgg.errors import FggError
from fgg.faithfulness.registry import chosen, find_metric, metrics
from fgg.saes.formats.registry import sae_formats


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function: source -> a module of that source, on Python's path, which must never be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "outside") -> str:
        (tmp_path / f"{name}.py").write_text(f"import never_there\n\n{text}")
        return name

    return write


def test_entries_are_read_without_running_their_module(module):
    module(
        '@fgg.method(title="Mine", citation="Me", needs=["attention"], backward_passes=1)\ndef mine(captured, steps=3):\n    """Mine."""'
    )
    found = find_method("outside:mine")
    assert (found.name, found.title, found.needs, found.backward_passes) == ("mine", "Mine", ("attention",), 1)
    assert found.options == ("steps",) and found.reference == "outside:mine"
    module("@metric(title='M', citation='c', higher_is_better=False, name='other')\ndef mine(relevance): ...", "scores")
    metric = find_metric("scores:mine")
    assert (metric.name, metric.sign, metric.own, metric.reference) == ("other", -1, False, "scores:mine")


def test_a_plain_function_is_an_entry_too(module):
    module('def edges(model, images, target):\n    """Edges count.\n\n    More."""')
    found = find_method("outside:edges")
    assert (found.title, found.citation, found.forward_passes) == ("edges", "Edges count.", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(model): ...", "has no function 'mine'; it has other"),
        ("def mine(model, net): ...", "its parameter net is none of them, and needs a default"),
        ("def mine(model, *, net): ...", "its parameter net is none of them"),
        ("@method(title=T)\ndef mine(model): ...", "its arguments must be plain literals"),
        ("@method(titel='T')\ndef mine(model): ...", "@method knows no titel; it takes name, title"),
        (
            "@method(needs=['saliency'])\ndef mine(model): ...",
            "needs saliency cannot be captured; choose from attention",
        ),
        ("def mine(:", "is not valid Python"),
    ],
)
def test_methods_that_cannot_be_are_refused(module, text, message):
    module(text)
    with pytest.raises(FggError) as error:
        find_method("outside:mine")
    assert message in str(error.value) and "outside" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@metric(range=3)\ndef mine(relevance): ...", "@metric knows no range"),
        (
            "@metric(needs=['drops'])\ndef mine(relevance): ...",
            "needs drops is not there to be had; choose from responses",
        ),
        ("def mine(relevance, k): ...", "its parameter k is none of them"),
    ],
)
def test_metrics_that_cannot_be_are_refused(module, text, message):
    module(text)
    with pytest.raises(FggError, match=message.replace("[", r"\[")):
        find_metric("outside:mine")


def test_modules_that_are_not_there_are_named():
    for name in ("nowhere:f", "fgg.nowhere:f", "numpy.nowhere.f:f"):
        with pytest.raises(FggError, match=f"there is no module '{name[:-2]}'"):
            find_method(name)
    with pytest.raises(FggError, match="method 'lrp' is unknown; choose from"):
        find_method("lrp")
    with pytest.raises(FggError, match="metric 'sako' is unknown; choose from"):
        find_metric("sako")


def test_modules_in_packages_are_found_without_running_the_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pack" / "deep").mkdir(parents=True)
    for place in ("pack", "pack/deep"):
        (tmp_path / place / "__init__.py").write_text("raise RuntimeError('run')")
    (tmp_path / "pack/deep/maps.py").write_text("def f(model): ...")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/maps.py").write_text("def f(model): ...")
    assert registry.source_file("pack.deep.maps") == tmp_path / "pack/deep/maps.py"
    assert registry.source_file("pack.deep") == tmp_path / "pack/deep/__init__.py"
    assert registry.source_file("bare.maps") == tmp_path / "bare/maps.py", "a namespace package"
    assert registry.source_file("numpy.linalg._umath_linalg") is None, "no source"
    assert find_method("pack.deep.maps:f").name == "f"


def test_two_metrics_of_one_name_are_refused(module):
    module("def saco(relevance): ...")
    with pytest.raises(FggError, match="two metrics are named alike"):
        chosen(["saco", "outside:saco"])


def test_every_entry_says_what_it_is():
    assert {"random", "rollout", "gradcam", "tokentm", "transmm"} <= set(methods())
    for entry in methods().values():
        assert entry.title and entry.citation and entry.declaration.load().__doc__, entry.name
        assert entry.forward_passes is not None and entry.backward_passes is not None, entry.name
    assert list(metrics())[:3] == ["saco", "faithfulness_correlation", "pixel_flipping"]
    for entry in metrics().values():
        assert entry.title and entry.citation and entry.definition and entry.assumes and entry.passes, entry.name
        assert entry.quantity and entry.declaration.load().__doc__, entry.name
        assert all(rule.get("description") and "default" in rule for rule in entry.settings.values()), entry.name
    assert set(sources()) == {"elpv", "digits", "image_folder", "imagenet", "hyperkvasir", "covidquex", "planted"}
    assert {own.name for own in sae_formats()} >= {"sae-lens folder", "Prisma checkpoint"}


def test_the_registries_are_public_and_need_no_torch():
    code = "import sys, fgg; print(len(fgg.methods()), len(fgg.metrics()), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(len(methods())), str(len(metrics())), "False"]
    assert (
        fgg.method(title="x", citation="y")(len) is len
        and fgg.metric(title="x", citation="y", higher_is_better=True)(len) is len
    )
