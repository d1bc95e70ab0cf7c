"""Figures: what is drawn is what the table says; any warning of matplotlib's would be an error."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

import jaxnet as jn
from jaxnet.search.analysis import best_of, category_places, importances, value_names
from jaxnet.search.space import Scale
from tests.search import made

SCORES = [
    [0.3, 0.1, 0.5, 0.2, 0.4],
    [0.2, 0.1, 0.2, 0.1, 0.3, 0.3],  # ties
    [np.nan, 0.2, np.nan, 0.1, np.nan],  # three diverged
    [0.7],
]


@pytest.mark.parametrize("scores", SCORES, ids=["distinct", "ties", "diverged", "one"])
@pytest.mark.parametrize("quantile", [0.05, 0.2, 0.5, 0.6, 0.95])
def test_best_of_is_the_distribution_over_all_orders(scores, quantile):
    # By brute force: in every order, the lowest of the first n; then the least value that so many orders reach.
    worst_last = np.where(np.isnan(scores), np.inf, scores)
    lowest = np.array([np.minimum.accumulate(order) for order in itertools.permutations(worst_last)])
    expected = [next(x for x in np.sort(worst_last) if np.mean(column <= x) >= quantile - 1e-12) for column in lowest.T]
    np.testing.assert_array_equal(best_of(np.array(scores), [quantile]), [expected])
    np.testing.assert_array_equal(-best_of(-np.array(scores), [quantile], maximize=True), [expected])


def test_best_of_ends_at_the_lowest_and_stands_many_trials():
    scores = np.random.default_rng(0).permutation(100_000) / 100_000  # their binomials have thousands of digits
    low, median, high = best_of(scores, (0.05, 0.5, 0.95))
    assert low[-1] == median[-1] == high[-1] == 0
    assert (low <= median).all() and (median <= high).all() and (np.diff(median) <= 0).all()
    # Of so many the draws are all but independent: the median of the best of n is where 1 - (1 - x) ** n = 1 / 2.
    n = np.array([1, 10, 100, 1000])
    np.testing.assert_allclose(median[n - 1], 1 - 0.5 ** (1 / n), rtol=0.01, atol=2e-5)  # scores are 1e-5 apart


def marked(figure, marker):
    """How many points a figure has with a marker, in each of its axes."""
    return [
        sum(len(np.ravel(line.get_xdata())) for line in axes.lines if line.get_marker() == marker)
        for axes in figure.axes
    ]


@pytest.mark.parametrize("trials", [1, 12, 700])
def test_the_overview(trials, tmp_path):
    result = made.result(trials, 4)
    figure = result.plot(factor=100, labels={"score": "error (%)", "hidden": "units"})
    figure.savefig(tmp_path / "search.pdf")
    panels, curves, best = figure.axes[:6], *figure.axes[6:]
    assert [axes.get_xlabel() for axes in panels] == [
        "learning rate",
        "units",
        "dropout",
        "activation",
        "kernel",
        "batch",
    ]
    assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear", "linear", "linear", "linear"]
    assert [text.get_text() for text in panels[3].get_xticklabels()] == ["relu", "tanh", "gelu"]
    assert curves.get_ylabel() == "error (%)" and best.get_ylabel() == "best error (%) so far"
    assert marked(figure, "x")[:6] == [result.counts.get("diverged", 0)] * 6
    assert marked(figure, "*")[:6] == [1] * 6
    star = next(line for line in panels[0].lines if line.get_marker() == "*")
    np.testing.assert_allclose(star.get_xydata(), [[result.best["learning_rate"], 100 * result.best["score"]]])
    assert len(curves.collections[0].get_paths()) == trials
    steps = best.lines[-1].get_ydata()
    assert steps[-1] == pytest.approx(100 * np.nanmin(result.table["score"]))


def test_higher_may_be_better():
    result = made.result(40, 4, maximize=True)
    assert result.best["score"] == np.nanmax(result.table["score"]) == result.ranked(1)[0]["score"]
    (axes,) = result.plot("best").axes
    steps = axes.lines[-1].get_ydata()
    assert (np.diff(steps[np.isfinite(steps)]) >= 0).all() and steps[-1] == result.best["score"]
    for x, label in zip(*best_of_band(axes), strict=True):
        assert label == "random order, 5 to 95 %" and x <= np.nanmax(result.table["score"])


def best_of_band(axes):
    (band,) = axes.collections
    return [band.get_paths()[0].vertices[:, 1].max()], [band.get_label()]


def test_all_diverged_is_still_a_figure(tmp_path):
    result = made.result(12, 3)
    result.table |= {"status": np.full(12, "diverged"), "score": np.full(12, np.nan)}
    result.history["score"][:] = np.nan
    figure = result.plot()
    figure.savefig(tmp_path / "search.png")
    assert marked(figure, "x")[:6] == [12] * 6 and marked(figure, "*")[:6] == [0] * 6


def test_rungs_show_who_was_promoted(tmp_path):
    result = made.result(17, 9, jn.search.hyperband(), diverging=False)  # by Algorithm 1: 9, 5 and 3 trials
    figure = result.plot("rungs")
    figure.savefig(tmp_path / "rungs.png")
    (axes,) = figure.axes
    points = {line.get_label(): line.get_xydata() for line in axes.lines}
    # 3 of 9, 1 of 3 and 1 of 5 train on; 3 of the last rungs' 1 + 1 + 3 trials were in none before.
    assert {name: len(xy) for name, xy in points.items()} == {
        "trained on": 5,
        "stopped here": 12,
        "trained to the end": 5,
    }
    first = sorted(result.curves[:9, 0])
    near = points["trained on"][points["trained on"][:, 0] < 0.5]
    np.testing.assert_array_equal(np.sort(near[:, 1]), first[:3])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "3", "9", "3", "9", "9"]


def test_importances_and_groups(tmp_path):
    result = made.result(60, 3, diverging=False)
    shares = importances(result)
    assert sum(shares.values()) == pytest.approx(1) and max(shares, key=shares.get) == "learning_rate"
    figure = result.plot("importances", labels={"learning_rate": "rate"})
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][-1] == "rate"
    (axes,) = result.plot("groups").axes
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths, [*result.groups["compile_seconds"], *result.groups["run_seconds"]])
    with pytest.raises(ValueError, match="at least 10 trials with a score, got 4"):
        made.result(4, 3, diverging=False).importances()


def test_axes_of_one_s_own():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    result = made.result(12, 3)
    assert result.plot("curves", left) is figure and result.plot("best", right) is figure
    panels = Figure().subplots(1, 2)
    result.plot("hyperparameters", panels, names=["hidden", "dropout"], best=0)
    assert [axes.get_xlabel() for axes in panels] == ["hidden", "dropout"]
    for wrong, message in [
        ({"kind": "curve"}, "no 'curve'; there are overview, hyperparameters, curves"),
        ({"kind": "hyperparameters", "axes": left}, "6 hyperparameters need as many axes, got 1"),
        ({"names": ["width"]}, r"names=\['width'\] aren't hyperparameters"),
        ({"axes": left}, "makes its own axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            result.plot(**wrong)
    with pytest.raises(TypeError, match="drawn on one matplotlib Axes, got 3"):
        result.plot("curves", 3)


def test_values_of_a_category_keep_apart():
    scale = Scale("category", None, (True, 1.0, "1", max, None))
    assert value_names(scale.values) == ["True", "1.0", "1", "max", "None"]
    assert category_places(np.array([1.0, True, "1", None, max], object), scale).tolist() == [1, 0, 2, 4, 3]
    assert category_places(np.array([0.5, 1.0]), Scale("category", None, (1, 0.5))).tolist() == [1, 0]
