"""Scoring jobs with a tolerance, and the passes of the model that jobs save and count."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_dataset import ARCHITECTURE, KWARGS, RUN, untrained
from tiny_trained import data, defaults, model_folder, model_settings  # noqa: F401

from fgg.attribution.__main__ import run as attribute
from fgg.attribution.job import Job as Attribution
from fgg.data.load import load_split
from fgg.errors import FggError
from fgg.faithfulness.__main__ import main
from fgg.faithfulness.order_curves import OrderCurves, engine_of
from fgg.models import model_files
from fgg.perturbation.engine import Perturber
from fgg.perturbation.fills import make_fill
from fgg.pipeline.configuration import check
from fgg.report.figures.pixel_flipping_curves import tolerance_note
from fgg.tables import matrix, read_table

METHODS = ("transmm", "rollout")
SAID = re.compile(r"perturbed images: (\d+) asked for, (\d+) computed(?: \((.*)\))?")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with images, a model, and maps of two methods."""
    from pictures import draw

    folder = tmp_path_factory.mktemp("toy")
    untrained(folder, draw(folder / "pictures", per_class=5))
    for method in METHODS:
        images = folder / "data" / "test.parquet"
        settings = {**RUN, "batch_size": 4}
        attribute(Attribution(folder / "model", images, {"method": method}, settings, folder / f"{method}.parquet"))
    return folder


def score(folder: Path, metrics: dict, method: str = "transmm", check: int = 0, batch: int = 4, shard: str = "1-of-1"):
    """The scores and the curves of a scoring job; nothing if it ends in an error."""
    places = {name: folder / f"{name}-{method}.parquet" for name in ("scores", "curves")}
    settings = {"metrics": metrics, "protocol": "corrected", **RUN, "batch_size": batch}
    arguments = ["--model", str(folder / "model"), "--images", str(folder / "data" / "test.parquet"), "--shard", shard]
    arguments += ["--attributions", str(folder / f"{method}.parquet"), "--settings", json.dumps(settings)]
    assert main([*arguments, "--output", str(places["scores"]), "--curves", str(places["curves"])]) == check
    return {} if check else {name: read_table(place) for name, place in places.items()}


def metrics(tolerance: float | None, **more: dict) -> dict:
    return {
        "pixel_flipping": {"patches_per_step": 1, "area_tolerance": tolerance, "fill": ["mean", "removal"]},
        "srg": {"patches_per_step": 1, "area_tolerance": tolerance, "fill": ["mean", "removal"]},
        **more,
    }


def test_a_job_with_a_tolerance(toy, capsys):
    plain = score(toy, metrics(None))
    asked, computed, _ = SAID.search(capsys.readouterr().out).groups()
    some = score(toy, metrics(0.001))
    asked_of, computed_of, how = SAID.search(capsys.readouterr().out).groups()
    assert asked_of == asked and int(computed_of) < int(computed)
    assert "skipped by a tolerance" in how
    for column in ("pixel_flipping", "pixel_flipping@removal", "srg", "srg@removal"):
        error = np.abs(np.asarray(some["scores"][column]) - np.asarray(plain["scores"][column]))
        assert error.max() < 0.001
    assert "measured" not in plain["curves"].column_names
    place = toy / "scores-transmm.parquet"
    assert tolerance_note(place, "srg") == "; steps that areas need to 0.001 are measured, lines join them"
    assert tolerance_note(place, "saco") == ""
    assert "pixel_flipping_measured" not in plain["scores"].column_names
    for suffix in ("", "@removal"):
        measured = np.stack(some["scores"][f"pixel_flipping_measured{suffix}"].to_pylist())
        own, whole = (matrix(each["scores"], f"pixel_flipping_curve{suffix}") for each in (some, plain))
        assert measured.dtype == bool and measured.shape == own.shape == whole.shape
        assert measured[:, [0, -1]].all() and not measured.all()
        np.testing.assert_allclose(own[measured], whole[measured], atol=1e-5)
    rows, whole = (each["curves"].to_pylist() for each in (some, plain))
    for row, other in zip(rows, whole, strict=True):
        names = ("image_id", "fill", "curve", "patches_per_step")
        assert [row[name] for name in names] == [other[name] for name in names]
        known = np.flatnonzero(row["measured"])
        np.testing.assert_allclose(
            np.array(row["probability"])[known], np.array(other["probability"])[known], atol=1e-5
        )


def test_the_same_bytes_again_and_in_shards(toy):
    whole = score(toy, metrics(0.001))
    again = score(toy, metrics(0.001))
    parts = [score(toy, metrics(0.001), shard=f"{number}-of-2") for number in (1, 2)]
    for name in ("scores", "curves"):
        assert again[name].equals(whole[name])
        assert [row for part in parts for row in part[name].to_pylist()] == whole[name].to_pylist()


def test_other_batches_stay_within_the_tolerance(toy):
    """The last digits of a probability depend on the batch; whether a step is measured can depend on them."""
    one, other = (score(toy, metrics(0.01), batch=batch)["scores"] for batch in (4, 3))
    for column in ("pixel_flipping", "srg@removal"):
        assert np.abs(np.asarray(one[column]) - np.asarray(other[column])).max() < 0.02


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"srg": {"area_tolerance": 1.5}}, "area_tolerance: 1.5 must be a number from 0 to below 1"),
        ({"saco": {"area_tolerance": 0.1}}, "unknown key area_tolerance; saco does not take it"),
    ],
    ids=["too large", "no curve"],
)
def test_refused_settings(own, said, toy, capsys):
    score(toy, own, check=1)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"srg": {"area_tolerance": 1.5}}, "srg.area_tolerance"),
        ({"insertion": {"area_tolerance": -0.1}}, "insertion.area_tolerance"),
        ({"saco": {"area_tolerance": 0.1}}, "area_tolerance"),
        ({"faithfulness_correlation": {"area_tolerance": 0.1}}, "area_tolerance"),
        ({"pixel_flipping": {"area_tolerance": 0.1}, "thesis": None}, "the protocol thesis fills each step"),
    ],
    ids=["too large", "negative", "saco", "correlation", "thesis"],
)
def test_refused_configurations(metrics, said):
    protocol = "thesis" if "thesis" in metrics else "corrected"
    own = {name: block for name, block in metrics.items() if block}
    model = {"architecture": ARCHITECTURE, "kwargs": KWARGS}
    dataset = {"source": "image_folder", "path": "pictures", "model": model, "sae": {"layers": [1]}}
    dataset |= {"metrics": {"faithfulness_correlation": {"subset_size": 4}}}
    config = {"run": ["toy"], "datasets": {"toy": dataset}, "experiments": {"baselines": ["transmm"]}}
    schema = Path(__file__).resolve().parents[2] / "workflow" / "schemas" / "config.schema.yaml"
    check(copy.deepcopy(config), schema)
    with pytest.raises(FggError, match=re.escape(said)):
        check({**config, "protocol": protocol, "metrics": own}, schema)


def test_a_trained_model_keeps_the_tolerance(data, model_folder):  # noqa: F811
    model, preprocess, _ = model_files.load(model_folder, torch.device("cpu"))
    images = load_split(data / "test.parquet").tensors(preprocess)
    maps = torch.randn(len(images), 16, generator=torch.Generator().manual_seed(1))
    whole, some = (OrderCurves(engine_of(model, images, "mean"), maps) for _ in range(2))
    for kind in ("mif", "lif"):
        error = (some.area(getattr(some, kind)(1, 0.03)) - whole.area(getattr(whole, kind)(1))).abs()
        assert error.max() < 0.03
    assert some.engine.passes.computed < 0.8 * whole.engine.passes.computed


# ---------------------------------------------------------------- versions that several questions contain


@pytest.fixture
def engine(plain, pictures):
    own = Perturber(plain, pictures)
    return own.using(make_fill("mean", pictures, (8, 8)))


def masks(*counts: int) -> torch.Tensor:
    """The first so many patches, for each of four images: bool (4, V, 16)."""
    return (torch.arange(16) < torch.tensor(counts)[:, None]).expand(4, -1, -1)


def test_a_version_is_computed_once_per_map(engine):
    own = engine.for_one_map()
    first = own.logits(masks(2, 5, 16))
    second = own.logits(masks(16, 3, 2, 3))
    assert (engine.passes.computed, engine.passes.repeated) == ((3 + 1) * 4, 3 * 4)
    assert torch.equal(second[:, [2, 0]], first[:, [0, 2]]), "what is known is given back"
    assert torch.equal(second[:, 1], second[:, 3])
    torch.testing.assert_close(second, engine.logits(masks(16, 3, 2, 3)), atol=1e-5, rtol=0)
    alone = engine.logits(masks(3))
    assert torch.equal(second[:, 1:2], alone), "the new version was computed by itself"


def test_single_versions_of_images(engine):
    """Equal masks of other images are other questions."""
    expected = engine.logits(masks(4, 9))
    mask = masks(9)[0]
    for images in ([2], [0], [3, 0]):
        found = engine.single_logits(torch.tensor(images), mask.expand(len(images), -1))
        torch.testing.assert_close(found, expected[images, 1], atol=1e-5, rtol=0)
    assert (expected[2, 1] - expected[0, 1]).abs().max() > 1e-3


def test_a_map_does_not_depend_on_other_maps(plain, pictures):
    """Whichever maps a process has scored before, a map's questions have the same answers, bit by bit."""
    fill = make_fill("mean", pictures, (8, 8))
    questions = [masks(1, 2, 3, 16), masks(16, 8, 1), masks(9, 2)]
    alone = Perturber(plain, pictures).using(fill).for_one_map()
    expected = [alone.logits(each) for each in questions]
    shared = Perturber(plain, pictures).using(fill)
    for other in ([masks(16, 8)], [masks(9), masks(1, 2, 3, 16)], questions):
        own = shared.for_one_map()
        for each in other:
            own.logits(each)
    own = shared.for_one_map()
    before = shared.passes.computed
    assert all(torch.equal(own.logits(each), answer) for each, answer in zip(questions, expected, strict=True))
    assert shared.passes.computed == before, "a map with the same questions has computed them all"
    assert shared.passes.shared


def test_removal_counts_tokens(plain, pictures):
    engine = Perturber(plain, pictures).using(make_fill("removal", pictures, (8, 8)))
    engine.logits(masks(4, 16))
    prefix = plain.num_prefix_tokens
    assert engine.passes.all_tokens == 4 * 2 * (16 + prefix)
    assert engine.passes.tokens == 4 * (12 + prefix + prefix)
    assert "of the tokens" in str(engine.passes)


def test_the_metrics_of_a_map_share_versions(toy, capsys):
    """The most relevant bin of SaCo is a step of MIF, the least relevant one of LIF, and both curves end alike."""
    many = {"srg": {"patches_per_step": 1}, "deletion": {"patches_per_step": 2}, "saco": {"patches_per_bin": 4}}
    found = score(toy, many)
    asked, computed, how = SAID.search(capsys.readouterr().out).groups()
    images = len(found["scores"])
    assert int(asked) == (2 * 16 + 8 + 4) * images
    assert int(asked) - int(computed) == (1 + 8 + 2) * images
    assert how == f"{11 / 44:.1%} in an earlier question about the map"
    for name, own in many.items():
        alone = score(toy, {name: own})["scores"]
        np.testing.assert_allclose(np.asarray(found["scores"][name]), np.asarray(alone[name]), atol=1e-5)
