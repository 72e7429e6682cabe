"""The real workflow in miniature, run as a user runs it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import one_process
import pandas as pd
import pyarrow.parquet as pq
import pytest
import whole_workflow
import yaml
from browser import opened
from pictures import draw
from warm_python import warmed

from fgg.faithfulness.registry import chosen, defaults
from fgg.report.contents import figures, pages

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny.yaml")
METRICS = chosen(defaults())
PAGES = {"feature_statistics": 1, "feature_pages": 1}
FILLS = ("mean", "removal")
pytestmark = pytest.mark.dag


def snakemake(folder: Path, *arguments: str, config: Path = TINY, check: bool = True, code: Path = ROOT) -> str:
    """Run the workflow in a folder; its output as text."""
    return whole_workflow.snakemake(
        folder, "--cores", "2", *arguments, configs=[config], code=code, check=check, warm=True
    )


def planned(folder: Path, config: Path = TINY, code: Path = ROOT) -> dict[str, int]:
    """What a dry run would run: rule -> jobs."""
    text = snakemake(folder, "--dry-run", "results/summary.csv", config=config, code=code)
    if "Nothing to be done" in text:
        return {}
    table = text.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {words[0]: int(words[1]) for line in table if len(words := line.split()) == 2}


def changed(tmp_path: Path, **keys) -> Path:
    """The tiny configuration with other values: a__b=value sets a: {b: value}."""
    settings = yaml.safe_load(TINY.read_text())
    for path, value in keys.items():
        *parents, last = path.split("__")
        place = settings
        for parent in parents:
            place = place[parent]
        place[last] = value
    target = tmp_path / "changed.yaml"
    target.write_text(yaml.safe_dump(settings))
    return target


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder in which the tiny workflow has run."""
    folder = tmp_path_factory.mktemp("dag")
    draw(folder / "pictures")
    snakemake(folder, "results/summary.csv")
    return folder


def test_the_tables_are_there_and_hold_what_the_contract_says(finished):
    summary = pd.read_csv(finished / "results/summary.csv", dtype={"layers": str})
    first = [
        "dataset",
        "experiment",
        "method",
        "layers",
        "construction",
        "clamp_max",
        "alpha",
        "shuffle_decoder",
        "control",
        "metric",
        "higher_is_better",
        "n",
        "mean",
        "sem",
        "baseline_mean",
        "difference",
        "improvement_pct",
        "ci_low",
        "ci_high",
        "effect_size",
        "p_value",
        "p_adjusted",
        "significant",
        "protocol",
        "precision",
    ]
    assert list(summary.columns[: len(first)]) == first
    experiments = {
        "random",
        "transmm",
        "gated-l1-combined-c10-a1",
        "gated-l1-combined-c10-a1-permuted",
        "gated-l1-combined-c10-a1-sharpened",
        "gated-l1-combined-c10-a1-values",
        "gated-l1-combined-c10-a1-order",
        "gated-l1-combined-c10-a1-shuffled",
        "gated-l1-no_sae-c10-a1",
        "transmm-p2",
        "transmm-randomized-model",
        "gated-l1-combined-c10-a1-randomized-model",
        "gated-l1-combined-c10-a1-randomized-sae",
    }
    assert set(summary["experiment"]) == experiments
    assert len(summary) == len(METRICS) * len(FILLS) * 2 * len(experiments)
    assert (summary.loc[summary["stratum"] == "all", "n"] == 10).all()
    assert set(summary["fill"]) == set(FILLS)
    for name in experiments:
        attributions = pq.read_table(finished / f"results/tiny/attributions/{name}.parquet")
        assert attributions.column_names == ["image_id", "label", "predicted", "confidence", "target", "relevance"]
        assert attributions.schema.field("relevance").type.list_size == 16
        assert json.loads(attributions.schema.metadata[b"fgg"])["schema"] == 1
        scores = pq.read_table(finished / f"results/tiny/faithfulness/{name}.parquet")
        assert scores["image_id"] == attributions["image_id"]
    gates = pq.read_table(finished / "results/tiny/gates/gated-l1-combined-c10-a1.parquet")
    assert gates.column_names == ["image_id", "layer", "score", "gate"]
    assert gates.num_rows == 10
    assert not (finished / "results/tiny/gates/transmm.parquet").exists()


def test_models_saes_and_figures_are_there(finished):
    record = json.loads((finished / "data/models/tiny/model.json").read_text())
    assert [layer["status"] for layer in record["layers"]] == ["ok", "ok", "cancelled", "zero"]
    assert set(record["accuracy"]) == {"train", "val", "test"}
    measured = json.loads((finished / "data/saes/tiny/layer_1/metrics.json").read_text())
    assert measured["l0"] <= 4
    for figure in figures(METRICS, powers=True, deletion=True):
        for suffix in ("png", "svg"):
            assert (finished / f"results/figures/tiny_{figure}.{suffix}").stat().st_size > 5000
    sanity = pd.read_csv(finished / "results/sanity.csv")
    assert len(sanity) == 3
    assert sanity["spearman"].between(-1, 1).all()
    selection = pd.read_csv(finished / "results/selection.csv")
    assert set(selection["experiment"]) == {"gated-l1-combined-c10-a1"}
    hypotheses = pd.read_csv(finished / "results/hypotheses.csv")
    assert set(hypotheses["against"]) == {
        *("transmm", "shuffled", "permuted", "sharpened", "values", "order", "no_sae", "power")
    }


def test_the_case_studies_are_there(finished):
    folder = finished / "results/tiny/cases/gated-l1-combined-c10-a1"
    cases = pd.read_csv(folder / "cases.csv")
    assert sorted(cases["category"]) == ["degraded"] * 2 + ["improved"] * 2 + ["random"] * 2
    assert set(cases["layer"]) == {1}
    assert cases["image_id"].nunique() == 3
    explained = pq.read_table(finished / "results/tiny/attributions/transmm.parquet")["image_id"].to_pylist()
    assert set(cases["image_id"]) <= set(explained)
    prototypes = pq.read_table(finished / "results/tiny/prototypes/layer_1.parquet")
    assert not set(prototypes["image_id"].to_pylist()) & set(explained)
    for category in ("improved", "degraded", "random"):
        assert len(list((folder / "layer_1" / category).glob("*.png"))) == 1
    assert json.loads((folder / "cases.json").read_text())["n_images"] == 10


def test_a_second_run_has_nothing_to_do(finished):
    assert planned(finished) == {}


def test_a_changed_alpha_reruns_that_experiment_and_the_comparison(finished, tmp_path):
    # Another alpha is another experiment: only its own jobs are new. The controls and checks of a gate go with it.
    plan = planned(finished, changed(tmp_path, experiments__gated__alpha=[2]))
    assert plan == {
        "gated_attribution": 6,  # combined, shuffled, permuted, no_sae, and two randomised
        "attribution": 3,  # sharpened, and the two that lay values in another order
        "faithfulness": 9,
        "validation_gated_attribution": 1,
        "validation_faithfulness": 1,
        "cases": 1,
        **PAGES,
        "comparison": 1,
        "figures": 1,
        "sanity": 1,
        "selection": 1,
        "readme": 1,
        "pages": 1,
        "report_page": 1,
        "manifest": 1,
        "summary": 1,
    }


def test_an_added_experiment_adds_its_own_jobs_only(finished, tmp_path):
    plan = planned(
        finished, changed(tmp_path, experiments__baselines=["random", "transmm", "rollout"], experiments__sanity=[])
    )
    last = {
        "comparison": 1,
        "figures": 1,
        "selection": 1,
        "readme": 1,
        "pages": 1,
        "report_page": 1,
        "manifest": 1,
        "summary": 1,
    }
    assert plan == {"attribution": 1, "faithfulness": 1, **last}


def test_a_changed_metric_reruns_no_attribution(finished, tmp_path):
    plan = planned(finished, changed(tmp_path, metrics__pixel_flipping__patches_per_step=4))
    assert "attribution" not in plan
    assert "responses" not in plan
    assert plan["faithfulness"] == 13


def test_a_setting_of_the_cases_reruns_only_these(finished, tmp_path):
    last = {"pages": 1, "report_page": 1, "manifest": 1, "summary": 1}  # a page shows the configuration
    assert planned(finished, changed(tmp_path, cases__patches=1)) == {"cases": 1, **PAGES, **last}
    assert planned(finished, changed(tmp_path, cases__prototypes=1)) == {"prototypes": 1, "cases": 1, **PAGES, **last}
    assert planned(finished, changed(tmp_path, cases__pages=1)) == {**PAGES, **last}
    assert planned(finished, changed(tmp_path, cases__enabled=False)) == last
    named = changed(tmp_path, cases__experiments=["gated-l1-combined-c10-a1-shuffled"])
    assert planned(finished, named) == {"cases": 1, **PAGES, **last}


def test_a_changed_name_of_a_feature_redraws_the_pages_only(finished):
    names = finished / "feature_names.csv"
    names.write_text("dataset,layer,feature,name\nother,1,2,x\n")
    try:
        assert planned(finished) == {}, "a name of another dataset"
        names.write_text("dataset,layer,feature,name\ntiny,1,2,x\n")
        assert planned(finished) == {"feature_pages": 1, "report_page": 1, "manifest": 1, "summary": 1}
    finally:
        names.unlink()


def test_the_pages_of_features_are_there(finished):
    folder = finished / "results/tiny/features"
    cases = pd.read_csv(finished / "results/tiny/cases/gated-l1-combined-c10-a1/cases.csv")
    for feature in cases["feature"].dropna().astype(int):
        assert (folder / f"layer_1/feature_{feature}.html").is_file()
    assert len(list((folder / "layer_1").glob("feature_*.html"))) >= 12
    assert "layer_1/index.html" in (folder / "index.html").read_text(encoding="utf-8")


def test_shards_are_spread_after_model_and_sae(finished, tmp_path):
    touched = planned(finished, changed(tmp_path, shards=2))
    assert not {"prepare", "model", "sae"} & set(touched)
    assert touched["responses"] == 2 and touched["faithfulness"] == 26 and touched["merge"] > 10


def test_the_same_setting_spelt_otherwise_reruns_nothing(finished, tmp_path):
    config = changed(tmp_path, experiments__gated__clamp_max=[10.0], experiments__gated__alpha=[1.0])
    assert planned(finished, config) == {}


def test_an_edited_module_reruns_what_rests_on_it(finished, tmp_path):
    """On a copy of the code: the metric's module touches scores, not attributions or models."""
    code = tmp_path / "code"
    shutil.copytree(
        ROOT, code, ignore=shutil.ignore_patterns(".*", "results", "data", "logs", "benchmarks", "__pycache__")
    )
    shutil.copytree(ROOT / "fgg" / "data", code / "fgg" / "data", dirs_exist_ok=True)

    module = code / "fgg" / "faithfulness" / "settings_checks.py"
    module.write_text("# a comment\n\n" + module.read_text())
    assert planned(finished, code=code) == {}
    module.write_text(module.read_text().replace("PATCHES_PER_BIN = 4", "PATCHES_PER_BIN = 5"))
    touched = planned(finished, code=code)
    assert touched["faithfulness"] == 13
    assert not {"prepare", "model", "sae", "attribution", "gated_attribution", "responses"} & set(touched)


def test_from_scratch_again_without_the_workflow_gives_the_same_bytes(finished, tmp_path):
    """Images, model, SAE, attributions, gates and scores, by one process with one thread."""
    (tmp_path / "pictures").symlink_to(finished / "pictures")
    names = [
        f"results/tiny/faithfulness/gated-l1-combined-c10-a1{suffix}.parquet"
        for suffix in ("", "-permuted", "-sharpened")
    ]
    names.append("results/tiny/attributions/transmm.parquet")
    one_process.run(
        one_process.commands(snakemake(tmp_path, *names, "--dry-run", "--printshellcmds")).values(), tmp_path
    )
    names += [
        "data/prepared/tiny/train.parquet",
        "data/models/tiny/model.safetensors",
        "data/models/tiny/model.json",
        "data/saes/tiny/layer_1/sae_weights.safetensors",
        "results/tiny/gates/gated-l1-combined-c10-a1.parquet",
        "results/tiny/responses.parquet",
    ]
    for name in names:
        first, second = ((folder / name).read_bytes() for folder in (finished, tmp_path))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest(), name


@pytest.mark.parametrize("shards", [1, 2])
def test_the_plan_names_the_jobs_as_the_rules_do(tmp_path, monkeypatch, shards):
    """Jobs compute for the plan's jobs under the keys that these then look for."""
    from snakemake.utils import update_config

    from fgg.pipeline.commands import plan
    from fgg.pipeline.inputs import Inputs
    from fgg.pipeline.study import Study

    draw(tmp_path / "pictures")
    own = changed(tmp_path, shards=shards)
    said = snakemake(tmp_path, "results/summary.csv", "--dry-run", "--printshellcmds", config=own)
    commands = one_process.commands(said).values()
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    update_config(config, yaml.safe_load(own.read_text()))
    monkeypatch.chdir(tmp_path)
    study = Study(config)
    for stage, jobs in plan(study, Inputs(study)).items():
        asked = sorted(arguments for module, *arguments in commands if module == f"fgg.{stage}")
        assert len(asked) == shards * 15 and sorted(jobs) == asked


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        (
            {
                "datasets__tiny__modle": 1,
                "experiments__baselines": ["transm"],
                "experiments__gated__construction": ["combine"],
            },
            [
                "datasets.tiny: unknown key 'modle' (did you mean 'model'?)",
                "'transm' is not allowed (did you mean 'transmm'?)",
                "did you mean 'combined'?",
            ],
        ),
        (
            {"run": ["tiny", "tinny"], "experiments__gated__layers": [[9]]},
            [
                "run: dataset 'tinny' is not defined (did you mean 'tiny'?)",
                "layer 9 is beyond the model's depth 4",
            ],
        ),
        (
            {"experiments__baselines": [], "experiments__gated__layers": []},
            ["experiments: none for dataset 'tiny'"],
        ),
    ],
    ids=["against the schema", "against each other", "no experiments"],
)
def test_a_bad_configuration_ends_before_any_job_with_all_its_faults(keys, messages, tmp_path):
    """Every other fault: tests/pipeline/test_configuration.py."""
    text = snakemake(tmp_path, "--dry-run", "results/summary.csv", config=changed(tmp_path, **keys), check=False)
    assert not [message for message in messages if message not in text], text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def report(finished) -> Path:
    """The report of the tiny workflow."""
    snakemake(finished, "results/summary.csv", "--report", "report.html")
    return finished / "report.html"


def test_the_report_is_one_offline_file(report):
    text = report.read_text(encoding="utf-8")
    assert "SaCo (higher is better): do more relevant bins of patches cause larger drops" in text
    assert len(text) > 1_000_000
    assert "Case studies" in text
    for kind in ("improved", "degraded", "random", "feature page"):
        assert f'"kind": "{kind}"' in text, kind
    assert '"page": "list"' in text and '"page": "feature ' in text
    for name in (
        *figures(METRICS, powers=True, deletion=True),
        *(set(pages()) - {"pooled", "judged"}),
    ):  # one run, and no cues
        assert f"results/figures/tiny_{name}.svg" in text or f"results/{name}.html" in text, name


def test_the_report_can_be_read_in_a_browser(report):
    """The landing text leads to the pages; a figure, a case and a table open; a table sorts, filters and saves itself."""
    with opened(report) as (tab, faults):
        tab.get_by_role("link", name="The results in words").click()
        page = tab.frame_locator("iframe")
        page.get_by_role("heading", name="Headline").wait_for()
        assert "weights: trained here" in page.locator("body").inner_text()

        tab.evaluate("app.setView({content: 'rulegraph'})")
        tab.get_by_role("link", name="The summary table").click()
        rows = page.locator("tbody tr")
        rows.first.wait_for()
        assert rows.count() == 13 * 4 * 2 * 2
        head = page.locator("th[data-name=mean]")
        for order in ("ascending", "descending"):
            head.click()
            assert head.get_attribute("aria-sort") == order
            place = head.evaluate("head => head.cellIndex")
            shown = rows.evaluate_all(f"rows => rows.map(row => row.cells[{place}].dataset.v)")
            numbers = [float(value) for value in shown if value]
            assert len(numbers) > 20
            assert numbers == sorted(numbers, reverse=order == "descending")
            assert not any(shown[len(numbers) :]), "what is undefined comes last"
        page.locator("#filter").fill("random saco")
        found = 4 * 2 * 2
        assert page.locator(".count").first.inner_text() == f"{found} of 208 rows"  # the method, and the randomised
        with tab.expect_download() as download:
            page.locator("#save").click()
        assert len(pd.read_csv(download.value.path())) == found

        for category, first in (("Figures", "Gates"), ("Case studies", "improved")):
            tab.evaluate("app.setView({navbarMode: 'menu', content: 'rulegraph'})")
            tab.get_by_text(category, exact=True).first.click()
            row = tab.locator("tr", has_text=first).first
            row.locator("a").first.click()
            picture = tab.locator("div.overflow-auto img[src^='data:image/']").first
            picture.wait_for()
            assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") > 500
            row.locator("a").nth(1).click()
            tab.get_by_text("Description").wait_for()
        tab.evaluate("app.setView({content: 'stats'})")
        tab.wait_for_function("document.querySelector('#runtimes canvas, #runtimes svg')")
        assert not faults


@pytest.mark.parametrize(
    ("arguments", "status"), [(["missing.parquet", "--output", "merged.parquet"], 1), (["--help"], 0)]
)
def test_a_warm_process_says_and_returns_what_a_new_one_does(arguments, status, tmp_path):
    """So that the other tests of this folder are tests of ``python -m …``."""
    new = whole_workflow.environment({"PYTHONPATH": str(ROOT)})
    command = [sys.executable, "-m", "fgg.jobs.merge", *arguments]
    found, expected = (
        subprocess.run(command, cwd=tmp_path, env=each, capture_output=True, text=True, check=False)
        for each in (warmed(new), new)
    )
    assert found.returncode == expected.returncode == status
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr) and found.stdout + found.stderr


def test_the_graph_can_be_drawn(finished):
    text = snakemake(finished, "results/summary.csv", "--rulegraph")
    assert "digraph" in text
    assert "gated_attribution" in text
