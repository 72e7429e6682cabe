"""The comparison's figures: all are written, the same data give the same bytes, and odd data are told, not drawn."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic_scores import METRICS as NAMES

from fgg.comparison.__main__ import main
from fgg.experiments import experiments, flat
from fgg.faithfulness.measures import measures
from fgg.faithfulness.registry import chosen
from fgg.report import contents, experiment_names
from fgg.report.figures import __main__ as figures
from fgg.report.figures import (
    dot_plots,
    gate_histograms,
    layer_heat_map,
    map_overview,
    paired_differences,
    pixel_flipping_curves,
    sae_quality,
    sampling_error,
    style,
)
from fgg.tables import matrix, read_table, write_json, write_table

METRICS = chosen(NAMES)
MEASURES = measures({name: ["mean"] for name in NAMES})

LONG = "a class name that is far too long for the head of a narrow column"
MANY = {
    "baselines": ["random", "transmm"],
    "gated": {
        "layers": [[1], [2], [1, 2]], "construction": ["combined"], "clamp_max": [2, 5, 10, 20], "alpha": [0.5, 1],
        "shuffle_decoder": [False],
    },
    "controls": ["permuted_gate"],
}  # fmt: skip


def rest(folder, settings, undefined_map=False, trials=3):
    """What the figures need besides the scores: maps, gates, answers, pictures, the model's record, SAE measures."""
    rng = np.random.default_rng(3)
    scores = read_table(folder / "toy/faithfulness/transmm.parquet").to_pandas().sort_values("image_id")
    ids, n = scores["image_id"].to_list(), len(scores)
    for name, own in settings["experiments"]["toy"].items():
        relevance = rng.random((n, 16)).astype(np.float32)
        if undefined_map and name == "transmm":
            relevance[:] = np.nan
        columns = {"image_id": ids, "label": scores["label"].to_list(), "predicted": scores["predicted"].to_list()}
        write_table(folder / f"toy/attributions/{name}.parquet", {**columns, "relevance": relevance}, {})
        if "gate" in own:
            layers = own["gate"]["layers"]
            gate = 10.0 ** rng.uniform(-1, 1, (n * len(layers), 16)).astype(np.float32)
            gate[0, 0] = np.nan
            columns = {"image_id": np.repeat(ids, len(layers)), "layer": np.tile(layers, n), "gate": gate}
            write_table(folder / f"toy/gates/{name}.parquet", columns, {})
    subsets = np.stack([rng.permutation(16)[:4] for _ in range(n * trials * 8)]).reshape(n, -1).astype(np.int32)
    answers = {"image_id": ids, "subsets": subsets, "drops": rng.random((n, trials * 8)).astype(np.float32)}
    settings = {"fills": ["mean"], "runs": 8, "trials": trials, "subset_size": 4}
    write_table(folder / "toy/responses.parquet", answers, settings)
    pictures = []
    for _ in ids:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    write_table(folder / "data/test.parquet", {"image_id": ids, "image": pictures}, {})
    write_json(folder / "data/model.json", {"classes": [LONG, "b"], "preprocess": {"size": [24, 24]}}, {})
    for layer in (1, 2):
        measured = {"explained_variance": 0.9, "l0": 4.0, "dead_share": 0.1, "features": 32, "tokens": 640}
        write_json(folder / f"data/layer_{layer}/metrics.json", measured, {})


def draw(folder, output, dataset="toy"):
    arguments = [
        "--comparison", folder / "comparison.parquet", "--hypotheses", folder / "hypotheses.csv", "--results", folder,
        "--images", folder / "data/test.parquet", "--model", folder / "data", "--saes", folder / "data",
        "--dataset", dataset, "--output", output,
    ]  # fmt: skip
    return figures.main([str(argument) for argument in arguments])


def compare(folder, settings, grid):
    settings["experiments"] = {"toy": grid}
    arguments = ["--settings", json.dumps(settings)]
    assert main([*arguments, "--results", str(folder), "--output", str(folder)]) == 0


@pytest.fixture(scope="module")
def compared(tmp_path_factory, write_scores):
    folder = tmp_path_factory.mktemp("figures")
    settings = write_scores(folder, 40, undefined=4)
    keep = (
        "transmm",
        "random",
        "gradcam",
        "gated-l2-combined-c10-a1",
        "gated-l2-combined-c10-a1-permuted",
        "transmm-p2",
    )
    compare(folder, settings, {name: settings["experiments"]["toy"][name] for name in keep})
    rest(folder, settings)
    return folder


def test_figures_are_written_and_the_same_data_give_the_same_bytes(compared, tmp_path):
    assert draw(compared, tmp_path / "a") == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        f"toy_{name}.{suffix}" for name in contents.figures(METRICS, powers=True) for suffix in ("png", "svg")
    }
    frame = figures.read_rows(compared / "comparison.parquet", "toy", "0", "measurable")
    paired_differences.pairs_figure(frame, compared, tmp_path / "b")
    whole = figures.read_rows(compared / "comparison.parquet", "toy", "0", "all")
    one = whole[whole["metric"] == "faithfulness_correlation"]
    sampling_error.sampling_figure(one, compared, tmp_path / "b")
    map_overview.overview_figure(one, compared, compared / "data/test.parquet", compared / "data", 0, tmp_path / "b")
    again = list((tmp_path / "b").iterdir())
    assert len(again) == 6
    for path in again:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes(), path.name


def test_a_lone_baseline_can_be_drawn_and_what_cannot_be_drawn_is_said(results, tmp_path, monkeypatch):
    folder, settings = results
    compare(folder, settings, {"transmm": {"method": "transmm"}})
    rest(folder, settings, undefined_map=True, trials=1)
    said = {}
    monkeypatch.setattr(style, "remark", lambda _, name, title, text: said.update({name: text}))
    assert draw(folder, tmp_path / "figures") == 0
    reasons = ("hypotheses", "forest", "paired_differences", "heat_map", "gates", "sampling_error")
    reasons += ("sae_quality", "sae_pareto", "sae_training")
    assert set(said) == {f"toy_{name}" for name in reasons}
    assert all(len(text) > 30 for text in said.values())
    written = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert written == {f"toy_{name}" for name in contents.figures(METRICS)} - set(said)


def test_a_remark_is_a_picture_of_its_own(tmp_path):
    style.remark(tmp_path, "name", "a title", "There is nothing to draw.")
    assert {path.name for path in tmp_path.iterdir()} == {"name.png", "name.svg"}


@pytest.mark.parametrize("name", ["cash$flow$", "a_b^{c", "$x$ and $y", "<b>x", "Größe", "=1+2"])
def test_every_name_is_drawn_as_it_is(name, tmp_path):
    with style.figure(2.0) as (fig, axis):
        axis.plot([1e-5, 1e-2], [1, 1000], label=name)
        axis.set(xscale="log", yscale="log", title=name, xlabel=name)
        axis.legend()
        fig.suptitle(name)
        style.save(fig, tmp_path, "odd")
        assert axis.get_title() == name
        labels = [label.get_text() for label in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    assert {"0.001", "100"} <= set(labels) and not any("$" in label for label in labels)
    assert {path.name for path in tmp_path.iterdir()} == {"odd.png", "odd.svg"}


def test_fifty_experiments_can_be_drawn(compared, tmp_path, monkeypatch):
    grid = experiments({"datasets": {"toy": {}}, "experiments": MANY}, "toy")
    assert len(grid) == 50
    few = figures.read_rows(compared / "comparison.parquet", "toy", "0", "measurable").set_index("experiment")
    rows = []
    for name, own in grid.items():
        template = name if name in few.index else "gated-l2-combined-c10-a1"
        rows += [{**row, "experiment": name, **flat(own)} for row in few.loc[template].to_dict("records")]
        target = tmp_path / f"toy/faithfulness/{name}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((compared / f"toy/faithfulness/{template}.parquet").read_bytes())
    frame = pd.DataFrame(rows)
    for column in ("construction", "control"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    one = frame[frame["metric"] == "pixel_flipping"]
    shown = one[one["construction"].isna() | pixel_flipping_curves.combined(one)]
    named = pixel_flipping_curves.named_in_legend(shown[shown["control"].isna()])
    assert len(named) == 4, "of 24 gates the lowest and the highest"
    heights = {}

    def measured(fig, _, name):
        fig.savefig(io.BytesIO(), dpi=30)  # lays it out
        heights[name] = fig.get_size_inches()[1]

    monkeypatch.setattr(style, "save", measured)
    (tmp_path / "toy/images.parquet").write_bytes((compared / "toy/images.parquet").read_bytes())
    pixel_flipping_curves.curves_figure(one, "mean", tmp_path, tmp_path)
    layer_heat_map.heat_figure(frame, tmp_path)
    paired_differences.pairs_figure(frame, tmp_path, tmp_path)
    dot_plots.metric_figure(one, [MEASURES["pixel_flipping"]], tmp_path)
    # A line keeps its height, however many there are; the legend of the curves stays short.
    assert heights.pop("toy_pixel_flipping_curves") < 5
    assert len(heights) == 3
    assert min(heights.values()) > 50 * style.ROW


def test_an_unknown_dataset_is_an_error(compared, tmp_path, capsys):
    assert draw(compared, tmp_path, "other") == 1
    assert "no dataset 'other'" in capsys.readouterr().err


def test_far_off_points_become_arrows_with_their_number():
    with style.figure(1) as (_, axis):
        axis.set_xlim(-1, 1)
        style.interval(axis, 0, 5.25, 5, 6, style.GROUP_STYLES["Gated"])
        assert [text.get_text() for text in axis.texts] == ["+5.25"]
        assert axis.lines[0].get_xdata()[0] == 1
        style.interval(axis, 0, np.nan, np.nan, np.nan, style.BASELINE)
        assert len(axis.lines) == 1


def test_limits_hold_the_values():
    low, high = style.limits(0, [1.0, np.nan], [-1.0, 3.0])
    assert low < -1
    assert high > 3
    assert style.limits([np.nan])[0] < style.limits([np.nan])[1]


def test_labels_are_for_people(results):
    texts = {
        name: experiment_names.label(flat(settings)) for name, settings in results[1]["experiments"]["toy"].items()
    }
    assert texts["gated-l1.2-combined-c10-a1"] == "gated, layers 1+2, activation × gradient"
    assert texts["gated-l2-combined-c10-a1-shuffled"] == "control, layer 2, shuffled decoder"
    assert texts["gradcam"] == "Grad-CAM"
    assert len(set(texts.values())) == len(texts)


def test_the_improvement_is_drawn_in_the_good_direction(compared):
    frame = read_table(compared / "comparison.parquet").to_pandas()
    for _, row in frame.dropna(subset=["ci_low"]).iterrows():
        low, high = dot_plots.improvement_interval(row, METRICS[row["metric"]])
        assert low <= row["improvement"] <= high


def test_differences_per_image_are_positive_where_better(compared):
    frame = figures.read_rows(compared / "comparison.parquet", "toy", "0", "measurable")
    scores = paired_differences._scores(frame, compared, MEASURES)
    inside = np.arange(40) < 36
    for measure in MEASURES.values():
        gain = paired_differences._gain(scores, "gradcam", "transmm", measure, inside)
        row = frame[(frame["experiment"] == "gradcam") & (frame["metric"] == measure.metric.name)].iloc[0]
        assert len(gain) == row["n"] == (32 if measure.metric.name == "faithfulness_correlation" else 36)
        assert gain.mean() == pytest.approx(row["improvement"])


def test_a_layer_is_counted_once_and_undefined_gates_are_left_out(compared):
    frame = figures.read_rows(compared / "comparison.parquet", "toy", "0", "measurable")
    one = frame[frame["metric"] == "saco"]
    found = gate_histograms.collect(one, compared / "toy/gates")
    assert list(found) == [(2, 10.0, 1.0)]
    assert list(found[2, 10.0, 1.0]) == ["activation × gradient"]
    assert len(found[2, 10.0, 1.0]["activation × gradient"]) == 40 * 16 - 1
    assert figures.sae_layers(one) == [2]


def test_an_unknown_measure_of_an_sae_is_a_word(tmp_path):
    measured = {1: {"explained_variance": None, "l0": 3.0, "dead_share": 0.0, "features": 8, "tokens": 10}}
    sae_quality.quality_figure("toy", measured, tmp_path)
    assert "<!-- unknown -->" in (tmp_path / "toy_sae_quality.svg").read_text()


def test_trials_are_scored_as_faithfulness_correlation_is(compared):
    """The figure's scores are those of the metric, and their error falls with the number of runs."""
    import torch

    from fgg.faithfulness.faithfulness_correlation import correlate

    answered = read_table(compared / "toy/responses.parquet")
    relevance = matrix(read_table(compared / "toy/attributions/transmm.parquet"), "relevance")
    drops = matrix(answered, "drops")
    subsets = matrix(answered, "subsets").reshape(*drops.shape, -1)
    found = sampling_error.trial_scores(relevance, subsets, drops, 8)
    cut = [torch.from_numpy(values.copy()).unflatten(1, (3, 8)) for values in (subsets, drops)]
    expected = correlate(torch.from_numpy(relevance.copy()), *cut)
    np.testing.assert_allclose(found, expected, atol=1e-12)

    def scores(runs):
        return sampling_error.trial_scores(relevance, subsets, drops, runs)

    assert sampling_error.trial_error(scores, 12) < sampling_error.trial_error(scores, 4)


def test_the_overview_shows_every_class_and_the_same_images_again():
    names = pd.Series([0] * 20 + [1] * 3 + [2], index=[f"image{i:02d}" for i in range(24)])
    chosen = map_overview.choose(names, seed=0)
    assert len(chosen) == map_overview.IMAGES
    assert names.loc[chosen].value_counts().to_dict() == {0: 3, 1: 2, 2: 1}
    assert chosen == map_overview.choose(names.sample(frac=1, random_state=1), seed=0)
    assert chosen != map_overview.choose(names, seed=1)
    assert set(map_overview.choose(names.iloc[:2], seed=0)) == {"image00", "image01"}


def test_long_class_names_are_cut():
    row = pd.Series({"label": 0, "predicted": 1})
    text = map_overview._classes([LONG, "n0" * 30], row)
    assert max(map(len, text.splitlines())) <= 28
    assert "…" in text and "(true: a class" in text
