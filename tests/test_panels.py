"""Panels of the report: bins of each column in its own units, legible and fit for a page."""

from xml.etree import ElementTree

import numpy as np
import pytest

from cpvae.data.objects import encode_frame
from cpvae.data.schema import Schema
from cpvae.report.panels import DRAWN, MOST_LEVELS, OTHERS, Axis, axes_of, panel


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    return {
        "plain": rng.normal(50, 10, 400),
        "skewed": np.exp(rng.normal(3, 2, 400)),
        "with zeros": np.where(rng.random(400) < 0.4, 0, np.exp(rng.normal(3, 2, 400))),
        "few": rng.integers(1, 6, 400).astype(float),
        "many": rng.integers(0, 400, 400).astype(float),
        "constant": np.full(400, 7.5),
        "gaps": np.where(rng.random(400) < 0.5, np.nan, 3.0 + rng.random(400)),
        "empty": np.full(400, np.nan),
        "flag": rng.integers(0, 2, 400).astype(float),
    }


def test_bins_hold_all_values_and_no_others(columns):
    x = np.column_stack(list(columns.values()))
    schema = Schema((x.shape[1],), tuple(columns))
    axes = axes_of(x, schema)
    for at, (name, values) in enumerate(columns.items()):
        axis = axes[name]
        shares = axis.shares(values)
        assert shares.shape == (axis.n_bins,)
        assert shares.sum() == pytest.approx(0 if name == "empty" else 1)
        if axis.edges is None:
            continue
        assert (np.diff(axis.edges) > 0).all()
        there = values[~np.isnan(values)]
        inside = there[(there >= axis.edges[0]) & (there < axis.edges[-1])]
        counts = np.histogram(inside, axis.edges)[0][1:-1] / max(len(there), 1)
        np.testing.assert_allclose(shares[1:-1], counts)  # the end bins also hold what lies beyond
        picture = ElementTree.fromstring(panel(axis, *[shares] * 3))
        ticks = [text.text for text in picture.iter("text")]
        assert ticks == list(axis.ticks), at
    assert axes["few"].n_bins == 5
    np.testing.assert_array_equal(
        axes["few"].shares(np.array([1.0, 5.0, 9.0])), [1 / 3, 0, 0, 0, 2 / 3]
    )
    assert axes["few"].ticks == ("1", "3", "5")
    assert {float(step) for step in np.diff(axes["many"].edges)} == {17.0}
    growth = axes["skewed"].edges[1:] / axes["skewed"].edges[:-1]
    np.testing.assert_allclose(growth, growth[0])
    assert axes["flag"].ticks == ("0", "1")


def test_levels_that_are_frequent_somewhere_get_a_bin(segmented):
    frame, component = segmented(300)
    frame["town"] = [f"town <{i % 40}>" for i in range(300)]
    frame.loc[component == 2, "town"] = "\x1bhere & there"
    x, schema = encode_frame(frame)
    axis = axes_of(x, schema, [component == k for k in range(3)])["town"]
    at = schema.names.index("town")
    assert axis.n_bins == MOST_LEVELS
    assert axis.ticks[-1] == OTHERS
    assert "\\x1bhere & there" in axis.ticks
    for k in range(3):
        shares = axis.shares(x[component == k, at])
        assert shares.sum() == pytest.approx(1)
    assert shares[axis.ticks.index("\\x1bhere & there")] == 1
    picture = ElementTree.fromstring(panel(axis, *[shares] * 3))  # letters that mean something
    assert len(list(picture.iter("rect"))) == MOST_LEVELS


def test_of_a_column_that_was_not_fitted_nothing_is_generated():
    x = np.array([[0.0, 1.5], [1.0, 2.5], [1.0, 4.0]], dtype=np.float32)
    axes = axes_of(x, Schema((2,), ("w", "n"), {"w": ["a", "b"]}))
    for at, name in enumerate("wn"):
        shares = axes[name].shares(x[:, at])
        with_drawn, without = (panel(axes[name], shares, of, shares) for of in (shares, None))
        assert DRAWN in with_drawn
        assert DRAWN not in without
        assert "generated" not in without


def test_long_marks_of_an_axis_do_not_lie_over_one_another():
    shares, edges = np.array([0.5, 0.5]), np.array([0.0, 1.0, 2.0])
    for ticks, shown in ((("1", "2", "3"), 3), (("2025-01-01", "2025-06-30", "2025-12-31"), 2)):
        picture = panel(Axis(edges, None, ticks), *[shares] * 3)
        assert [tick in picture for tick in ticks].count(True) == shown
        assert ticks[0] in picture
        assert ticks[2] in picture
