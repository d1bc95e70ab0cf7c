"""What makes training work: which settings are tried, how the schedule falls, and what is called the best."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import what_makes_training_work as experiment


def configurations(*arguments):
    return jn.search.grid()(experiment.space(*arguments), None, None)


def test_all_settings_are_the_base_but_for_one_thing_at_every_rate():
    made = configurations(("Adam",), (0.0, 0.9), (50, 250), (16, 64), (0.1, 1.0))
    # The base, no momentum, Adam, larger batches, a narrower layer, the schedule; each at two rates.
    assert len(made) == 6 * 2
    assert all(sum(c[name] != value for name, value in experiment.BASE.items()) <= 1 for c in made)
    every = configurations(
        tuple(experiment.OPTIMIZERS), experiment.MOMENTA, experiment.BATCHES, experiment.WIDTHS, experiment.RATES
    )
    assert len(every) == (1 + 3 + 3 + 3 + 5 + 1) * 9


def test_every_named_setting_is_among_what_is_searched():
    arguments = ("Adagrad", "Adam"), (0.0, 0.9), (50, 250), (16, 64)
    made = configurations(*arguments, (0.1, 1.0))
    table = {name: np.array([c[name] for c in made]) for name in made[0]}
    found = {name: experiment.rows(table, s).tolist() for name, s in experiment.settings(*arguments).items()}
    assert all(len(rows) == 2 for rows in found.values())
    assert found["momentum 0.9"] == found["batches of 50"] == found["64 units"] == found["constant rate"]
    assert len({tuple(rows) for rows in found.values()}) == 7


@pytest.mark.parametrize("decay, factors", [(0.0, [1, 1, 1, 1]), (1.0, [1, (1 + np.sqrt(0.5)) / 2, 0.5, 0.146447])])
@pytest.mark.parametrize("sized", [False, True])
def test_a_schedule_falls_along_half_a_cosine_over_all_steps(decay, factors, sized):
    # 10 examples in batches of 5 for 2 epochs are 4 steps; without momentum an update is minus the rate.
    batch = jn.Size(bound=8, value=jnp.int32(5), name="batch") if sized else 5
    hp = jn.hp(**experiment.BASE | {"momentum": 0.0, "batch": batch, "decay": decay, "rate": 0.3})
    optimizer = experiment.make_trial(10, 2)(hp).optimizer
    params = {"w": jnp.zeros(1)}
    state, updates = optimizer.init(params), []
    for _ in range(4):
        update, state = optimizer.update({"w": jnp.ones(1)}, state, params)
        updates.append(float(update["w"][0]))
    np.testing.assert_allclose(updates, -0.3 * np.array(factors), rtol=1e-5)


def test_the_best_step_size_is_the_lowest_training_error_that_did_not_diverge():
    rates = 4
    table = {name: np.array([value] * rates) for name, value in experiment.BASE.items()}
    table |= {"status": np.array(["completed", "completed", "diverged", "completed"])}
    last = np.array([[0.5, 0.3], [0.5, 0.2], [0.1, 0.0], [np.inf, 0.9]])
    result = types.SimpleNamespace(table=table, history={"train_error": last})
    assert experiment.best(result, {}) == 1


def test_the_stop_at_full_accuracy_is_where_the_curve_first_is_zero(key):
    # Two classes far apart, on images of 2 x 2.
    labels = np.arange(60) % 2
    images = (
        np.random.default_rng(0).normal(40.0 * labels[:, None, None, None] - 20, 5, (60, 2, 2, 1)).astype(np.float32)
    )
    curves, stopped = experiment.overfitting((images, labels), (images, labels), 80, 16, key)
    assert curves["train_error"].shape == (experiment.SEEDS, 80)
    first = experiment.epochs_to(curves["train_error"], 0.0)[0]
    assert 1 < first < 80 and stopped == first
