"""Weights that are moved where their gradient is multiplied, as on an accelerator, against steps as they are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops import compiling, folding
from jaxnet.ops.lowering import lowered_as
from jaxnet.ops.products import product
from jaxnet.training import supervised

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(203, 12)).astype(np.float32), RNG.integers(0, 3, 203)


@pytest.fixture
def folded(monkeypatch):
    """An accelerator, as far as this machine can be told that it is one; and the shapes of weights that are folded."""
    shapes = []

    def noted(params, folds, *met):
        shapes.extend(jax.tree.leaves(params)[i].shape for i in folds)
        return kept(params, folds, *met)

    kept = folding.folding
    monkeypatch.setattr(folding, "folding", noted)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return shapes


def mlp():
    return jn.serial(jn.dense(16), jax.nn.relu, jn.dense(8), jnp.tanh, jn.dense(3))


def tied():
    """An autoencoder's decoder that takes the encoder's weights, before a layer of its own."""
    encoder, head = jn.dense(12), jn.dense(3)

    def init(key, spec):
        first, second = jax.random.split(key)
        params, _, out = encoder.init(first, spec)
        return [params, head.init(second, out)[0]], (), jn.Spec((3,), jnp.float32)

    def apply(params, state, x, *, key=None, train=False):
        hidden = jnp.tanh(encoder.apply(params[0], (), x)[0])
        return head.apply(params[1], (), product(hidden, params[0]["w"].T))[0], state

    return jn.Layer(init, apply)


def twice():
    layer = jn.dense(12)

    def apply(params, state, x, *, key=None, train=False):
        return layer.apply(params, (), jnp.tanh(layer.apply(params, (), x)[0]))[0], state

    return jn.serial(jn.Layer(layer.init, apply), jn.dense(3))


def weighed():
    """The weights' size is among the outputs of the network."""
    layer = jn.dense(3)

    def apply(params, state, x, *, key=None, train=False):
        return layer.apply(params, (), x)[0] + 0.1 * jnp.sum(params["w"] ** 2), state

    return jn.Layer(layer.init, apply)


def looped():
    layer = jn.dense(12)

    def apply(params, state, x, *, key=None, train=False):
        return jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(layer.apply(params, (), x)[0]), x), state

    return jn.serial(jn.Layer(layer.init, apply), jn.dense(3))


def half():
    return jn.serial(jn.with_dtype(jn.dense(16), jnp.bfloat16), jn.dense(3))


def mapped():
    layer = jn.dense(12)

    def apply(params, state, x, *, key=None, train=False):
        return jax.vmap(lambda x: layer.apply(params, (), x[None])[0][0])(x), state

    return jn.serial(jn.Layer(layer.init, apply), jn.dense(3))


NETWORKS = {
    "mlp": (mlp, [(12, 16), (16, 8), (8, 3)]),
    "without biases": (lambda: jn.dense(3, bias=False), [(12, 3)]),
    "narrow": (lambda: jn.serial(jn.dense(7), jnp.tanh, jn.dense(3)), [(12, 7)]),
    "batch norm": (lambda: jn.serial(jn.dense(16), jn.batch_norm(), jax.nn.relu, jn.dense(3)), [(12, 16), (16, 3)]),
    "dropout": (lambda: jn.serial(jn.dense(16), jn.dropout(0.3), jn.dense(3)), [(12, 16), (16, 3)]),
    "recurrent": (
        lambda: jn.serial(jn.reshape((4, 3)), jn.lstm(9, returns="last"), jn.dense(3)), [(9, 3)]
    ),
    "half precision": (half, [(16, 3)]),
    "tied": (tied, [(12, 3)]),
    "twice": (twice, [(12, 3)]),
    "weighed": (weighed, []),
    "looped": (looped, [(12, 3)]),
    "mapped": (mapped, [(12, 3)]),
    "compiled apart": (lambda: jn.serial(jn.lift(jax.jit(jnp.tanh)), jn.dense(3)), [(12, 3)]),
    "recomputed": (lambda: jn.serial(jn.remat(jn.dense(16)), jn.dense(3)), [(16, 3)]),
}  # fmt: skip


def trial(net=mlp, optimizer=optax.sgd, penalty=jn.losses.l2, **rest):
    def made(hp):
        return jn.Trial(
            net() if net is not mlp or "hidden" not in hp else jn.serial(jn.dense(hp.hidden), jnp.tanh, jn.dense(3)),
            jn.losses.softmax_cross_entropy,
            optimizer(hp.rate),
            penalty=penalty and penalty(hp.l2),
            metric=jn.metrics.error,
            batch_size=hp.get("batch", 8),
            **rest,
        )

    return made


def same(got, wanted, atol=2e-4):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=atol)


def all_of(fitted):
    return fitted.params, fitted.state, dict(fitted.curve)


@pytest.mark.parametrize("net, shapes", NETWORKS.values(), ids=NETWORKS.keys())
def test_networks_are_trained_to_the_same_weights(net, shapes, folded, monkeypatch):
    got = jn.fit(trial(net)(jn.hp(rate=0.1, l2=0.02)), (X, Y), epochs=2, key=jax.random.key(0))
    assert sorted(set(folded)) == sorted(shapes)
    monkeypatch.undo()
    wanted = jn.fit(trial(net)(jn.hp(rate=0.1, l2=0.02)), (X, Y), epochs=2, key=jax.random.key(0))
    same(all_of(got), all_of(wanted), atol=2e-3 if net is half else 2e-4)


SPACES = {
    "rates": ({}, "shared"),
    "sizes": ({"hidden": jn.integers(2, 20)}, "own"),
    "batches": ({"batch": jn.integers(3, 12)}, "shared"),
}
OPTIMIZERS = {
    "sgd": (optax.sgd, jn.losses.l2, True),
    "no decay": (optax.sgd, None, True),
    "schedule": (lambda rate: optax.sgd(lambda step: rate * 0.9**step), jn.losses.l2, True),
    "weight decay": (
        lambda rate: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate)), jn.losses.l2, True
    ),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.5), jn.losses.l2, False),
}  # fmt: skip


@pytest.mark.parametrize("more, shuffle", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("optimizer, penalty, folds", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_searches_end_in_the_same_table(optimizer, penalty, folds, more, shuffle, folded, monkeypatch):
    space = jn.Space(rate=jn.log_uniform(1e-3, 100.0), l2=jn.log_uniform(1e-4, 1e-1), **more)

    def run():
        return jn.random_search(
            trial(optimizer=optimizer, penalty=penalty, loss_limit=2.5), space, (X, Y), (X[:50], Y[:50]), trials=12,
            epochs=2, key=jax.random.key(1), progress=False, shuffle=shuffle, lanes=6,
        )  # fmt: skip

    got = run()
    assert bool(folded) == folds
    monkeypatch.undo()
    wanted = run()
    assert "diverged" in wanted.counts
    assert got.table["status"].tolist() == wanted.table["status"].tolist()
    same(dict(got.curves), dict(wanted.curves))


# The weights' share of what they become, from step to step: all of it gone, nearly all, turned over and over, growing.
DECAYS = [0.0, 1e-12, 1e-3, -1e-3, 0.02, 0.3, 0.999, -0.9, 1.0 + 1e-7]


def of_everything(strength):
    return lambda params: 0.5 * strength * optax.tree.norm(params, squared=True)


def test_any_decay_is_taken(folded, monkeypatch):
    configurations = [{"rate": 0.5, "l2": (1 - decay) / 0.5} for decay in DECAYS] + [{"rate": 0.5, "l2": 1e7}]

    def run():
        space = jn.Space(rate=jn.uniform(0, 1), l2=jn.uniform(-1, 2e7))
        return jn.search.run(
            trial(penalty=of_everything), space, (X, Y), (X, Y), epochs=2, key=jax.random.key(0), progress=False,
            sampler=lambda *_: configurations,
        )  # fmt: skip

    got = run()
    assert folded
    monkeypatch.undo()
    wanted = run()
    assert got.table["status"].tolist() == wanted.table["status"].tolist() == ["completed"] * len(DECAYS) + ["diverged"]
    same(dict(got.curves), dict(wanted.curves))


def test_folding_can_be_switched_off(folded):
    with lowered_as("native"):
        jn.fit(trial()(jn.hp(rate=0.1, l2=0.02)), (X, Y), epochs=1, key=jax.random.key(0))
    assert not folded


def test_windows_of_a_stream_are_trained_on(folded, monkeypatch):
    def run():
        stream = jn.Stream([(x, y) for x, y in zip(X, Y, strict=True)], window=40)
        return jn.fit(trial()(jn.hp(rate=0.1, l2=0.02)), stream, epochs=2, key=jax.random.key(0))

    got = run()
    assert folded
    monkeypatch.undo()
    same(all_of(got), all_of(run()))


def loops(jaxpr):
    """The bodies of loops, and of loops in them, without what is in a loop."""
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from loops(inner)
                if equation.primitive.name == "while":
                    yield inner


def made(jaxpr, shape):
    """The operations of a jaxpr that make arrays of a shape."""
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        inner = [value for value in inner if hasattr(value, "eqns")] if equation.primitive.name != "while" else []
        for one in inner:
            yield from made(one, shape)
        if not inner and any(out.aval.shape == shape for out in equation.outvars):
            yield equation.primitive.name


def test_weights_are_only_added_to(folded):
    """A guard: in the loop over steps nothing but a product and a sum is as large as all lanes' weights."""
    program = supervised(trial(), (X, Y), (X, Y), order_key=jax.random.key(0), shuffle="shared")
    hp, keys = jn.hp(rate=jnp.ones(6), l2=jnp.ones(6)), jax.random.split(jax.random.key(0), 6)
    carry = jax.vmap(program.init)(hp, keys)
    advance = compiling.jit(jax.vmap(program.advance, in_axes=(0, 0, None, None)))
    jaxpr = jax.make_jaxpr(advance)(hp, carry, keys[0], program.feed(0)).jaxpr
    assert ["add", "dot_general"] in [sorted(made(body, (12, 6, 16))) for body in loops(jaxpr)]


def test_lanes_may_lie_on_a_mesh(folded):
    def moved(x, v, rate):
        def loss(params):
            with folding.folding(params, {0: folding.Fold(1.0, rate, True)}):
                return jnp.sum(jnp.sin(product(x, params[0])))

        return jax.grad(loss)([v])[0]

    x, v, rates = jnp.asarray(X[:5]), jnp.asarray(RNG.normal(size=(2, 12, 3)), jnp.float32), jnp.array([0.1, 0.2])
    lanes, spec = jax.vmap(moved, in_axes=(None, 0, 0)), jax.P("lanes")
    mesh = jax.make_mesh((1,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(lanes, mesh=mesh, in_specs=(jax.P(), spec, spec), out_specs=spec)
    gradients = jax.vmap(jax.grad(lambda v: jnp.sum(jnp.sin(x @ v))))(v)
    same(compiling.jit(split)(x, v, rates), v + rates[:, None, None] * gradients)
    assert folded == [(12, 3)]
