"""Names that hold HTML, Markdown, templates or control characters: every page keeps its structure and shows them as text.

A page with a harmless name and the same page with a hostile one must have the same elements with the same attributes.
"""

from __future__ import annotations

import html.parser
import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from hostile import refused
from markdown_it import MarkdownIt
from synthetic_scores import results, write_scores

from fgg.cases import feature_lists
from fgg.cases.feature_pages import Layer, feature_page
from fgg.comparison.__main__ import main as compare
from fgg.errors import FggError
from fgg.jobs.command import command
from fgg.report import html as pages
from fgg.report import results_readme
from fgg.report.figures import style
from fgg.report.pages import configuration_page
from fgg.share.card import Facts, model_card
from fgg.share.command import check_licence
from fgg.share.folder import SharedSae
from fgg.tables import read_table, write_json
from fgg.visible import markdown_code, markdown_plain, visible

__all__ = ["results", "write_scores"]
HARMLESS = "name"
HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "an attribute": '"><img src=x onerror=alert(1)>',
    "an attribute in single quotes": "' onmouseover='alert(1)",
    "the end of a title": "</title><script>alert(1)</script>",
    "the end of a block": "</pre></style></script><svg onload=alert(1)>",
    "an element with an event": "<details open ontoggle=alert(1)>x</details>",
    "a comment": "<!-- x --> --!> x",
    "the end of a section": "]]> x",
    "entities": "&lt;b&gt; &#x3c;script&#x3e;",
    "a template": "{{ 7 * 7 }}{% for x in y %}",
    "a format": "%s %d {0} {name}",
    "a link": "[x](javascript:alert(1))",
    "a reference": "[x][y]\n\n[y]: http://harm.example",
    "a picture": "![x](http://harm.example/x.png)",
    "an address": "<http://harm.example> http://harm.example www.harm.example me@harm.example",
    "code": "`x` ``y`` ```z",
    "a fence": "\n```\n<script>alert(1)</script>",
    "a table": "| a | b |\n|---|---|",
    "a head": "# x",
    "a list": "- x",
    "a numbered list": "1. x",
    "a quote": "> x",
    "a line": "---",
    "emphasis": "**x** _y_ __z__ ~~w~~",
    "a formula": "$x$ $$y$$ \\(z\\)",
    "a backslash": "\\ \\<b\\> x\\",
    "a line break": "x\ny",
    "an escape of the terminal": "\x1b[2J\x1b]0;x\x07",
    "another direction": "a\u202egnp.exe",
    "bytes": "a\udcffb",
}  # fmt: skip


class Structure(html.parser.HTMLParser):
    """The elements of a page with the names of their attributes, and what leads elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = tuple(sorted(name for name, _ in attrs if name != "class"))  # long cells have a class
        self.found.append((tag, names))
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_same(make: Any, hostile: str) -> Structure:
    """The page with the hostile name has the structure of the harmless one, and shows the name."""
    one, other = Structure(make(HARMLESS)), Structure(page := make(hostile))
    assert other.found == one.found
    assert not any(name.startswith("on") for _, names in other.found for name in names)
    assert not any(link.lower().startswith(("javascript", "http")) for link in other.links)
    assert "\x1b" not in page and "\u202e" not in page
    page.encode()  # what is no text cannot be written
    return other


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "bytes"])  # which pandas cannot hold
def test_tables(kind):
    def make(name: str) -> str:
        frame = pd.DataFrame({"experiment": [name, "b"], name: [name, name], "value": [1.0, 2.0]})
        return pages.table_page(frame, name, "about", name, {name: name})

    found = assert_same(make, HOSTILE[kind])
    assert visible(HOSTILE[kind], "\n\t") in found.text


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_configuration(kind):
    def make(name: str) -> str:
        return configuration_page("configuration", {"datasets": {"x": {"path": name}}, "list": [name]})

    assert_same(make, HOSTILE[kind].replace("\udcff", ""))


class FakeAlbum:
    """Images of a split without files."""

    def __init__(self, name: str) -> None:
        self.places = {name: 0}
        self.split = SimpleNamespace(label_names=[name], path=name)

    def __call__(self, image_id: str) -> np.ndarray:
        return np.zeros((16, 16))


def layer_with(name: str) -> Layer:
    features = 3
    table = pd.DataFrame({
        "feature": range(features), "page": True, "score_share": [0.5, 0.3, 0.2], "frequency": 0.5, "active": 5,
        "mean_activation": 1.0, "max_activation": 2.0,
        "class_mean": [np.array([1.0, 2.0])] * features, "class_share": [np.array([0.3, 0.7])] * features,
        "histogram": [np.array([1, 2, 2])] * features, "partner": [np.array([1, 2])] * features,
        "jaccard": [np.array([0.5, 0.1])] * features, "jaccard_by_chance": [np.array([0.5, 0.1])] * features,
    })  # fmt: skip
    about = {
        "grid": [4, 4], "tokens": [10, 10], "hook": name, "architecture": name, "kind": name, "classes": [name, f"{name}2"],
        "images": 4, "split": "train", "explained_images": 4, "explained_split": "test",
    }  # fmt: skip
    prototypes = {0: [{"image_id": name, "patch": 5, "activation": 1.0}]}
    return Layer(0, table, about, prototypes, {0: name, 1: name}, name)


def cases_with(name: str) -> pd.DataFrame:
    return pd.DataFrame({
        "experiment": [name], "layer": 0, "category": name, "rank": 1, "image_id": name, "patch": 5, "feature": 0,
        "direction": name, "change": 0.25, "share": 0.5, "explained_class": name, "picture": f"cases/{name}",
    })  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("template", ["feature", "layer", "cases"])
def test_features(kind, template):
    def make(name: str) -> str:
        layer, cases = layer_with(name), cases_with(name)
        if template == "feature":
            return pages.render("feature", **feature_page(name, layer, 0, cases, (FakeAlbum(name), FakeAlbum(name))))
        if template == "layer":
            values = feature_lists.layer_list(name, layer, {0: 1}, {(0, 0): "data:,"}, [name])
            return pages.render("feature_list", **values, warning=name)
        return pages.render("feature_list", **feature_lists.case_list(name, [layer], cases, [name]))

    hostile = HOSTILE[kind].replace("\udcff", "")
    found = assert_same(make, hostile)
    assert visible(hostile, "\n\t") in found.text
    assert all(link.startswith(("data:", "../", "layer_", "feature_", "index.html")) for link in found.links)


# ---- results/README.md and the card of shared SAEs, as GitHub, the hub and editors show them: with HTML and addresses


def shown(text: str) -> Structure:
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    return Structure(parser.render(text))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, write_scores):
    """The comparison of a grid of two experiments, without the records of what it rests on."""
    folder = tmp_path_factory.mktemp("words")
    settings = write_scores(folder, 12)
    settings["experiments"] = {"toy": {name: settings["experiments"]["toy"][name] for name in ("transmm", "gradcam")}}
    arguments = ["--settings", json.dumps(settings), "--results", str(folder), "--data", str(folder / "data")]
    _records(folder / "data", HARMLESS)
    assert compare([*arguments, "--output", str(folder)]) == 0
    return folder


def _records(data: Any, name: str) -> None:
    record = {
        "architecture": name, "weights": f"models/{name}", "classes": [name, f"{name}2"], "accuracy": {}, "layers": [],
    }  # fmt: skip
    write_json(data / "models/toy/model.json", record, {})
    counts = {
        "source": "image_folder",
        "counts": {"test": {name: 30}},
        "n_skipped": 0,
        "n_unreadable": 0,
        "classes": [name],
    }
    write_json(data / "prepared/toy/dataset.json", counts, {})


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_results_in_words(kind, comparison, tmp_path):
    frame = read_table(comparison / "comparison.parquet").to_pandas()
    hypotheses = frame.iloc[:0].assign(against="", partner="")

    def make(name: str) -> str:
        _records(tmp_path / "data", name)
        own = frame.assign(note=name, reason=frame["reason"].where(frame["reason"] == "", name))
        return "\n".join(results_readme.readme(own, {"hypotheses": hypotheses}, tmp_path / "data", {"toy": "test"}))

    hostile = HOSTILE[kind].replace("\udcff", "")
    one, other = shown(make(HARMLESS)), shown(make(hostile))
    assert other.found == one.found
    assert visible(hostile) in other.text


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_card(kind):
    def make(name: str) -> str:
        metadata = {
            "hook_name": name, "place": name, "kind": name, "dataset": name, "split": name, "seed": name, "tokens_seen": name,
            "normalisation": name, "model": {"architecture": name, "sha256": name},
        }  # fmt: skip
        config = {"architecture": name, "k": name, "d_in": name, "d_sae": name, "metadata": metadata}
        sae = SharedSae(0, config, {name: 1.0, "warnings": [name], "chosen": name}, name, [])
        facts = Facts({"source": name, "licence": name, "citation": name}, {"kwargs": {"x": name}}, "mit")
        return model_card(name, [sae], facts).split("---\n", 2)[2]

    hostile = HOSTILE[kind].replace("\udcff", "")
    one, other = shown(make(HARMLESS)), shown(make(hostile))
    assert other.found == one.found
    assert other.text.count(visible(hostile).replace("\n", " ").strip()[:20]) >= 10


def test_the_front_matter_of_a_card_is_only_data():
    link = "https://x/y'\": [a]"
    sae = SharedSae(0, {"metadata": {}}, {}, "0", [])
    head = model_card("x", [sae], Facts(licence="other", licence_link=link)).split("---\n")[1]
    assert yaml.safe_load(head)["license_link"] == link
    with refused("is no address"):
        check_licence("other", "x\n---\n# head", False)


# ---- pictures, and the terminal


@pytest.mark.filterwarnings("ignore:Glyph")  # letters that the font lacks
@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("an escape of the terminal", "bytes")])
def test_figures_as_svg(kind, tmp_path):
    def make(name: str, number: int) -> list[str]:
        with style.figure(3.0) as (figure, axes):
            axes.set_title(name)
            axes.set_xlabel(name)
            axes.bar([name], [1.0], label=name)
            axes.legend()
            style.save(figure, tmp_path, f"f{number}")
        root = ElementTree.fromstring((tmp_path / f"f{number}.svg").read_text(encoding="utf-8"))
        assert not any(str(key).lower().startswith("on") for part in root.iter() for key in part.attrib)
        return sorted({str(part.tag) for part in root.iter()})

    assert make(HOSTILE[kind], 1) == make(HARMLESS, 0)
    plt.close("all")


@pytest.mark.parametrize("kind", HOSTILE)
def test_messages_do_not_reach_the_terminal(kind, capsys):
    @command
    def fails(argv: Any) -> None:
        raise FggError(f"the image {HOSTILE[kind]} cannot be used")

    assert fails([]) == 1
    said = capsys.readouterr().err
    assert said == f"error: the image {visible(HOSTILE[kind], chr(10))} cannot be used\n"
    assert not set(said) & set("\x1b\x07\u202e\udcff")


@pytest.mark.parametrize("kind", HOSTILE)
def test_markdown(kind):
    for make in (markdown_plain, markdown_code):
        for line in ("x {}", "- {}", "| a |\n|---|\n| {} |"):
            cell = make(HOSTILE[kind].replace("\udcff", ""))
            cell = cell.replace("|", "\\|") if line.startswith("|") else cell
            one, other = shown(line.format(make(HARMLESS))), shown(line.format(cell))
            assert other.found == one.found
            assert (
                other.text.strip()
                == shown(line.format("HERE"))
                .text.strip()
                .replace("HERE", visible(HOSTILE[kind].replace("\udcff", "")).strip())
                or make is markdown_code
            )
