"""Where the workflow's files lie: beside the package in a clone of the repository, inside it after ``pip install``.

Does not import torch. A Snakefile of one's own can name the workflow as ``SNAKEFILE`` (docs/module.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgg.data.settings_files import parse_settings
from fgg.errors import FggError

PACKAGE = Path(__file__).resolve().parents[1]  # fgg/ itself
INSTALLED = "_workflow"  # the folder of the workflow in an installed package (pyproject.toml)
LINKED = Path(".snakemake", "fgg", "packages")  # in the working folder


def workflow_folder(package: Path) -> Path:
    """The folder with Snakefile, config.yaml, workflow/, profiles/ and envs/, for the package in a folder."""
    inside = package / INSTALLED
    return package.parent if not inside.is_dir() and (package.parent / "Snakefile").is_file() else inside


WORKFLOW = workflow_folder(PACKAGE)
SNAKEFILE = WORKFLOW / "Snakefile"


def import_folder(package: Path, deployed: bool) -> str | None:
    """The folder from which jobs import the package; None if their interpreter finds it by itself.

    Args:
        package: the folder of the package.
        deployed: whether jobs run in another environment than Snakemake, such as one of conda. The packages installed beside
            fgg must not get into it: a link in the working folder then leads to fgg alone.
    """
    if not (package / INSTALLED).is_dir():
        return str(package.parent)
    if not deployed:
        return None
    link = Path.cwd() / LINKED / package.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.resolve() != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package, target_is_directory=True)
    return str(link.parent)


def check_no_other_package(folders: Sequence[Path], package: Path = PACKAGE) -> None:
    """Check that the folder of a run holds no other copy of the package, which its jobs would import.

    Raises:
        FggError: it does.
    """
    for folder in folders:
        other = folder / package.name
        if (other / "__init__.py").is_file() and not other.samefile(package):
            raise FggError(
                f"{folder} has a package {package.name} of its own, which the jobs would use instead of the installed one "
                f"({package}); run in another folder, or install this one with pip install --editable"
            )


def over_defaults(config: Mapping[str, Any], workflow: Path = WORKFLOW) -> dict[str, Any]:
    """The settings of a Snakefile that uses this workflow as a module, over those of config.yaml, as with ``--configfile``."""
    text = (workflow / "config.yaml").read_text(encoding="utf-8")
    return _merged(parse_settings(text, "YAML"), config)


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def check_unmoved(modified: Callable[[str], str]) -> None:
    """Check that a module does not move the workflow's files.

    Args:
        modified: the function of Snakemake that applies ``prefix`` or ``replace_prefix`` to a path.

    Raises:
        FggError: it moves them.
    """
    for path in ("data/models", "results/summary.csv", "logs/model"):
        if modified(path) != path:
            raise FggError(
                f"module: prefix and replace_prefix cannot be used with this workflow ({path} would become {modified(path)}), "
                "since its commands name folders; leave them out, and choose the folder with `workdir:` or --directory"
            )
