"""The project as a whole: lists that must agree, rules that must have one shape, names that others rely on."""

import ast
import inspect
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

import fgg
from fgg.attribution.registry import methods
from fgg.catalogue import CONSTRUCTIONS, CONTROLS, DICTIONARIES, SANITY
from fgg.faithfulness.registry import SPECIAL, defaults, metrics
from fgg.jobs.command import ARGUMENTS
from fgg.pipeline.configuration import schema_rules
from fgg.pipeline.parameters import Parameters
from fgg.report.contents import figures

ROOT = Path(__file__).parents[1]
SCHEMA = schema_rules(ROOT / "workflow" / "schemas" / "config.schema.yaml")
MODULES = sorted((ROOT / "fgg").rglob("*.py"))
RULE_FILES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
# Where the name to import is not the name to install.
INSTALLED_AS = {
    "markdown_it": "markdown-it-py",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "sae_lens": "sae-lens",
    "open_clip": "open-clip-torch",
    "huggingface_hub": "huggingface-hub",
}
PIN = re.compile(r"(?P<name>[a-z0-9]+(-[a-z0-9]+)*)==(?P<version>\d[\w.]*)(; sys_platform == \"linux\")?")


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(name):
    text = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in text if line.strip() and not line.startswith("#")]


def pins(name):
    return {PIN.fullmatch(line)["name"]: PIN.fullmatch(line)["version"] for line in lines(name)}


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.match(r"[A-Za-z0-9-]+", entry)[0] for entry in project["dependencies"]}


@cache
def rules():
    """Rule name -> its text; `use rule` adds to the text of the rule it uses."""
    found = {}
    for path in RULE_FILES:
        parts = re.split(r"(?m)^(?=rule |use rule |def |if |try:|wildcard_constraints:|[A-Z_]+ = )", path.read_text())
        for part in parts:
            if new := re.match(r"rule (\w+):", part):
                found[new[1]] = part
            elif used := re.match(r"use rule (\w+) as (\w+) with:", part):
                found[used[2]] = found[used[1]] + part
    return found


# ---- what is installed


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_names_no_host(name):
    assert lines(name)
    assert not [line for line in lines(name) if not PIN.fullmatch(line)]
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|(?m:^-)", text)


def test_no_requirement_comes_twice():
    names = [
        PIN.fullmatch(line)["name"] for name in ("requirements.txt", "requirements-dev.txt") for line in lines(name)
    ]
    assert sorted(names) == sorted(set(names))


def test_the_conda_environments_have_the_tested_versions():
    files = sorted((ROOT / "envs").glob("*.yaml"))
    assert files
    for path in files:
        (pip,) = [entry["pip"] for entry in yaml.safe_load(path.read_text())["dependencies"] if isinstance(entry, dict)]
        assert pip and not [entry for entry in pip if not PIN.fullmatch(entry)]
        tested = pins("requirements.txt")
        assert {entry: tested.get(entry.split("==")[0]) for entry in pip} == {
            entry: entry.split("==")[1] for entry in pip
        }
        assert declared() <= {entry.split("==")[0] for entry in pip}, "what the code imports"


def test_every_imported_package_is_declared_and_pinned():
    imported = set()
    own = [path for path in MODULES if path.name != "peers.py"]  # which imports what is installed of other libraries
    for node in (node for path in own for node in ast.walk(tree(path))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    packages = {INSTALLED_AS.get(name, name) for name in imported - {"fgg"} - sys.stdlib_module_names}
    assert {"torch", "pillow", "sae-lens", "timm"} <= packages
    assert packages <= declared()
    assert declared() <= pins("requirements.txt").keys()


def test_pins_obey_the_declared_bounds():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert pins("requirements.txt")[requirement.name] in requirement.specifier, requirement


# ---- the workflow


def test_every_rule_has_one_shape():
    assert len(rules()) >= 9
    for name, text in rules().items():
        for directive in ("log", "conda", "message", "output", "shell", "params"):
            assert re.search(rf"(?m)^    {directive}:", text), f"rule {name} has no {directive}"
        assert not re.search(r"(?m)^    (run|script):|\blambda\b", text), name


def test_every_rule_runs_a_command_of_the_package_and_watches_its_code():
    for name, text in rules().items():
        modules = set(re.findall(r"python -m (fgg[\w.]*)", text))
        assert len(modules) == 1, name
        (module,) = modules
        place = ROOT.joinpath(*module.split("."))
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__main__.py"
        assert file.is_file(), f"rule {name}: {module} does not exist"
        assert "if __name__ == " in file.read_text(encoding="utf-8"), f"rule {name}: {module} is no command"
        watched = module if file.name != "__main__.py" else f"{module}.__main__"
        # Either the code is named, or a method of the study adds to it the code of methods, metrics and the like.
        (code,) = set(re.findall(r"code=parameters\.(.*),\n", text))
        place = inspect.getsource(getattr(Parameters, code)) if "(" not in code else code
        assert f'"{watched}"' in place, name


def test_every_command_of_a_rule_knows_its_options():
    for name, text in rules().items():
        (module,) = set(re.findall(r"python -m (fgg[\w.]*)", text))
        place = ROOT.joinpath(*module.split("."))
        file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__main__.py"
        shell = "".join(re.findall(r'(?m)^        "(.*)"$', text.split("shell:")[-1]))
        used = set(re.findall(r"(?<= )--[a-z-]+", shell)) | ({"--sae"} if "{params.saes}" in shell else set())
        used |= {"--responses"} if "{params.responses}" in shell else set()
        known, required = set(), set()
        files = [file, *(file.parent.glob("job.py") if file.name == "__main__.py" else ())]
        for node in (node for each in files for node in ast.walk(tree(each))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                option = ast.literal_eval(node.args[0])
                known.add(option)
                if any(each.arg == "required" and ast.literal_eval(each.value) for each in node.keywords):
                    required.add(option)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "add_arguments":
                for option in [*map(ast.literal_eval, node.args[1:]), *(each.arg for each in node.keywords)]:
                    known.add(f"--{option}")
                    if ARGUMENTS[option].get("required"):
                        required.add(f"--{option}")
        assert required <= used <= known, (name, required - used, used - known)


def test_every_rule_file_is_included_and_every_caption_exists():
    included = re.findall(r'(?m)^include: "(.*)"', (ROOT / "Snakefile").read_text())
    assert sorted(included) == [f"workflow/rules/{path.name}" for path in RULE_FILES]
    for path in RULE_FILES:
        for caption in re.findall(r'caption="\.\./(report/\w+\.rst)"', path.read_text()):
            assert (ROOT / "workflow" / caption).is_file(), caption
    for figure in ["metric", *(name for name in figures(metrics()) if name not in metrics())]:
        assert (ROOT / "workflow" / "report" / f"{figure}.rst").is_file(), figure


def test_a_rule_has_the_name_of_its_log():
    for name, text in rules().items():
        logs = re.findall(r'(?m)^    log:\n        "logs/(.*)"', text)
        assert logs and all(log.endswith(".log") for log in logs), name


# ---- lists that must agree


def test_the_catalogue_and_the_schema_agree():
    grid, gated = (SCHEMA["$defs"][name]["properties"] for name in ("experiments", "gated"))
    named, with_options = grid["baselines"]["items"]["anyOf"]
    assert named == {"type": "string", "registry": "attribution methods"}
    assert with_options["properties"]["method"]["registry"] == "attribution methods"
    assert gated["methods"]["items"] == named
    assert set(grid["controls"]["items"]["enum"]) == {*CONTROLS, *DICTIONARIES, "powers"}
    assert set(grid["sanity"]["items"]["enum"]) == set(SANITY)
    assert set(gated["construction"]["items"]["enum"]) == set(CONSTRUCTIONS)
    assert set(SCHEMA["$defs"]["metrics"]["properties"]) == {*metrics(), *SPECIAL}


def test_the_schema_and_the_preprocessing_agree():
    from fgg.data.preprocess import CHANNELS, INTERPOLATIONS

    keys = SCHEMA["$defs"]["preprocess"]["properties"]
    assert set(keys["channels"]["enum"]) == {*CHANNELS, None}
    assert set(keys["interpolation"]["enum"]) == {*INTERPOLATIONS, None}


def test_the_methods_and_metrics_of_the_catalogue():
    assert {"random", "rollout", "gradcam", "tokentm", "transmm"} <= set(methods())
    assert {name: metrics()[name].sign for name in defaults()} == {
        "saco": 1,
        "faithfulness_correlation": 1,
        "pixel_flipping": -1,
        "srg": 1,
    }
    assert all(entry.title and entry.citation for entry in [*methods().values(), *metrics().values()])
    assert [name for name, entry in CONSTRUCTIONS.items() if not entry.needs_sae] == ["no_sae"]
    assert [name for name, entry in CONSTRUCTIONS.items() if not entry.needs_gradient] == ["activation_only"]


# ---- the code


def test_no_absolute_path():
    # Devices, the kernel's books, and the usual places of caches, which have one place.
    allowed = {
        "fgg/pipeline/environment.py": {"/dev", "/dev/nvidiactl", "/dev/kfd"},
        "fgg/jobs/command.py": {"/proc/self/stat"},
        "fgg/pipeline/runs.py": {"/proc/{self.process}/cmdline"},
        "fgg/pipeline/before_snakemake.py": {"~/.cache/huggingface", "~/.cache/torch", "~/.cache/snakemake"},
    }
    absolute = re.compile(r"""["'](/\w[^"'\s]*|~/[^"']*|[A-Z]:\\\\[^"']*)["']""")
    for path in [*MODULES, *RULE_FILES, ROOT / "Snakefile", ROOT / "config.yaml"]:
        place = path.relative_to(ROOT).as_posix()
        assert set(absolute.findall(path.read_text(encoding="utf-8"))) <= allowed.get(place, set()), place


def test_no_error_is_swallowed_unseen():
    # Readers of damaged bytes, which raise anything; both turn it into an FggError or a reason.
    allowed = {"fgg/saes/formats/torch_files.py": 1, "fgg/data/images.py": 1}
    found = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            ):
                place = path.relative_to(ROOT).as_posix()
                found[place] = found.get(place, 0) + 1
    assert found == allowed
    assert not [path for path in RULE_FILES if re.search(r"except( Exception)?:", path.read_text())]


def test_every_public_name_has_a_docstring():
    missing = []
    for path in MODULES:
        module = tree(path)
        place = path.relative_to(ROOT).as_posix()
        if module.body and not ast.get_docstring(module):
            missing.append(place)
        for node in module.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            missing += [f"{place}: {node.name}"] * (not ast.get_docstring(node))
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                public = isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_")
                is_property = public and "property" in [ast.unparse(each) for each in inner.decorator_list]
                if public and not is_property and not ast.get_docstring(inner):
                    missing.append(f"{place}: {node.name}.{inner.name}")
    assert not missing


def test_no_file_is_long():
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {place: size for place, size in sizes.items() if size > 300}


def test_nothing_in_the_package_knows_snakemake():
    assert not [path for path in MODULES if re.search(r"(?m)^\s*(import|from) snakemake|snakemake\.", path.read_text())]


def test_dependence_runs_one_way():
    order = [
        "jobs",
        "data",
        "models",
        "saes",
        "perturbation",
        "attribution",
        "faithfulness",
        "features",
        "comparison",
        "report",
        "cases",
        "explain",
    ]
    against = set()
    for path in MODULES:
        place = path.relative_to(ROOT).as_posix()
        room = place.split("/")[1]
        for node in ast.walk(tree(path)):
            if room in order and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fgg."):
                other = node.module.split(".")[1]
                if other in order and order.index(other) > order.index(room):
                    against.add((place, other))
    assert not against
    torch_only = {
        node.module for node in ast.walk(tree(ROOT / "fgg" / "gating.py")) if isinstance(node, ast.ImportFrom)
    }
    assert not [name for name in torch_only if name.startswith("fgg")], "the method depends on torch alone"


def test_modules_do_not_import_each_other_in_a_circle():
    """Neither at their head nor later, nor for types alone."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    imported = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imported[name] = (found & set(names)) - {name}
    left = set(names)
    while free := {name for name in left if not imported[name] & left}:
        left -= free
    assert not left


# ---- the public interface


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("load_model", ["architecture", "kwargs", "weights", "num_classes"]),
        ("load_sae", ["path"]),
        ("Gate", ["layers", "construction", "clamp_max", "alpha", "shuffle_decoder", "shuffle_seed"]),
        ("attribute", ["model", "images", "method", "gate", "saes", "target"]),
        ("saco", ["model", "images", "relevance", "target", "bins", "protocol"]),
        ("pixel_flipping", ["model", "images", "relevance", "target", "patches_per_step", "fill", "protocol"]),
        ("faithfulness_correlation", ["model", "images", "relevance", "target", "subsets", "protocol"]),
    ],
)
def test_the_public_names_take_what_was_promised(name, parameters):
    found = inspect.signature(getattr(fgg, name)).parameters
    assert list(found)[: len(parameters)] == parameters
    later = list(found.values())[len(parameters) :]
    added = [each for each in later if each.kind != each.VAR_KEYWORD]
    assert all(each.default is not each.empty for each in added), "what was added must be optional"


def test_the_defaults_that_were_promised():
    defaults = {
        name: {key: each.default for key, each in inspect.signature(getattr(fgg, name)).parameters.items()}
        for name in ("Gate", "attribute", "saco", "pixel_flipping", "faithfulness_correlation")
    }
    assert {key: value for key, value in defaults["Gate"].items() if key != "layers"} == {
        "construction": "combined",
        "clamp_max": 10.0,
        "alpha": 1.0,
        "shuffle_decoder": False,
        "shuffle_seed": 12345,
    }
    assert defaults["attribute"]["method"] == "transmm"
    assert defaults["pixel_flipping"]["fill"] == "mean" and defaults["pixel_flipping"]["patches_per_step"] == 1
    assert {defaults[name]["protocol"] for name in defaults if "protocol" in defaults[name]} == {"corrected"}
    assert all(defaults[name]["target"] is None for name in defaults if name != "Gate")


def test_every_public_name_exists():
    for name in fgg.__all__:
        assert getattr(fgg, name) is not None
    assert set(fgg.__all__) <= set(dir(fgg))
    with pytest.raises(AttributeError, match="no attribute 'attributes'"):
        fgg.attributes  # noqa: B018


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fgg.__version__ == project["version"]
