"""Paths with braces, which are wildcards for Snakemake."""

import string

import pytest

from fgg.errors import doubled_braces
from fgg.pipeline.user_files import nameable


@pytest.mark.parametrize("path", ["/a/{x}/b", "/{", "/}", "/{{x}}/", "/{dataset}/c", "/plain"])
def test_doubled_braces_come_out_as_they_were(path):
    assert string.Formatter().format(doubled_braces(path), dataset="wrong", x="wrong") == path


def test_files_with_braces_are_left_to_the_checksums():
    given = ["/a/b.pth", "/a/{x}/b.pth", "/a/}.pth", "c d$'.pth"]
    assert nameable(lambda wildcards: given)("any") == ["/a/b.pth", "c d$'.pth"]
