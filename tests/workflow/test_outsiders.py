"""Methods, metrics and maps of somebody else, in the real workflow: one file each, and nothing changes in fgg."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import whole_workflow
import yaml
from pictures import draw

from fgg.tables import matrix, read_table

TINY = Path(__file__).with_name("tiny.yaml")
pytestmark = pytest.mark.dag
METHOD = '''
from toy.weights import WEIGHT

import fgg


@fgg.method(title="Input times gradient", citation="Toy et al.", needs=["input_gradient"], forward_passes=1, backward_passes=1)
def input_times_gradient(images, captured):
    return WEIGHT * images * captured.input_gradient


def undecorated(model, images, target):
    """Bright patches."""
    assert target.shape == (len(images),)
    return images.sum(1)
'''
METRIC = """
import fgg


@fgg.metric(title="Toy metric", citation="Toy et al.", higher_is_better=False, settings={
    "patch": {"description": "Which.", "type": "integer", "minimum": 0, "default": 0},
})
def relevance_of_a_patch(relevance, patch=0):
    return relevance[:, patch]


def plain_metric(model, images, relevance, target):
    return relevance.std(1)
"""


def snakemake(folder: Path, *arguments: str, config: Path, check: bool = True) -> str:
    return whole_workflow.snakemake(folder, "--cores", "2", *arguments, configs=[config], check=check, warm=True)


def planned(folder: Path, config: Path) -> dict[str, int]:
    text = snakemake(folder, "--dry-run", "results/summary.csv", config=config)
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2}


@pytest.fixture(scope="module")
def settings() -> dict:
    """The tiny study without gates and what goes with them."""
    own = yaml.safe_load(TINY.read_text())
    own["experiments"] = {"baselines": ["random", "transmm"], "gated": {"layers": []}}
    own["datasets"]["tiny"]["sae"] = {"layers": []}
    del own["select"], own["cases"]
    return own


@pytest.fixture(scope="module")
def before(tmp_path_factory, settings) -> Path:
    """A folder in which the study has run with this package's methods alone."""
    folder = tmp_path_factory.mktemp("before")
    draw(folder / "pictures")
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "results/summary.csv", config=folder / "mine.yaml")
    return folder


@pytest.fixture(scope="module")
def after(before, tmp_path_factory, settings) -> tuple[Path, Path]:
    """A copy in which other people's functions and maps have been added; and its configuration, in a folder of its own."""
    folder, home = tmp_path_factory.mktemp("after"), tmp_path_factory.mktemp("home")
    shutil.copytree(before, folder, dirs_exist_ok=True)
    (home / "toy").mkdir()
    (home / "toy" / "__init__.py").touch()
    (home / "toy" / "weights.py").write_text("WEIGHT = 1.0\n")
    (home / "toy" / "maps.py").write_text(METHOD)
    (home / "toy" / "scores.py").write_text(METRIC)
    ids = read_table(folder / "results/tiny/attributions/transmm.parquet")["image_id"].to_pylist()
    np.savez(folder / "maps.npz", image_id=np.array(ids), relevance=np.random.default_rng(0).random((len(ids), 32, 32)))
    own = settings | {
        "experiments": {
            "baselines": ["random", "transmm", "toy.maps:input_times_gradient", "toy.maps:undecorated"],
            "external": {"given": "maps.npz"},
            "gated": {"layers": []},
        },
        "metrics": settings["metrics"]
        | {"toy.scores:relevance_of_a_patch": {"patch": 3}, "toy.scores:plain_metric": {}, "pixel_flipping": None},
    }
    config = home / "mine.yaml"
    config.write_text(yaml.safe_dump(own))
    plan = planned(folder, config)
    assert "model" not in plan and "responses" not in plan
    assert plan["attribution"] == 3, "the maps that are there stay"
    assert plan["foreign_metric"] == 2 * 5
    snakemake(folder, "results/summary.csv", config=config)
    return folder, config


def test_they_are_in_the_summary_and_have_figures(after):
    folder, _ = after
    summary = pd.read_csv(folder / "results/summary.csv")
    assert set(summary["experiment"]) == {"random", "transmm", "input_times_gradient", "undecorated", "given"}
    assert set(summary["metric"]) == {
        *("saco", "faithfulness_correlation", "srg"),
        "relevance_of_a_patch",
        "plain_metric",
    }
    summary = summary[summary["stratum"] == "all"]
    assert len(summary) == 5 * (3 * 2 + 2) and summary["mean"].notna().all(), "own metrics with two fills each"
    toy = summary[summary["metric"] == "relevance_of_a_patch"].set_index("experiment")
    assert not toy["higher_is_better"].any()
    maps = read_table(folder / "results/tiny/attributions/input_times_gradient.parquet")
    assert toy.loc["input_times_gradient", "mean"] == pytest.approx(matrix(maps, "relevance")[:, 3].mean(), rel=1e-6)
    assert (folder / "results/figures/tiny_relevance_of_a_patch.svg").is_file()
    drawn = (folder / "results/figures/tiny_saco.svg").read_text()
    assert "Input times gradient" in drawn and "undecorated" in drawn and "given" in drawn
    assert (
        "Toy metric" in (folder / "results/figures/tiny_hypotheses.svg").read_text()
        or "no hypothesis" in (folder / "results/figures/tiny_hypotheses.svg").read_text()
    )
    assert "by Toy metric: `" in (folder / "results/README.md").read_text()
    assert "relevance_of_a_patch" in (folder / "results/summary.html").read_text()


def test_given_maps_are_summed_over_patches(after):
    folder, _ = after
    with np.load(folder / "maps.npz") as arrays:
        pixels = arrays["relevance"].astype(np.float32)
    expected = np.array(
        [[[image[r : r + 8, c : c + 8].sum() for c in range(0, 32, 8)] for r in range(0, 32, 8)] for image in pixels]
    ).reshape(len(pixels), 16)
    found = matrix(read_table(folder / "results/tiny/attributions/given.parquet"), "relevance")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_report_has_them(after):
    folder, config = after
    snakemake(folder, "results/summary.csv", "--report", "report.html", config=config)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "results/figures/tiny_relevance_of_a_patch.svg" in text and "Toy metric (lower is better)" in text


def test_only_what_rests_on_a_changed_source_runs_again(after):
    folder, config = after
    assert planned(folder, config) == {}
    last = {"comparison": 1, "figures": 1, "readme": 1, "pages": 1, "report_page": 1, "manifest": 1, "summary": 1}
    scores, weights = config.parent / "toy" / "scores.py", config.parent / "toy" / "weights.py"
    text = scores.read_text()
    scores.write_text(text + "\n# a comment\n")
    assert planned(folder, config) == {}
    scores.write_text(text.replace("relevance.std(1)", "relevance.var(1)"))
    assert planned(folder, config) == {"foreign_metric": 10, **last}
    scores.write_text(text)
    weights.write_text("WEIGHT = 2.0\n")
    plan = planned(folder, config)
    # Both methods are in the module that imports the weights.
    assert plan == {"attribution": 2, "faithfulness": 2, "foreign_metric": 4, **last}
    weights.write_text("WEIGHT = 1.0\n")
    (folder / "maps.npz").rename(folder / "away.npz")
    said = snakemake(folder, "--dry-run", "results/summary.csv", config=config, check=False)
    assert "experiments.external.given: maps.npz does not exist" in said and "Traceback" not in said
    (folder / "away.npz").rename(folder / "maps.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"baselines": ["transmm", "toy.maps:inputs"]},
            "has no function 'inputs'; it has input_times_gradient, undecorated",
        ),
        (
            {"baselines": ["transmm", "toys.maps:f"]},
            "there is no module 'toys.maps' in the working folder or on Python's path",
        ),
        ({"baselines": ["transmm", "toy.maps.f"]}, "'toy.maps.f' is not allowed; choose from: "),
        ({"baselines": ["transmm"], "external": {"transmm": "maps.npz"}}, "the name 'transmm' is taken"),
    ],
)
def test_what_cannot_be_found_is_told_before_any_job_runs(after, settings, tmp_path, change, message):
    folder, config = after
    own = config.parent / "wrong.yaml"
    own.write_text(yaml.safe_dump(settings | {"experiments": {"gated": {"layers": []}, **change}}))
    said = snakemake(folder, "--dry-run", "results/summary.csv", config=own, check=False)
    assert message in said and "Traceback" not in said, said
