# pyright: strict, reportMissingTypeStubs=false
"""What a user writes, under pyright's strict mode: nothing that jaxnet hands out may have a type that isn't known.

``make types`` checks it; nothing runs it.
"""

from typing import Any, assert_type

import jax
import numpy as np
import optax

import jaxnet as jn

KEY = jax.random.key(0)
SPACE = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.log_integers(10, 100), act=jn.choice("relu", "elu"))


def trial(hp: jn.search.Hyperparameters) -> jn.Trial:
    act = {"relu": jax.nn.relu, "elu": jax.nn.elu}[hp.act]
    net = jn.serial(jn.conv(6, (5, 5), padding="SAME"), act, jn.max_pool((2, 2)), jn.flatten, jn.dense(hp.hidden), act)
    return jn.Trial(
        net=jn.serial(features=net, head=jn.dense(10)),
        loss=jn.losses.softmax_cross_entropy,
        penalty=jn.losses.l2(1e-4),
        optimizer=optax.sgd(hp.rate, momentum=0.9),
        metric=jn.metrics.error,
        batch_size=16,
    )


def fitted_and_searched(images: np.ndarray, labels: np.ndarray) -> None:
    train, validation = (images, labels), jn.Stream((images, labels))
    one = trial(jn.hp(rate=0.05, hidden=30, act="elu"))
    fitted = jn.fit(one, train, validation, epochs=2, key=KEY, stop=jn.patience(3))
    assert_type(fitted, jn.Fitted)
    assert_type(fitted.diverged, int | None)

    plan = jn.search.plan(trial, SPACE, train, validation, trials=4, epochs=2, key=KEY)
    assert_type(plan, jn.search.Plan)
    result = jn.random_search(trial, SPACE, train, validation, trials=4, epochs=2, key=KEY, directory="runs/mine")
    assert_type(result, jn.search.SearchResult)
    sampler, schedule = jn.search.bayesian(), jn.search.hyperband()
    result = jn.search.run(trial, SPACE, train, train, epochs=9, key=KEY, sampler=sampler, schedule=schedule)
    print(result.table["score"].min(), result.curves.shape)
    assert_type(result.best, dict[str, Any])
    result.report("search.html")

    net: jn.Layer
    net, params, state = result.network(result.best)
    outputs, state = net.apply(params, state, images)
    params, state, out = net.init(KEY, (8, 8, 1))
    jn.save("net.msgpack", params, state)
    params, state = jn.load("net.msgpack", net, (8, 8, 1))
    print(jn.summary(net, (8, 8, 1)), jn.predict(net, params, state, images).shape, outputs, out)


def begin(hp: jn.search.Hyperparameters, key: jax.Array) -> jax.Array:
    return jax.random.normal(key)


def advance(hp: jn.search.Hyperparameters, carry: jax.Array, key: jax.Array) -> jax.Array:
    return carry - hp.rate * 2 * carry


def evaluate(hp: jn.search.Hyperparameters, carry: jax.Array) -> dict[str, jax.Array]:
    return {"score": carry**2}


def searched_as_a_program() -> None:
    program = jn.search.Program(begin, advance, evaluate)
    assert_type(jn.search.run(program, SPACE, epochs=3, trials=4, key=KEY), jn.search.SearchResult)
