"""What the Snakemake rules lean on: hashes of code, settings of a job, warnings; all of it without torch."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from fgg import degeneracy
from fgg.pipeline.code_hashes import code_hash
from fgg.pipeline.environment import accelerators, use_environment
from fgg.pipeline.job_settings import as_json, pick
from fgg.pipeline.study import known_layers, warn_degenerate
from fgg.pipeline.user_files import missing_files, own_files

ROOT = Path(__file__).parents[2]
FILES = {
    "toy/__init__.py": "",
    "toy/start.py": "from toy.middle import half\n\n\ndef main():\n    import toy.late\n    return half(4)\n",
    "toy/middle.py": "import json\n\nfrom toy import deep\n\n\ndef half(x):\n    return deep.divide(x, 2)\n",
    "toy/deep.py": "def divide(a, b):\n    return a / b\n",
    "toy/late.py": "VALUE = 1\n",
    "toy/unrelated.py": "VALUE = 1\n",
}


@pytest.fixture
def toy(tmp_path):
    """A function: changed files -> the hash of toy.start."""
    code_hash.cache_clear()

    def fresh(**changes):
        for name, text in FILES.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(changes.get(path.stem, text))
        code_hash.cache_clear()
        return code_hash("toy.start", str(tmp_path))

    yield fresh
    code_hash.cache_clear()


# ---- hashes of code


def test_the_hash_is_short_and_stable(toy):
    first = toy()
    assert first == toy() and len(first) == 12 and int(first, 16) >= 0


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("start", FILES["toy/start.py"].replace("4", "5")),
        ("middle", FILES["toy/middle.py"].replace("2", "3")),
        ("deep", "def divide(a, b):\n    return b / a\n"),
        ("late", "VALUE = 2\n"),
        ("__init__", "VALUE = 1\n"),
    ],
)
def test_a_change_of_what_is_imported_changes_the_hash(toy, module, text):
    before = toy()
    assert toy(**{module: text}) != before


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("deep", "# how to divide\ndef divide(a, b):\n\n    return (a\n            / b)  # so\n"),
        ("deep", '"""Division."""\n\n\ndef divide(a, b):\n    """The quotient."""\n    return a / b\n'),
        ("unrelated", "VALUE = 2\n"),
    ],
)
def test_comments_layout_and_strangers_do_not_count(toy, module, text):
    before = toy()
    assert toy(**{module: text}) == before


def test_where_the_package_lies_does_not_count(toy, tmp_path):
    before = toy()
    (tmp_path / "toy").rename(tmp_path / "moved")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (tmp_path / "moved").rename(other / "toy")
    assert code_hash("toy.start", str(other)) == before


def test_hashing_imports_nothing(tmp_path):
    (tmp_path / "toy2").mkdir()
    (tmp_path / "toy2" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "toy2" / "start.py").write_text("raise SystemExit('imported')\n")
    assert code_hash("toy2.start", str(tmp_path)) and "toy2" not in sys.modules


@pytest.mark.parametrize(
    ("line", "covered"),
    [
        ("from . import deep", True),
        ("from .deep import divide", True),
        ("from .sub import late", False),
        ("import toy.sub.inner", True),
        ("from toy.sub import inner", True),
        ("from toy.sub.inner import divide", True),
        ("from toy import sub", False),
    ],
)
def test_every_way_of_importing_counts(toy, tmp_path, line, covered):
    (tmp_path / "toy/sub").mkdir(parents=True)
    (tmp_path / "toy/sub/__init__.py").write_text("")
    (tmp_path / "toy/sub/inner.py").write_text("def here():\n    from ..deep import divide\n    return divide\n")
    start = line + "\n"
    before = toy(start=start)
    assert (toy(start=start, deep="def divide(a, b):\n    return b / a\n") != before) == covered


def bare(text):
    """The syntax tree of a module without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del body[0]
    return tree


def test_the_hash_of_a_command_covers_what_python_would_find():
    """Against the standard library's own search for imports."""
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    commands = set(re.findall(r"python -m (fgg[\w.]*)", text))
    commands = {
        name if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file() else f"{name}.__main__"
        for name in commands
    }
    assert len(commands) > 15
    for command in commands:
        finder = ModuleFinder(path=[str(ROOT)])
        finder.import_hook(command)
        files = sorted(str(found.__file__) for found in finder.modules.values() if found.__file__)
        trees = "".join(ast.dump(bare(Path(file).read_text())) for file in files)
        assert code_hash(command, str(ROOT)) == hashlib.sha256(trees.encode()).hexdigest()[:12], command


# ---- settings of a job


def test_pick_takes_from_the_dataset_first():
    config = {"seed": 1, "split": "no", "device": "cpu", "metrics": {"saco": {"bins": 1}}}
    dataset = {"split": "test", "sae": {"train": {"k": 3}, "weights": "train"}, "metrics": {"saco": {"bins": 2}}}
    assert pick(config, dataset, ["seed", "split"]) == {"seed": 1, "split": "test"}
    assert pick(config, dataset, ["sae.weights", "sae.train"]) == {"weights": "train", "train": {"k": 3}}
    assert pick(config, dataset, ["metrics.saco.bins", "device"]) == {"bins": 2, "device": "cpu"}
    with pytest.raises(KeyError):
        pick(config, dataset, ["sead"])


def test_as_json_has_one_spelling():
    assert as_json({"b": [1, None], "a": {"d": True, "c": "ü"}}) == as_json(
        {"a": {"c": "ü", "d": True}, "b": [1, None]}
    )
    assert json.loads(as_json({"a": [0.1, "x y"]})) == {"a": [0.1, "x y"]}
    assert "\n" not in as_json({"a": [1, 2]}) and " " not in as_json({"a": [1, 2]})


def test_as_json_does_not_mind_the_spelling_of_numbers():
    assert as_json({"l1": 1, "rate": [10]}) == as_json({"l1": 1.0, "rate": [10.0]})


# ---- devices


def test_gpus_of_a_job(monkeypatch):
    assert [accelerators("cpu", local) for local in (True, False)] == [0, 0]
    assert [accelerators("cuda", local) for local in (True, False)] == [1, 1]
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert accelerators("auto", local=True) == 0
    assert accelerators("auto", local=False) == 1, "a cluster's nodes are taken to have one"
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    assert accelerators("auto", local=True) == 1


def test_jobs_find_this_python_and_the_package(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setenv("PATH", "elsewhere")
    monkeypatch.setenv("PYTHONPATH", "mine")
    use_environment("there")
    assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "elsewhere"]
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["there", "mine"]
    monkeypatch.delenv("PYTHONPATH")
    use_environment("there")
    assert os.environ["PYTHONPATH"] == "there", "an empty entry would mean the working folder"


# ---- degenerate layers


def test_known_layers_are_measured_or_else_expected(tmp_path):
    expected = {0: "ok", 1: "cancelled", 2: "zero"}
    assert known_layers(tmp_path, 3) == expected
    assert known_layers(tmp_path, None) == {}
    (tmp_path / "model.json").write_text("{")
    assert known_layers(tmp_path, 3) == expected
    (tmp_path / "model.json").write_text("{}")
    assert known_layers(tmp_path, 3) == expected
    layers = [{"layer": 0, "status": "cancelled"}, {"layer": 1, "status": "ok"}]
    (tmp_path / "model.json").write_text(json.dumps({"layers": layers}))
    assert known_layers(tmp_path, 3) == {0: "cancelled", 1: "ok"}


@pytest.mark.parametrize("text", ["[]", '{"layers": null}'])
def test_a_foreign_model_json_does_not_stop_the_workflow(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    assert known_layers(tmp_path, 1) == {0: "zero"}


def test_expected_layers_of_shallow_models():
    assert degeneracy.expected(1) == {0: "zero"}
    assert degeneracy.expected(2) == {0: "cancelled", 1: "zero"}
    assert degeneracy.expected(12)[9] == "ok"


def gated(construction, *layers):
    return {"method": "transmm", "gate": {"layers": list(layers), "construction": construction}, "control": None}


@pytest.mark.parametrize(
    ("construction", "at_cancelled", "at_zero"),
    [
        ("combined", "only the SAE's bias and reconstruction error", "the gradient at the patches is zero"),
        ("no_sae", "rounding noise", "the gradient at the patches is zero"),
        ("gradient_only", "", "the gradient at the patches is zero"),
        ("activation_only", "", ""),
    ],
)
def test_what_is_said_of_a_degenerate_layer(construction, at_cancelled, at_zero):
    status = degeneracy.expected(4)
    assert degeneracy.note(gated(construction, 0, 1), status) == ""
    for layer, wanted in ((2, at_cancelled), (3, at_zero)):
        remark = degeneracy.note(gated(construction, 0, layer), status)
        assert (wanted in remark and f"layer {layer}: " in remark) if wanted else remark == ""
        assert "layer 0" not in remark
    if at_cancelled:
        assert degeneracy.note(gated(construction, 2, 3), status).count("; layer 3: ") == 1


def test_warnings_name_the_experiments(capsys):
    grid = {"transmm": {"method": "transmm"}, "fine": gated("combined", 0), "bad": gated("no_sae", 1, 2)}
    warn_degenerate("tiny", grid, degeneracy.expected(4))
    out, err = capsys.readouterr()
    assert out == "", "standard output is for graphs"
    assert err.startswith("warning: tiny: bad: layer 2: residual x gradient is analytically zero")
    assert err.count("\n") == 1
    warn_degenerate("tiny", grid, {})
    assert capsys.readouterr().err == ""


# ---- quick imports


@pytest.mark.parametrize(
    "module",
    [
        "fgg",
        "fgg.pipeline.configuration",
        "fgg.pipeline.study",
        "fgg.catalogue",
        "fgg.degeneracy",
        "fgg.errors",
        "fgg.attribution.__main__",
        "fgg.faithfulness.__main__",
        "fgg.attribution.registry",
    ],
)
def test_light_modules_import_no_torch(module):
    program = (
        f"import sys, {module}\nprint(*sorted({{'torch', 'timm', 'sae_lens', 'transformers'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.strip() == ""


# ---- files of one's own


def test_own_files():
    assert own_files("train") == own_files("pretrained", [1, 2]) == []
    assert own_files("/m.pth") == ["/m.pth"]
    assert own_files("s/layer_{layer}", [2, 1]) == ["s/layer_1", "s/layer_2"]


def test_missing_files_are_named(tmp_path):
    settings = {
        "source": "image_folder",
        "path": str(tmp_path),
        "model": {"weights": "train"},
        "sae": {"weights": str(tmp_path / "{layer}"), "layers": [1, 3]},
    }
    (tmp_path / "1").mkdir()
    (fault,) = missing_files("mine", settings)
    assert fault.startswith(f"datasets.mine.sae.weights: {tmp_path / '3'} does not exist")
    settings |= {"path": "nowhere", "model": {"weights": "absent.pth"}}
    assert [fault.split(":")[0] for fault in missing_files("mine", settings)] == [
        "datasets.mine.path",
        "datasets.mine.model.weights",
        "datasets.mine.sae.weights",
    ]
