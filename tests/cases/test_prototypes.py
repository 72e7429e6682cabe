"""The prototype index against a sort of everything, and against the research code's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fgg.cases import prototypes
from fgg.cases.prototypes import PrototypeIndex


def by_sorting(codes: torch.Tensor, k: int, threshold: float) -> list[list[tuple[int, int, float]]]:
    """Per feature the (image, patch, activation) of the k strongest, from all codes (B, N, F) at once."""
    found = []
    for feature in range(codes.shape[2]):
        entries = [
            (image, patch, codes[image, patch, feature].item())
            for image in range(codes.shape[0])
            for patch in range(codes.shape[1])
            if codes[image, patch, feature] > threshold
        ]
        found.append(sorted(entries, key=lambda entry: -entry[2])[:k])
    return found


def as_lists(found: prototypes.Prototypes) -> list[list[tuple[int, int, float]]]:
    rows = zip(found.image.tolist(), found.patch.tolist(), found.activation.tolist(), strict=True)
    return [[entry for entry in zip(*row, strict=True) if entry[0] >= 0] for row in rows]


@pytest.mark.parametrize("most_floats", [7 * 5, 2**26])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_it_finds_what_sorting_everything_finds(batch, most_floats, monkeypatch):
    monkeypatch.setattr(prototypes, "MOST_FLOATS", most_floats)
    codes = torch.randn(8, 6, 7, generator=torch.Generator().manual_seed(0)).relu()
    codes[:, :, 2] = 0  # a dead feature
    codes[1:, :, 3] = 0  # fewer patches than k
    index = PrototypeIndex(7, 5, threshold=0.1)
    for part in codes.split(batch):
        index.add(part)
    found = index.prototypes()
    assert found.activation.shape == found.image.shape == found.patch.shape == (7, 5)
    assert as_lists(found) == by_sorting(codes, 5, 0.1)
    assert (found.activation[2] == 0).all() and (found.image[2] == -1).all() and (found.patch[2] == -1).all()


def test_the_earlier_of_equal_activations_stays():
    index = PrototypeIndex(1, 2)
    for value in (1.0, 2.0, 1.0, 2.0):
        index.add(torch.full((1, 1, 1), value))
    assert index.prototypes().image.tolist() == [[1, 3]]


def test_the_research_codes_index_is_reproduced(reference):
    stored = json.loads((reference / "feature_activation_index.json").read_text())
    codes = torch.from_numpy(np.load(reference / "internals.npz")[f"codes_L{stored['layer']}"])[:, 1:]
    index = PrototypeIndex(codes.shape[2], stored["top_k"], stored["active_feature_threshold"])
    for part in codes.split(2):
        index.add(part)
    for feature, entries in enumerate(as_lists(index.prototypes())):
        expected = stored["index"].get(str(feature), [])
        assert [entry[:2] for entry in entries] == [tuple(entry[:2]) for entry in expected]
        np.testing.assert_allclose([e[2] for e in entries], [e[2] for e in expected], atol=2e-5)
