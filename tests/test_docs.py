"""The documentation's site: it builds strictly, asks no other host for anything, and lists all that there is."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from browser import opened

import fgg
from fgg.attribution.registry import methods
from fgg.cli import LISTS
from fgg.comparison import columns as tables
from fgg.comparison import costs, pooled, sae_table, sanity, summary
from fgg.experiments import experiments
from fgg.faithfulness.registry import metrics
from fgg.features import summary as deletion
from fgg.pipeline.configuration import check
from fgg.pipeline.metric_rules import metric_rules

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
TRIED = (DOCS / "coming-from.md").read_text(encoding="utf-8")
TABLES = ("COMPARISON", "HYPOTHESES", "DECOMPOSITION", "AGREEMENT", "JUDGED")
SELECTION = ("rule", "n_candidates", "validation_effect_size", "mean_effect_size", "n_pairs")  # beside those of summary
PIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==\d[\w.]*")
LIBRARIES = {"captum": "captum", "pytorch-grad-cam": "pytorch_grad_cam", "Quantus": "quantus", "saev": "saev"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for name in ("mkdocs", "material", "mkdocstrings", "griffe"):
        pytest.importorskip(name, reason=f"no {name}, which builds the site; pip install -r requirements-docs.txt")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert said.returncode == 0, said.stderr[-4000:]
    return folder


def page(site, name):
    return (site / f"{name}.html").read_text(encoding="utf-8")


def ids(text):
    return set(re.findall(r'\bid="([^"]+)"', text))


# ---- the site


def test_every_page_is_there_and_asks_no_other_host(site):
    pages = sorted(site.rglob("*.html"))
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.stem for path in pages}
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?(https?:)?//[^>]*>")
    for path in pages:
        assert not loaded.search(path.read_text(encoding="utf-8")), path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_no_page_names_a_folder_of_this_machine(site):
    for path in site.rglob("*.html"):
        assert str(ROOT) not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", ["index", "tutorial", "reference/configuration", "reference/api/attribution"])
def test_a_page_in_the_browser(site, name):
    """It loads nothing from elsewhere, says no error, and is not wider than the window of a telephone."""
    with opened(site / f"{name}.html") as (tab, faults):
        assert tab.locator("h1").first.is_visible()
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert not faults


# ---- the reference


def keys(rule, path=""):
    """The paths of all keys of the schema, by a walk of its own."""
    if "$ref" in rule:
        rule = {**SCHEMA["$defs"][rule["$ref"].rsplit("/", 1)[1]], **rule}
    if rule.get("registry") == "metrics":
        rule = {**rule, **metric_rules()}
    for key, own in rule.get("properties", {}).items():
        place = f"{path}.{key}".lstrip(".")
        yield place
        yield from keys(own, place)
    for each in (*rule.get("anyOf", ()), *([rule["items"]] if "items" in rule else ())):
        yield from keys(each, path)
    if isinstance(rule.get("additionalProperties"), dict):
        yield from keys(rule["additionalProperties"], f"{path}.NAME")


def test_every_key_of_the_configuration_is_explained(site):
    text = page(site, "reference/configuration")
    wanted = set(keys(SCHEMA))
    assert {"seed", "datasets.NAME.model.train.epochs", "metrics.saco.bins", "experiments.baselines.choose"} <= wanted
    assert not {f"key-{path}" for path in wanted} - ids(text)
    rows = re.findall(r'<tr>\s*<td><a id="([^"]+)">.*?</tr>', text, flags=re.S)
    assert len(rows) == len(set(rows)), "a key stands twice"
    empty = re.findall(r'<td><a id="([^"]+)"></a><code>[^<]*</code></td>(?:\s*<td>.*?</td>){2}\s*<td></td>', text)
    assert not empty, "no meaning"


@pytest.mark.parametrize(
    ("name", "entries"), [("methods", methods()), ("metrics", metrics())], ids=["methods", "metrics"]
)
def test_every_entry_is_explained(site, name, entries):
    text = page(site, f"reference/{name}")
    formulas = yaml.safe_load((DOCS / "_generate/formulas.yaml").read_text(encoding="utf-8"))[name]
    assert set(formulas) == set(entries), "every entry has a formula, and every formula an entry"
    for own, entry in entries.items():
        part = text.partition(f'<h2 id="{own}">')[2].partition("<h2")[0]
        for word in (entry.title, *(entry.options if name == "methods" else (*entry.settings, *entry.columns))):
            assert word in part, (own, word)
        assert all(
            f"<em>{fact}:</em>" in part for fact in ("source", "assumes", "cost")[: 3 if entry.assumes else 1]
        ), own


def test_every_public_name_is_explained(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference/api").glob("*.html"))
    text = re.sub(r"<[^>]+>", "", text).replace("\u200b", "")
    names = {*fgg.__all__} - {"plot"} | {f"plot.{name}" for name in fgg.plot.__all__}
    assert not {name for name in names if not re.search(rf"(?m)^\s*fgg\.{re.escape(name)}\b", text)}
    for name in ("Raises", "Returns", "Parameters", "float64 (B,)", "int64 (B,)"):
        assert name in text, name


def test_every_command_shows_its_help(site):
    text = page(site, "reference/commands")
    for name in ("run", "explain", "share", "bench", *LISTS):
        part = re.sub(r"<[^>]+>", "", text.partition(f'<h2 id="fgg-{name}">')[2].partition("<h2")[0])
        assert (f"usage: fgg {name}" if name != "bench" else "usage: python -m fgg.bench") in part, name


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        *((table.lower(), getattr(tables, table).names) for table in TABLES),
        ("summary", summary.COLUMNS),
        ("methods", (*costs.ABOUT, "title")),
        ("sanity", sanity.COLUMNS),
        ("pooled", pooled.COLUMNS),
        ("sae_quality", sae_table.COLUMNS),
        ("feature_deletion", deletion.COLUMNS),
        ("selection", SELECTION),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_column_of_a_table_is_explained(name, columns):
    pages = ("tables.md", "saes.md") if name == "sae_quality" else ("tables.md",)
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in pages)
    assert columns and not set(columns) - set(re.findall(r"`([^`\n]+)`", text))


def test_every_picture_is_in_the_gallery():
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert not [path.name for path in (DOCS / "images").iterdir() if f"(images/{path.name})" not in text]


# ---- what pages say is tried


def blocks(heading):
    part = TRIED.partition(f"\n## {heading}\n")[2].partition("\n## ")[0] if heading else TRIED.partition("\n## ")[0]
    return "".join(re.findall(r"(?ms)^```python\n(.*?)^```$", part))


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_calls_of_another_library(name):
    pytest.importorskip(LIBRARIES[name], reason=f"no {name}; pip install -r requirements-peers.txt")
    code = blocks(None) + blocks(name)
    assert "assert" in code.partition("\nimport fgg\n")[2] and len(blocks(name)) > 200
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, f"coming-from.md, {name}", "exec"), {"__name__": "page"})


def merged(below, above):
    """Nested tables merged as Snakemake merges files of settings."""
    both = {
        key: merged(below[key], own) if isinstance(own, dict) and key in below else own for key, own in above.items()
    }
    return {**below, **both}


def test_the_settings_of_the_tutorial_are_allowed():
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    first, line, mine = map(yaml.safe_load, re.findall(r"(?ms)^```yaml\n(.*?)^```$", text))
    below = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    changed = {**first, "experiments": {**first["experiments"], **line}}
    found = [check(merged(below, own), ROOT / "workflow/schemas/config.schema.yaml") for own in (first, changed, mine)]
    gates = [[name for name in experiments(own, own["run"][0]) if name.startswith("gated")] for own in found]
    assert "gated-l1.2-combined-c10-a1-values" in gates[0] and len(gates[1]) == 2 * len(gates[0])
    assert set(gates[0]) < set(gates[1]), "the changed line keeps the maps that there are"


def test_the_methods_that_the_page_names_exist():
    named = set(re.findall(r'method="(\w+)"', TRIED))
    assert len(named) >= 7 and named <= set(methods())
    assert {f'"{name}"' for name in ("relevance_mass", "relevance_rank", "pointing_game")} <= set(
        re.findall(r'"\w+"', TRIED)
    )


def test_the_site_s_requirements_are_pinned_and_are_no_others():
    own, others = (
        {
            line
            for name in names
            for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#")
        }
        for names in (["requirements-docs.txt"], ["requirements.txt", "requirements-dev.txt", "requirements-peers.txt"])
    )
    assert own and all(PIN.fullmatch(line) for line in own)
    assert not {line.split("==")[0] for line in own} & {line.split("==")[0] for line in others}
