"""The pages of the report and the results in words."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from fgg.report import html, pages, results_readme
from fgg.tables import read_json, read_table, write_json

SETTINGS = {"run": ["toy"], "datasets": {"toy": {"path": "<b>"}}}


def write(folder):
    arguments = ["--comparison", folder / "comparison.parquet", "--hypotheses", folder / "hypotheses.csv"]
    arguments += [
        "--decomposition",
        folder / "decomposition.csv",
        "--data",
        folder / "data",
        "--splits",
        '{"toy": "test"}',
        "--output",
        folder / "README.md",
    ]
    assert results_readme.main([str(argument) for argument in arguments]) == 0
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_results_in_words_tell_what_was_run_and_what_is_missing(run):
    text = write(run)
    assert "combined gates better than TransMM" in text
    assert "Measurable images: 36 of 40 with the fill mean." in text
    assert "## Order and values" in text and "| `gated-l2-combined-c10-a1` | SaCo |" in text
    assert "- images: 40 of the 50 of the split test, source image_folder, 2 classes (cat, dog)" in text
    assert (
        "weights: trained here; accuracy on the split test: 87.5 % (the most frequent class 50.0 %, a linear model on pixels 60.0 %)"
        in text
    )
    assert (
        "- SAE of layer 2: 32 features, explained variance 0.9, L0 4, dead features 25 %, on 640 held-out patches"
        in text
    )
    assert "- experiments: 6, compared with transmm; protocol corrected, precision fp32" in text
    assert "- `toy`, images that could not be read: 1; files left aside, which are no images of a class: 1" in text
    assert "order of its classes" not in text and "explains" not in text, "nothing is odd about the model and its SAE"
    assert "undefined Faithfulness Correlation (images, left out pairwise): `gradcam` 4" in text
    assert (
        "not testable (identical scores): 2 comparisons, of `gated-l2-combined-c10-a1-sharpened`, `gated-l2-combined-c10-a1-values`"
        in text
    )
    assert "degenerate layer 2: a patch's residual" in text and re.search(
        "degenerate layer 3: patches no longer .* no experiment has a gate there", text
    )
    assert re.search("`gated-l2-combined-c10-a1`.*: layer 2: residual x gradient is analytically zero", text)
    assert text == write(run), "the same bytes again"
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert "summary.csv" in linked and "figures/toy_overview.png" in linked


@pytest.mark.parametrize(
    ("name", "change", "remark"),
    [
        (
            "models/toy/model.json",
            {"accuracy": {"test": {"accuracy": 0.02, "majority_accuracy": 0.5}}},
            "the model's accuracy is 2.0 %, below the 50.0 % of always naming the most frequent class: check the order of its classes",
        ),
        (
            "saes/toy/layer_2/metrics.json",
            {"explained_variance": 0.024},
            "the SAE of layer 2 explains 2 % of the variance: check that it belongs to this model and layer",
        ),
    ],
)
def test_what_looks_like_a_mistake_is_asked_after(run, tmp_path, name, change, remark):
    shutil.copytree(run / "data", tmp_path / "data")
    write_json(tmp_path / "data" / name, read_json(run / "data" / name) | change, {})
    frame, none = read_table(run / "comparison.parquet").to_pandas(), pd.read_csv(run / "hypotheses.csv").iloc[:0]
    text = "\n".join(results_readme.readme(frame, {"hypotheses": none}, tmp_path / "data", {"toy": "test"}))
    assert f"- `toy`, {remark}" in text


def test_the_results_in_words_without_a_gate(run):
    frame = read_table(run / "comparison.parquet").to_pandas()
    none = pd.read_csv(run / "hypotheses.csv").iloc[:0]
    text = "\n".join(results_readme.readme(frame, {"hypotheses": none}, run / "data", {"toy": "test"}))
    assert "the grid has no combined gate to test. The best means on measurable images: by SaCo: `" in text


def test_the_results_say_how_images_are_prepared(run, tmp_path):
    shutil.copytree(run / "data", tmp_path / "data")
    path = tmp_path / "data" / "models" / "toy" / "model.json"
    prepared = {"size": {"shorter": 256}, "crop": 224, "channels": "rgb", "interpolation": "bicubic", "mean": [0.5] * 3}
    origins = {"size": "given", "crop": "the model's input", "mean": "the 24 training images", "std": "given"}
    for own, told in (({}, ""), ({"preprocess_from": origins}, " (the 24 training images)")):
        write_json(path, read_json(path) | {"preprocess": prepared | {"std": [0.25, 0.5, 0.125]}} | own, {})
        frame, none = read_table(run / "comparison.parquet").to_pandas(), pd.read_csv(run / "hypotheses.csv").iloc[:0]
        text = "\n".join(results_readme.readme(frame, {"hypotheses": none}, tmp_path / "data", {"toy": "test"}))
        line = next(
            line for line in text.splitlines() if line.startswith("- preprocessing: shorter side resized to 256")
        )
        assert f"mean 0.5/0.5/0.5{told}" in line and "standard deviation 0.25/0.5/0.125" in line
        assert ("the 224 x 224 in the middle (the model's input), channels rgb, bicubic" in line) == bool(told)


def draw(folder, *names):
    arguments = ["--results", str(folder), "--pages", *names, "--configuration", json.dumps(SETTINGS)]
    return pages.main([*arguments, "--output", str(folder)])


def test_pages_hold_every_row_and_ask_for_nothing(run):
    write(run)
    names = ("README", "summary", "hypotheses", "decomposition", "agreement", "comparison", "configuration", "versions")
    assert draw(run, *names) == 0
    found = {name: (run / f"{name}.html").read_text(encoding="utf-8") for name in names}
    for name, text in found.items():
        assert not re.search(r"""(src|href)=(?!["']?data:)|https?:|@import|url\(""", text), name
    assert found["summary"].count("<tr") == 1 + 6 * 3 * 2
    assert found["comparison"].count("<tr") == 1 + 6 * 3 * 6
    assert "&lt;b&gt;" in found["configuration"] and "<b>" not in found["configuration"]
    for word in ("torch", "Python", "commit", "cores"):
        assert f"<td>{word}</td>" in found["versions"], word
    assert "<h2>Headline</h2>" in found["README"] and "<li>SaCo: " in found["README"]
    before = {name: text for name, text in found.items() if name != "versions"}
    assert draw(run, *before) == 0
    assert before == {name: (run / f"{name}.html").read_text(encoding="utf-8") for name in before}


def test_an_unknown_page_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        draw(run, "nonsense")
    assert "nonsense" in capsys.readouterr().err


def test_values_are_written_exactly_and_shortly():
    assert html.written(np.nan) == html.written(None) == ("", "")
    assert html.written(0.123456789) == ("0.123456789", "0.1235")
    assert html.written(-2.0) == ("-2.0", "−2")
    assert html.written(np.True_) == ("True", "yes")
    assert html.written(7) == ("7", "7")
    frame = pd.DataFrame({"name": ["<i>&"], "p_value": [1e-9], "significant": [True], "improvement": [-0.5]})
    text = html.table_page(frame, "T", "words", "t.csv", {"name": 'a "name"'})
    assert "&lt;i&gt;&amp;" in text and "<i>" not in text
    assert 'title="a &#34;name&#34;"' in text
    assert 'data-v="1e-09">&lt; 0.001<' in text
    assert '<tr class="worse">' in text
    text = html.table_page(frame.assign(verdict="worse in values"), "T", "words", "t.csv", {})
    assert '<tr class="worse">' not in text, "only what the order makes worse is marked"


def test_markdown_becomes_html():
    text = "# A *b*\n\nsome `<x>` and **bold**\n[a link](b.md)\n\n- one\n- two\n\n| h |\n|---|\n| **1** |"
    assert re.sub(r">\s+<", "><", str(html.markdown(text))).strip() == (
        "<h1>A <em>b</em></h1><p>some <code>&lt;x&gt;</code> and <strong>bold</strong>\na link</p>"
        "<ul><li>one</li><li>two</li></ul>"
        "<table><thead><tr><th>h</th></tr></thead><tbody><tr><td><strong>1</strong></td></tr></tbody></table>"
    )
    assert str(html.markdown("<script>x</script> ![p](q.png)")).strip() == "<p>&lt;script&gt;x&lt;/script&gt; </p>"
