import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

TORCH_OPTIMIZERS = {  # as tests/reference/make_torch.py has them
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.01),
}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_a_network_trains_as_in_pytorch(name, decay, torch_reference, x64):
    """PyTorch 2.13, float64: 20 full-batch steps; its weight decay on weights only is the penalty ``l2``."""
    data = torch_reference("training")
    wanted = torch_reference(f"training/{name}/{decay}")
    net = jn.serial(
        jn.dense(7, w_init=lambda *_: jnp.asarray(data["w0"])),
        jnp.tanh,
        jn.dense(3, w_init=lambda *_: jnp.asarray(data["w1"])),
    )
    trial = jn.Trial(
        net,
        jn.losses.softmax_cross_entropy,
        TORCH_OPTIMIZERS[name](),
        penalty=jn.losses.l2(decay),
        batch_size=len(data["x"]),
    )
    fitted = jn.fit(trial, (data["x"], data["labels"]), epochs=20, key=jax.random.key(0))
    np.testing.assert_allclose(fitted.curve["train_loss"], wanted["losses"], rtol=1e-9)
    for i, layer in enumerate((fitted.params[0], fitted.params[2])):
        np.testing.assert_allclose(layer["w"], wanted[f"w{i}"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(layer["b"], wanted[f"b{i}"], rtol=1e-8, atol=1e-10)


def test_by_hand():
    net = jn.serial(jn.dense(2), jax.nn.relu, jn.dense(1))
    first = {"w": jnp.array([[1.0, -1.0], [2.0, 1.0]]), "b": jnp.array([0.5, -4.0])}
    last = {"w": jnp.array([[3.0], [100.0]]), "b": jnp.array([1.0])}
    y, state = net.apply((first, (), last), ((), (), ()), jnp.array([[1.0, 2.0]]))
    assert y.tolist() == [[17.5]]  # hidden: 5.5, and -3 cut to 0
    assert state == ((), (), ())


def test_children_are_applied_one_after_the_other(key):
    children = jn.dense(4), jn.lift(jax.nn.softmax), jn.dropout(0.5), jn.dense(2)
    params, state, out = jn.serial(*children).init(key, (3,))
    x = wanted = jax.random.normal(key, (5, 3))
    spec = jn.Spec((3,))
    for i, child in enumerate(children):
        child_key = jax.random.fold_in(key, i)  # the contract: child i gets fold_in(key, i), in init and in apply
        own, _, spec = child.init(child_key, spec)
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(params[i]), strict=True):
            np.testing.assert_array_equal(a, b)
        wanted, _ = child.apply(own, (), wanted, key=child_key, train=True)
    y, _ = jn.serial(*children).apply(params, state, x, key=key, train=True)
    np.testing.assert_array_equal(y, wanted)
    assert out == spec == jn.Spec((2,))


def test_appending_a_layer_changes_no_other(key):
    short, long = jn.serial(jn.dense(4), jnp.tanh), jn.serial(jn.dense(4), jnp.tanh, jn.dense(2))
    np.testing.assert_array_equal(short.init(key, (3,))[0][0]["w"], long.init(key, (3,))[0][0]["w"])


def test_equal_children_draw_different_weights(key):
    params, _, _ = jn.serial(jn.dense(3), jn.dense(3)).init(key, (3,))
    assert (params[0]["w"] != params[1]["w"]).all()


def test_names_make_dicts(key):
    net = jn.serial(features=jn.serial(jn.dense(4), jnp.tanh), head=jn.dense(2))
    params, state, _ = net.init(key, (3,))
    assert list(params) == list(state) == ["features", "head"]
    unnamed = jn.serial(jn.serial(jn.dense(4), jnp.tanh), jn.dense(2))
    x = jax.random.normal(key, (5, 3))
    wanted, _ = unnamed.apply(tuple(params.values()), tuple(state.values()), x)
    np.testing.assert_array_equal(net.apply(params, state, x)[0], wanted)
    fresh = jn.dense(2).init(jax.random.key(9), (4,))[0]
    other, _ = net.apply(params | {"head": fresh}, state, x)
    assert (other != wanted).all()


def test_the_order_of_a_dict_does_not_matter(key):
    net = jn.serial(b=jn.dense(4), a=jn.dense(2))  # JAX sorts dicts
    params, state = jax.jit(lambda key: net.init(key, (3,))[:2])(key)
    x = jnp.ones((5, 3))
    eager, eager_state, _ = net.init(key, (3,))
    np.testing.assert_array_equal(net.apply(params, state, x)[0], net.apply(eager, eager_state, x)[0])


def test_state_goes_to_its_child_and_comes_back():
    def counter():
        def init(key, spec):
            return (), jnp.int32(0), spec

        def apply(params, state, x, *, key=None, train=False):
            return x + state, state + 1 if train else state

        return jn.Layer(init, apply)

    net = jn.serial(jn.flatten, counter(), jn.serial(counter()))
    params, state, _ = net.init(None, (2,))
    y, state = net.apply(params, state, jnp.zeros((1, 2)), train=True)
    assert y.tolist() == [[0, 0]] and jax.tree.map(int, state) == ((), 1, (1,))
    y, state = net.apply(params, state, jnp.zeros((1, 2)))
    assert y.tolist() == [[2, 2]] and jax.tree.map(int, state) == ((), 1, (1,))


def test_nothing_in_a_row_is_the_identity():
    net = jn.serial()
    params, state, out = net.init(None, (3,))
    assert net.apply(params, state, jnp.ones((2, 3)))[0].tolist() == [[1, 1, 1]] * 2
    assert out == jn.Spec((3,))


# Errors have the path of the child in front.


def test_an_error_in_init_has_the_path(key):
    net = jn.serial(jn.flatten, jn.serial(jn.dense(3), jn.lift(lambda x: x @ jnp.ones((4, 4)))))
    with pytest.raises(
        ValueError, match=r"^serial\[1\] flatten > serial: serial\[1\] dense > lift\(<lambda>\).*\(3,\)"
    ):
        net.init(key, (2, 2))
    net = jn.serial(body=jn.serial(bad=jax.nn.softmax))
    with pytest.raises(ValueError, match=r"^serial\[body\] serial: serial\[bad\] softmax.*jn.lift\(softmax\)"):
        net.init(key, (2, 2))


def test_an_error_in_apply_has_the_path(key):
    net = jn.serial(first=jnp.tanh, body=jn.dense(2))
    params, state, _ = net.init(key, (4,))
    for apply in (net.apply, jax.jit(net.apply)):
        with pytest.raises(ValueError, match=r"^serial\[body\] tanh > dense: .*\[batch, ..., 4\].*got \(2, 5\)"):
            apply(params, state, jnp.ones((2, 5)))


def test_a_missing_key_has_the_path(key):
    net = jn.serial(jn.dense(3), jn.dropout(0.5))
    params, state, _ = net.init(key, (4,))
    with pytest.raises(ValueError, match=r"^serial\[1\] dense > dropout: .*needs a key in training"):
        net.apply(params, state, jnp.ones((2, 4)), train=True)


@pytest.mark.parametrize(
    "value, hint", [(None, ""), (3, ""), ("relu", ""), ([jax.nn.relu], r"; try serial\(\*layers\)")]
)
def test_what_is_neither_layer_nor_function_is_refused(value, hint):
    with pytest.raises(TypeError, match=r"serial\[1\]: expected a layer or a function, got .*" + hint + "$"):
        jn.serial(jn.flatten, value)


def test_mixing_positions_and_names_is_refused():
    with pytest.raises(TypeError, match=r"positional children, serial\(a, b\), or named ones"):
        jn.serial(jn.flatten, head=jn.dense(3))


@pytest.mark.parametrize("factory", [jn.dense, jn.dropout])
def test_a_factory_that_was_not_called_is_refused(factory, key):
    with pytest.raises((TypeError, ValueError), match=rf"serial\[1\] flatten > {factory.__name__}"):
        jn.serial(jn.flatten, factory).init(key, (3,))


def test_trees_of_another_network_are_refused(key):
    net, named = jn.serial(jn.dense(3), jn.dense(2)), jn.serial(a=jn.dense(3), b=jn.dense(2))
    params, state, _ = net.init(key, (4,))
    x = jnp.ones((2, 4))
    with pytest.raises(ValueError, match=r"expected params for the children \[0, 1\], got a tuple of 1"):
        net.apply(params[:1], state, x)
    with pytest.raises(ValueError, match=r"expected state for the children \[0, 1\], got a tuple of 3"):
        net.apply(params, (*state, ()), x)
    with pytest.raises(ValueError, match=r"expected params for the children \['a', 'b'\], got \['a', 'c'\]"):
        named.apply({"a": params[0], "c": params[1]}, {"a": (), "b": ()}, x)
