"""What an optimiser's update is of the gradient and the parameter, against the update itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.affine import shares

PARAMS = {"b": np.float32([0.5, -1.0]), "w": np.float32([[1.0, 2.0], [-3.0, 0.25]])}
LABELS = {"b": "first", "w": "second"}
MASK = {"b": False, "w": True}
BOTH, NEITHER = (True, True), (False, False)


def decayed(rate):
    return optax.chain(optax.add_decayed_weights(0.01, mask=MASK), optax.sgd(rate))


def by_label(first, second):
    return optax.multi_transform({"first": first, "second": second}, LABELS)


def crossing(rate):
    """Moves the biases by the gradients of the weights."""

    def update(gradient, state, params=None):
        return {"b": -rate * (gradient["b"] + gradient["w"][0]), "w": -rate * gradient["w"]}, state

    return optax.GradientTransformation(lambda params: (), update)


def looking_ahead(rate):
    """Moves the biases by the loss after a step, which the gradients of the weights decide on."""

    def update(gradient, state, params=None, *, value_fn, **extra):
        after = value_fn(jax.tree.map(jnp.subtract, params, gradient))
        return {"b": gradient["b"] * after, "w": -rate * gradient["w"]}, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def halved(rate):
    def update(gradient, state, params=None):
        return jax.tree.map(lambda g, p: -(g * rate - jnp.zeros_like(g)) / 2 - rate * p, gradient, params), state

    return optax.GradientTransformation(lambda params: (), update)


OPTIMIZERS = {
    "sgd": (optax.sgd, BOTH),
    "decayed": (decayed, BOTH),
    "schedule": (lambda rate: optax.sgd(optax.cosine_decay_schedule(0.1, 10)), BOTH),
    "injected": (lambda rate: optax.inject_hyperparams(optax.sgd)(rate), BOTH),
    "two rates": (lambda rate: by_label(optax.sgd(rate), optax.sgd(3 * rate)), BOTH),
    "frozen biases": (lambda rate: by_label(optax.set_to_zero(), optax.sgd(rate)), BOTH),
    "halved": (halved, BOTH),
    "adam for biases": (lambda rate: by_label(optax.adam(rate), optax.sgd(rate)), (False, True)),
    "gradients of others": (crossing, NEITHER),
    "losses of others": (looking_ahead, NEITHER),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), NEITHER),
    "adam": (optax.adam, NEITHER),
    "sign": (optax.sign_sgd, NEITHER),
    "clipped by norm": (lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)), NEITHER),
    "clipped by value": (lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate)), NEITHER),
    "by the loss": (lambda rate: optax.chain(optax.sgd(rate), optax.contrib.reduce_on_plateau()), NEITHER),
    "by a line search": (lambda rate: optax.lbfgs(), NEITHER),
    "by the norms": (optax.lars, NEITHER),
    "every other step": (lambda rate: optax.MultiSteps(optax.sgd(rate), 2).gradient_transformation(), NEITHER),
    "centred weights": (lambda rate: optax.chain(optax.centralize(), optax.sgd(rate)), (True, False)),
}
PENALTIES = {
    "none": (None, BOTH),
    "l2": (jn.losses.l2(0.3), BOTH),
    "l2 of biases": (jn.losses.l2(0.3, where=lambda path: path == "b"), BOTH),
    "optax's": (lambda params: 0.3 * optax.tree.norm(params, squared=True), BOTH),
    "l1": (jn.losses.l1(0.3), (True, False)),
    "norm": (lambda params: 0.3 * optax.tree.norm(params), NEITHER),
}


@pytest.mark.parametrize("penalty, smooth", PENALTIES.values(), ids=PENALTIES.keys())
@pytest.mark.parametrize("optimizer, linear", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_shares_give_the_update(optimizer, linear, penalty, smooth):
    if penalty is not None and optimizer is OPTIMIZERS["frozen biases"][0]:
        smooth = (True, smooth[1])  # zero, whatever the penalty is

    @jax.jit
    def shared(rate, gradient):
        made = optax.with_extra_args_support(optimizer(rate))
        state = made.init(PARAMS)

        def update(gradient, params, value, value_fn):
            return made.update(gradient, state, params, value=value, grad=gradient, value_fn=value_fn)

        found = shares(update, penalty, PARAMS)
        assert [share is not None for share in found] == [a and b for a, b in zip(linear, smooth, strict=True)]
        pull = jax.tree.map(jnp.zeros_like, PARAMS) if penalty is None else jax.grad(penalty)(PARAMS)
        updates, _ = update(jax.tree.map(jnp.add, gradient, pull), PARAMS, jnp.ones(()), optax.tree.sum)
        leaves = zip(found, jax.tree.leaves(gradient), jax.tree.leaves(PARAMS), jax.tree.leaves(updates), strict=True)
        return [(s.gradient * g + s.parameter * p, update) for s, g, p, update in leaves if s is not None]

    for got, wanted in shared(0.2, jax.tree.map(np.cos, PARAMS)):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_what_is_known_while_tracing_is_known():
    sgd = optax.sgd(0.5)
    no_decay, decay = (
        shares(lambda gradient, params, value, value_fn: sgd.update(gradient, sgd.init(params)), penalty, PARAMS)[1]
        for penalty in (None, jn.losses.l2(0.25))
    )
    assert no_decay == (1, -0.5, 0.0) and decay == (1, -0.5, -0.125)
