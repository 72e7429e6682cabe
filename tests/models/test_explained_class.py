"""The explained class: predicted, the label, or a class by its name."""

from __future__ import annotations

import numpy as np
import pytest

from fgg.errors import FggError
from fgg.models.explained_class import explained_class

LABELS, CLASSES = np.array([1, 0, 2]), ["cat", "dog", "label maker"]


def test_each_form():
    assert explained_class("predicted", LABELS, CLASSES) is None
    assert explained_class("label", LABELS, CLASSES).tolist() == [1, 0, 2]
    assert explained_class("dog", LABELS, CLASSES).tolist() == [1, 1, 1]
    assert explained_class("label maker", LABELS, CLASSES).tolist() == [2, 2, 2]


def test_an_unknown_class_is_refused_with_those_there_are():
    with pytest.raises(
        FggError, match="target: 'dgo' is not a class of the model; choose from predicted, label, cat, dog"
    ):
        explained_class("dgo", LABELS, CLASSES)


def test_an_image_without_a_label_is_refused():
    with pytest.raises(FggError, match="target: label needs a label for every image"):
        explained_class("label", np.array([0, -1]), CLASSES)
