"""Adds the workflow to the package. All else is in pyproject.toml, where packages are either found or named, but not both."""

from __future__ import annotations

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

WORKFLOW = "fgg._workflow"


class BuildPackage(build_py):
    """Builds the package; the root of the repository, which is the folder of the workflow, gives it no modules."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """The modules of a package: its name, theirs, and their files."""
        return [] if package == WORKFLOW else super().find_package_modules(package, package_dir)


setup(
    packages=[*find_namespace_packages(include=["fgg", "fgg.*"]), WORKFLOW],
    cmdclass={"build_py": BuildPackage},
)
