"""The sharpened control's corners: zeros, constants, and maps without spread."""

import definitions as slow
import numpy as np
import pytest

from fgg.attribution import controls


def test_sharpen_with_other_zeros_in_each_map():
    """The spread is over each map's own positive patches, and zeros stay zero."""
    draw = np.random.default_rng(0)
    vanilla, gated = draw.random((5, 9)).astype(np.float32), draw.random((5, 9)).astype(np.float32) ** 4
    vanilla[:, :2], gated[:, 4:8] = 0, 0
    out = controls.sharpen(vanilla, gated)
    assert out.dtype == np.float32
    for row, before, after in zip(out, vanilla, gated, strict=True):
        np.testing.assert_allclose(row / row.max(), slow.sharpen(before.tolist(), after.tolist()), rtol=2e-5)
        assert row.max() == pytest.approx(before.max())
        assert slow.log_spread(row.tolist()) == pytest.approx(slow.log_spread(after.tolist()), rel=1e-5)


def test_sharpen_where_there_is_nothing_to_sharpen():
    vanilla = np.array([[0.3, 0.3, 0.3], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.1, 0.2, 0.4]], np.float32)
    gated = np.array([[0.1, 0.2, 0.9], [0.1, 0.2, 0.9], [0.1, 0.2, 0.9], [0.0, 0.0, 0.7]], np.float32)
    out = controls.sharpen(vanilla, gated)
    np.testing.assert_array_equal(out[0], vanilla[0])  # a constant map stays constant under every power
    assert np.isnan(out[1:]).all()


def test_a_flat_gated_map_flattens():
    out = controls.sharpen(np.array([[0.1, 0.2, 0.4, 0.0]], np.float32), np.full((1, 4), 0.5, np.float32))
    np.testing.assert_allclose(out, [[0.4, 0.4, 0.4, 0.0]])


def test_keyed_rows_do_not_depend_on_each_other():
    for draw in (controls.random_relevance, lambda names, n, seed: controls.permutation(names, n, 2, seed)):
        rows = draw(["a", "b", "c"], 12, 7)
        assert (draw(["c", "a"], 12, 7) == rows[[2, 0]]).all()
        assert (draw(["a"], 12, 8) != rows[:1]).any()
        assert len({tuple(row) for row in rows.tolist()}) == 3
        assert draw([], 12, 7).shape == (0, 12)


def test_values_are_laid_in_an_order_one_by_one():
    draw = np.random.default_rng(1)
    values, order = draw.random((4, 10)).astype(np.float32), draw.integers(0, 4, (4, 10)).astype(np.float32)
    out = controls.laid(values, order)
    for row, own, other in zip(out, values, order, strict=True):
        places = sorted(range(10), key=lambda i: (-other[i], i))
        expected = [0.0] * 10
        for place, value in zip(places, sorted(own, reverse=True), strict=True):
            expected[place] = value
        assert row.tolist() == expected
    own = draw.random((3, 7)).astype(np.float32)
    np.testing.assert_array_equal(controls.laid(own, own**3), own)
    values[1, 3] = np.nan
    assert np.isnan(controls.laid(values, order)).all(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("power", [0.5, 2, 4])
def test_a_power_keeps_order_sign_and_largest_size(power):
    maps = np.random.default_rng(2).normal(size=(5, 12)).astype(np.float32)
    out = controls.powered(maps, power)
    np.testing.assert_array_equal(np.argsort(out, axis=1), np.argsort(maps, axis=1))
    np.testing.assert_array_equal(np.sign(out), np.sign(maps))
    np.testing.assert_allclose(np.abs(out).max(1), np.abs(maps).max(1), rtol=1e-6)
    for row, own in zip(out, maps, strict=True):
        top = max(abs(own))
        np.testing.assert_allclose(row, [np.sign(x) * top * (abs(x) / top) ** power for x in own], rtol=1e-4)
    assert (controls.powered(np.zeros((1, 4), np.float32), power) == 0).all()


def test_sharpening_keeps_signs_and_order():
    """The spread is that of the logarithm of the absolute values."""
    vanilla = np.array([[-2.0, 0.5, 0.0, 1.0, -0.25]], np.float32)
    gated = np.array([[4.0, -1.0, 0.1, 0.0, 0.02]], np.float32)
    found = controls.sharpen(vanilla, gated)[0]
    assert np.argsort(found).tolist() == np.argsort(vanilla[0]).tolist()
    assert np.sign(found).tolist() == np.sign(vanilla[0]).tolist()
    logs = [np.log(np.abs(row[row != 0])) for row in (found.astype(np.float64), gated[0].astype(np.float64))]
    assert logs[0].std() == pytest.approx(logs[1].std(), rel=1e-5)
