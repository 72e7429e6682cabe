"""The notebooks of examples/: they hold their texts, run from top to bottom without a network, and what they say holds."""

import json
import os
import re
import runpy
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from sae_peers import dictionary_learning

import fgg

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MAKER = runpy.run_path(str(EXAMPLES / "make_notebooks.py"))
NAMES = MAKER["NOTEBOOKS"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all notebooks run, with the run of digits that they share."""
    place = tmp_path_factory.mktemp("notebooks") / "examples"
    place.mkdir()
    fgg.example_run(place / "fgg-example")
    return place


@pytest.fixture
def execute(folder, monkeypatch):
    """A function: name -> what the notebook prints, and the number of its pictures."""
    for variable, value in {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled",
        "IPYTHONDIR": str(folder.parent / "ipython"), "JUPYTER_DATA_DIR": str(folder.parent / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder.parent / "runtime"), "JUPYTER_CONFIG_DIR": str(folder.parent / "config"),
        "PATH": os.environ["PATH"],
    }.items():  # fmt: skip
        monkeypatch.setenv(variable, value)

    def execute(name):
        notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
        NotebookClient(
            notebook, timeout=300, startup_timeout=180, resources={"metadata": {"path": str(folder)}}
        ).execute()
        outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
        said = "".join(each.text for each in outputs if each.output_type == "stream" and each.name == "stdout")
        wrong = [each.text for each in outputs if each.output_type == "stream" and each.name == "stderr"]
        assert not wrong, "a warning would be the first thing that a reader sees"
        return said, sum("image/png" in each.get("data", ()) for each in outputs)

    return execute


def numbers(pattern, said):
    """The numbers that a pattern finds."""
    return [float(each) for each in re.findall(pattern, said)]


# ---- the files


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_its_text_and_no_outputs(name):
    stored = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert stored == MAKER["text"](name), "run: python examples/make_notebooks.py"
    cells = json.loads(stored)["cells"]
    # Independent of jupytext: every line of the text but the marks is in the cells, in this order.
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines() if line.strip()]
    text = [line for line in (EXAMPLES / f"{name}.py").read_text().splitlines() if not line.startswith("# %%")]
    wanted, inside = [], False
    for line in (EXAMPLES / f"{name}.py").read_text().splitlines():
        if line.startswith("# %%"):
            inside = "[markdown]" in line
        elif line.strip() and line != "#":
            wanted.append(line.removeprefix("# ") if inside else line)
    assert lines == wanted and len(text) > 50
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_every_text_with_cells_has_a_notebook():
    texts = {path.stem for path in EXAMPLES.glob("*.py") if path.read_text().startswith("# %%")}
    assert texts == set(NAMES) == {path.stem for path in EXAMPLES.glob("*.ipynb")}


# ---- what they show


def test_the_example_run(folder):
    run = fgg.open_run(folder / "fgg-example")
    assert run.accuracy["test"]["accuracy"] > 0.95 and list(run.saes) == [1, 2]
    assert run.sae_quality()["explained_variance"].min() > 0.8
    images = run.images(None)
    predicted = fgg.attribute(run.model, images.tensors).predicted
    assert float((predicted == images.labels).double().mean()) == pytest.approx(run.accuracy["test"]["accuracy"])
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    fgg.example_run(folder / "fgg-example")
    assert len(files) == 3 and files == {path: path.stat().st_mtime_ns for path in files}, "it is opened, not made anew"


def test_first_steps(execute):
    said, pictures = execute("first_steps")
    assert pictures == 4
    names = re.findall(r"(?m)^(\S.*\S) +SRG", said)
    assert names == ["TransMM", "gated", "gated, shuffled", "random"]
    transmm, *_, random = numbers(r"SRG ([+-]\d\.\d+)", said)
    assert transmm > 0.1 > abs(random), "a map of a model that has learnt something beats chance"


def test_own_model_and_images(execute, folder):
    said, pictures = execute("own_model_and_images")
    assert pictures == 5
    right, shifted, reversed_order = numbers(r"(?m)^(?:as trained|mean and|classes in).* (\d\.\d+)$", said)
    assert right > 0.9 and right >= shifted and reversed_order < 0.2
    text = (EXAMPLES / "own_model_and_images.py").read_text()
    mean, std = (json.loads(re.search(rf"{name}: (\[.*?\])", text)[1]) for name in ("mean", "std"))
    preprocess = fgg.open_run(folder / "fgg-example").preprocess
    assert mean == pytest.approx(preprocess.mean, abs=1e-3) and std == pytest.approx(preprocess.std, abs=1e-3)


def test_own_method_and_metric(execute):
    said, pictures = execute("own_method_and_metric")
    assert pictures == 1 and "the map depends on the class: False" in said
    scores = dict(zip(("late", "last", "transmm", "random"), numbers(r"([+-]\d\.\d+) ±", said), strict=True))
    assert scores["transmm"] > scores["random"]


def test_sae_from_another_library(execute, folder):
    said, pictures = execute("sae_from_another_library")
    assert pictures == 1 and "the SAE for layer 2 was trained on resid_post_layer_1" in said
    assert numbers(r"largest difference of a code: (\S+),", said)[0] <= 1e-4
    variance, rescaled = numbers(r"(?m)^(?:explained variance|if activations).* (-?\d\.\d+)$", said)
    assert variance > 0.9 and variance > rescaled
    # The files are the library's: its own class reads them, and computes the same codes.
    own = dictionary_learning("trainers.top_k").AutoEncoderTopK.from_pretrained(
        str(folder / "trainer_0" / "ae.pt"), k=16
    )
    rows = 3 * torch.randn(50, own.activation_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(own.encode(rows), fgg.load_sae(folder / "trainer_0").encode(rows), atol=1e-4)
