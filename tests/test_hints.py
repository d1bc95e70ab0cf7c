"""A misspelt name gets "did you mean", from whatever part of the library meets it first."""

import sys
import traceback

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn

X = np.ones((4, 1), np.float32)
SPACE = jn.Space(learning_rate=jn.uniform(0, 1), hidden=jn.choice(2, 3))
RESULT = jn.search.SearchResult(
    {"id": np.arange(2), "status": np.full(2, "completed"), "units": np.ones(2, int), "score": np.ones(2)},
    {"score": np.ones((2, 1))},
    [],
)
TRIAL = jn.Trial(jn.dense(1), jn.losses.squared_error, optax.sgd(0.1), batch_size=4)


def search(**options):
    return jn.search.plan(lambda hp: TRIAL, SPACE, (X, X), (X, X), epochs=1, key=jax.random.key(0), **options)


MISSPELT = {
    "a layer": (lambda: jn.desne, AttributeError, "dense"),
    "a name of the search, which is loaded later": (lambda: jn.log_unifrom, AttributeError, "log_uniform"),
    "a sampler": (lambda: jn.search.sobl, AttributeError, "sobol"),
    "a loss": (lambda: jn.losses.squared_eror, AttributeError, "squared_error"),
    "a metric": (lambda: jn.metrics.top_k_eror, AttributeError, "top_k_error"),
    "a model": (lambda: jn.models.resnt, AttributeError, "resnet"),
    "a hyperparameter": (lambda: jn.hp(learning_rate=1.0).learning_rte, AttributeError, "learning_rate"),
    "a hyperparameter's item": (lambda: jn.hp(learning_rate=1.0)["learning_rte"], KeyError, "learning_rate"),
    "an entry of a space": (lambda: SPACE.check({"learning_rte": 1.0}), ValueError, "learning_rate"),
    "an entry of a grid": (lambda: search(sampler=jn.search.grid({"hiden": 2})), ValueError, "hidden"),
    "a sampler by name": (lambda: search(trials=2, sampler="sobl"), TypeError, "sobol"),
    "a schedule by name": (lambda: search(trials=2, schedule="hyperbnd"), TypeError, "hyperband"),
    "an order of batches": (lambda: search(trials=2, shuffle="shard"), ValueError, "shared"),
    "a column": (lambda: RESULT.table["scroe"], KeyError, "score"),
    "a measure": (lambda: RESULT.history["scroe"], KeyError, "score"),
    "an item of a row": (lambda: RESULT.best["scroe"], KeyError, "score"),
    "a plot": (lambda: RESULT.plot("curve"), ValueError, "curves"),
    "padding": (lambda: jn.conv(3, (3, 3), padding="SAEM"), ValueError, "SAME"),
    "what a recurrence returns": (lambda: jn.lstm(3, returns="lst"), ValueError, "last"),
    "what stops training": (lambda: jn.target(train_los=0.1)({"train_loss": X}), ValueError, "train_loss"),
}


@pytest.mark.parametrize("misspelt, error, meant", MISSPELT.values(), ids=MISSPELT.keys())
def test_a_misspelt_name_gets_the_one_that_was_meant(misspelt, error, meant):
    with pytest.raises(error, match=rf"; did you mean '{meant}'\?"):
        misspelt()


def test_python_adds_no_second_proposal(capsys):
    """Python's own stands in tracebacks alone; where ours is in the message, it would be there twice."""
    for misspelt in (lambda: jn.desne, lambda: jn.losses.squared_eror, lambda: jn.hp(rate=1.0).rte):
        try:
            misspelt()
        except AttributeError:
            sys.excepthook(*sys.exc_info())
            assert "Did you mean" not in "".join(traceback.format_exc())
    assert capsys.readouterr().err.count("did you mean") == 3
