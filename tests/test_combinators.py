import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.reductions import counting_rows

TORCH_OPTIMIZERS = {  # as tests/reference/make_torch.py has them
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.01),
}


@pytest.mark.parametrize("combine", [jn.serial, jn.parallel, jn.residual])
def test_a_layer_of_ones_own_gets_a_spec_also_where_a_shape_was_given(combine, key):
    def doubled(key, spec):
        return (), (), spec.shape if combine is jn.serial else jn.Spec(spec.shape, spec.dtype)

    own = jn.Layer(doubled, lambda params, state, x, *, key=None, train=False: (2 * x, state))
    assert jn.serial(combine(own), jn.flatten).init(key, (3, 2))[2].shape == (6,)
    assert combine(own).init(key, [3, 2])[2] in ((3, 2), jn.Spec((3, 2)))


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


def block(features) -> jn.Layer:
    return jn.dense(features)


FACTORIES = [value for value in vars(jn).values() if getattr(value, "__module__", "").startswith("jaxnet.layers.")]


@pytest.mark.parametrize("factory", [*filter(inspect.isfunction, FACTORIES), jn.serial, block])
def test_a_factory_that_was_not_called_is_refused(factory, key):
    name = factory.__name__
    message = rf"{name} makes a layer but isn't one: call it, {name}\("
    with pytest.raises(TypeError, match=rf"^serial\[1\] flatten > {name}: {message}"):
        jn.serial(jn.flatten, factory).init(key, (3,))
    with pytest.raises(TypeError, match="^" + message):
        jn.lift(factory).init(key, (3,))


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
    with pytest.raises(ValueError, match=r"expected params for the children \[0, 1\], got a NoneType"):
        net.apply(None, state, x)
    with pytest.raises(ValueError, match=r"expected params for the children \[0, 1\], got \['w', 'b'\]"):
        net.apply(params[0], state, x)
    with pytest.raises(ValueError, match=r"expected params for the children \['a', 'b'\], got a tuple of 2"):
        named.apply(params, {"a": (), "b": ()}, x)


# Side by side


def leaves_equal(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "merge, by_hand",
    [
        ("sum", lambda a, b: a + b),
        ("product", lambda a, b: a * b),
        ("concat", lambda a, b: np.concatenate([a, b], axis=-1)),
        (lambda a, b: a - 2 * b, lambda a, b: a - 2 * b),
        (lambda a, b: (a * b).sum(axis=-1), lambda a, b: (a * b).sum(axis=-1)),
    ],
)
def test_branches_see_the_same_input_and_are_merged(merge, by_hand, key):
    branches = jn.dense(4), jn.serial(jn.dense(4), jn.dropout(0.5))
    for net in (jn.parallel(*branches, merge=merge), jn.parallel(a=branches[0], b=branches[1], merge=merge)):
        params, state, out = net.init(key, (3, 2))
        x = jax.random.normal(key, (5, 3, 2))
        y, _ = net.apply(params, state, x, key=key, train=True)
        apart = []
        for i, branch in enumerate(branches):  # child i gets fold_in(key, i), in init and in apply
            own, own_state, _ = branch.init(jax.random.fold_in(key, i), (3, 2))
            leaves_equal(own, params[i if isinstance(params, tuple) else "ab"[i]])
            apart.append(branch.apply(own, own_state, x, key=jax.random.fold_in(key, i), train=True)[0])
        np.testing.assert_array_equal(y, by_hand(*map(np.asarray, apart)))
        assert y.shape == (5, *out.shape)


def test_concat_joins_masks_where_each_branch_has_its_padding(key):
    net = jn.parallel(jn.dense(jn.Size(3, 2)), jn.dense(2), jn.dense(jn.Size(2, 1)))
    assert net.init(key, (4,))[2].active.tolist() == [True, True, False, True, True, True, False]
    assert jn.parallel(jn.dense(3), jn.dense(2)).init(key, (4,))[2].active is None


@pytest.mark.parametrize("merge", ["sum", "product"])
def test_branches_with_other_active_features_are_refused(merge, key):
    net = jn.parallel(jn.dense(jn.Size(3, 2)), jn.dense(3), merge=merge)
    with pytest.raises(ValueError, match=r"^parallel: all of \[0, 1\] must have the same active.*in \[1\] all are"):
        net.init(key, (4,))
    net = jn.parallel(a=jn.dense(jn.Size(3, 2)), b=jn.dense(jn.Size(3, 1)), merge=merge)
    with pytest.raises(
        ValueError, match=r"^parallel: all of \['a', 'b'\] .*their masks differ\. Give them the same Size"
    ):
        net.init(key, (4,))
    same = jn.parallel(jn.dense(jn.Size(3, 2)), jn.dense(jn.Size(3, 2)), merge=merge)
    assert same.init(key, (4,))[2].active.tolist() == [True, True, False]


def test_of_two_traced_sizes_the_narrower_counts_as_padded_with_zeros(key):
    x = jax.random.normal(key, (5, 4))

    def run(first, second, merge):
        net = jn.parallel(jn.dense(jn.Size(3, first)), jn.dense(jn.Size(3, second)), merge=merge)
        params, state, out = net.init(key, (4,))
        return net.apply(params, state, x)[0], out.active

    y, active = jax.jit(run, static_argnums=2)(1, 2, "sum")
    assert active.tolist() == [True, True, False] and not y[:, 2].any() and y[:, :2].all()
    y, active = jax.jit(run, static_argnums=2)(1, 2, "product")
    assert active.tolist() == [True, False, False] and not y[:, 1:].any() and y[:, :1].all()


def test_a_function_cannot_merge_what_is_not_active_everywhere(key):
    net = jn.parallel(jn.dense(jn.Size(3, 2)), jn.dense(jn.Size(3, 2)), merge=jnp.maximum)
    with pytest.raises(ValueError, match=r"parallel: .*what maximum makes of them isn't known.*static=True"):
        net.init(key, (4,))


def test_branches_and_repeats_of_sequences(key):
    block = jn.serial(jn.dense(2), jax.nn.sigmoid)
    nets = [jn.parallel(block, block, merge=m) for m in ("concat", "sum", lambda a, b: a + b + 1)]
    nets += [
        jn.residual(block),
        jn.repeat(block, 2),
        jn.frozen(block),
        jn.remat(block),
        jn.with_dtype(block, "bfloat16"),
    ]
    sequence = jn.Sequence(jax.random.normal(key, (2, 3, 2)), jnp.array([3, 1]))
    for net in nets:
        params, state, out = net.init(key, jn.Sequence(jn.Spec((3, 2)), jn.Spec((), jnp.int32)))
        y, _ = net.apply(params, state, sequence)
        assert isinstance(out, jn.Sequence) and y.values.shape == (2, *out.values.shape)
        alone, _ = net.apply(params, state, sequence.values[1:, :1])
        np.testing.assert_allclose(y.values[1:, :1], alone, rtol=1e-5)
        assert not y.values[1, 1:].any() and y.lengths.tolist() == [3, 1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jn.parallel(), "parallel: needs at least one branch"),
        (lambda: jn.parallel(jn.dense(2), merge="mean"), "parallel: merge must be 'sum', .*got 'mean'"),
        (
            lambda: jn.parallel(jn.dense(2), a=jn.dense(2)),
            r"parallel: give either positional children, parallel\(a, b\)",
        ),
        (lambda: jn.parallel([jn.dense(2)]), r"parallel\[0\]: expected a layer or a function.*parallel\(\*layers\)"),
        (lambda: jn.residual(3), r"residual\[layer\]: expected a layer or a function, got 3"),
        (lambda: jn.repeat(None, 2), "repeat: expected a layer or a function, got None"),
        (lambda: jn.frozen(2), "frozen: expected a layer or a function, got 2"),
        (lambda: jn.remat("x"), "remat: expected a layer or a function, got 'x'"),
        (lambda: jn.with_dtype(1, jnp.bfloat16), "with_dtype: expected a layer or a function, got 1"),
        (lambda: jn.with_dtype(jn.dense(1), jnp.int8), "with_dtype: dtype must be floating.*got int8"),
        (lambda: jn.repeat(jn.dense(1), jn.Size(3, 2, "depth")), "'depth' was used where Python needs an integer"),
        (lambda: jn.repeat(jn.dense(1), 2.0), "integer"),
    ],
)
def test_what_cannot_be_combined_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jn.repeat(jn.dense(1), 0), "repeat: n must be at least 1, got 0"),
        (
            lambda: jn.with_dtype(jn.dense(1), jnp.float16, loss_scale=0),
            "with_dtype: loss_scale must be positive, got 0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "net, message",
    [
        (
            jn.parallel(jn.dense(2), jn.dense(3), merge="sum"),
            r"parallel: .*by sum, but got \{0: \(3, 2\), 1: \(3, 3\)\}$",
        ),
        (jn.parallel(jn.dense(2), jn.flatten), r"parallel: .*joined on the last axis.*0: \(3, 2\), 1: \(12,\)"),
        (jn.parallel(jn.dense(2), jn.dense(3), merge=jnp.add), r"parallel: add can't merge outputs.*1: \(3, 3\)"),
        (
            jn.parallel(jn.dense(2), jn.dense(2), merge=lambda a, b: (a + b).sum()),
            r"parallel: .*keep the batch axis of 2",
        ),
        (jn.residual(jn.dense(2)), r"residual: .*by sum, but got \{'layer': .*\. Try residual\(layer, shortcut\)"),
        (jn.parallel(a=jn.dense(2), b=jax.nn.softmax), r"parallel\[b\] softmax: .*jn.lift"),
        (jn.residual(jn.serial(jax.nn.softmax)), r"residual\[layer\] serial: serial\[0\] softmax"),
        (jn.repeat(jn.dense(3), 2), r"repeat > dense: only a layer that keeps .*\(3, 4\), float32 it made \(3, 3\)"),
        (jn.repeat(jax.nn.softmax, 2), r"repeat > softmax: .*jn.lift"),
        (jn.frozen(jax.nn.softmax), "frozen > softmax: .*jn.lift"),
        (jn.with_dtype(jax.nn.softmax, jnp.float16), "with_dtype > softmax: .*jn.lift"),
        (jn.remat(jax.nn.softmax), "remat > softmax: .*jn.lift"),
        (jn.repeat(jn.dense(jn.Size(4, 3)), 2), "repeat > dense: all of .*must have the same active features"),
    ],
)
def test_errors_in_init_have_the_path(net, message, key):
    with pytest.raises(ValueError, match=f"^serial\\[1\\] tanh > {net.name}: {message}"):
        jn.serial(jnp.tanh, net).init(key, (3, 4))


@pytest.mark.parametrize(
    "net, path",
    [
        (jn.parallel(jn.dense(4), jn.dense(4)), r"parallel\[0\] dense"),
        (jn.residual(jn.dense(4)), r"residual\[layer\] dense"),
        (jn.repeat(jn.dense(4), 2), "repeat > dense"),
        (jn.frozen(jn.dense(4)), "frozen > dense"),
        (jn.with_dtype(jn.dense(4), jnp.bfloat16), "with_dtype > dense"),
        (jn.remat(jn.dense(4)), "remat > dense"),
    ],
)
def test_errors_in_apply_have_the_path(net, path, key):
    params, state, _ = net.init(key, (4,))
    with pytest.raises(ValueError, match=rf"^{path}: dense: expected x of shape \[batch, ..., 4\]"):
        net.apply(params, state, jnp.ones((2, 5)))


def test_trees_of_another_combinator_are_refused(key):
    net = jn.residual(jn.dense(4))
    params, state, _ = net.init(key, (4,))
    with pytest.raises(ValueError, match=r"residual: expected params for .*\['layer', 'shortcut'\], got \['layer'\]"):
        net.apply({"layer": params["layer"]}, state, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"frozen > dense: expected a state \{'params', 'state'\}, got a tuple of 0"):
        jn.frozen(jn.dense(4)).apply((), (), jnp.ones((2, 4)))


def test_a_residual_by_hand():
    net = jn.residual(jn.dense(1), jn.dense(1, bias=False))
    params = {"layer": {"w": jnp.array([[2.0]]), "b": jnp.array([1.0])}, "shortcut": {"w": jnp.array([[10.0]])}}
    state = {"layer": (), "shortcut": ()}
    assert net.apply(params, state, jnp.array([[3.0]]))[0].tolist() == [[37.0]]
    own = {"layer": params["layer"], "shortcut": ()}
    assert jn.residual(jn.dense(1)).apply(own, state, jnp.array([[3.0]]))[0].tolist() == [[10.0]]


# Copies


def counter():
    """Adds to its input how often it was trained."""

    def init(key, spec):
        return (), {"steps": jnp.float32(0)}, spec

    def apply(params, state, x, *, key=None, train=False):
        return x + state["steps"], {"steps": state["steps"] + train}

    return jn.Layer(init, apply)


def test_repeat_has_the_numbers_of_a_serial_of_as_many(key):
    block = jn.serial(jn.dense(4), jnp.tanh, jn.dropout(0.5), counter())
    loop, plain = jn.repeat(block, 3), jn.serial(*[block] * 3)
    params, state, out = loop.init(key, (4,))
    plain_params, plain_state, plain_out = plain.init(key, (4,))
    assert out == plain_out
    leaves_equal(params, jax.tree.map(lambda *copies: jnp.stack(copies), *plain_params))
    assert len({float(w.sum()) for w in params[0]["w"]}) == 3  # each copy has its own
    x = jax.random.normal(key, (5, 4))
    for train in (True, True, False):
        y, state = loop.apply(params, state, x, key=key, train=train)
        plain_y, plain_state = plain.apply(plain_params, plain_state, x, key=key, train=train)
        np.testing.assert_allclose(y, plain_y, rtol=1e-6, atol=1e-6)
        leaves_equal(state, jax.tree.map(lambda *copies: jnp.stack(copies), *plain_state))

    def total(net, params, state):
        return jax.grad(lambda params: jnp.sum(net.apply(params, state, x, key=key, train=True)[0] ** 2))(params)

    got, wanted = total(loop, params, state), total(plain, plain_params, plain_state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(jax.tree.map(lambda *c: jnp.stack(c), *wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("key", [None, jax.random.PRNGKey(3)], ids=["no key", "raw key"])
def test_repeat_takes_no_key_and_raw_ones(key):
    net = jn.repeat(jnp.tanh if key is None else jn.dense(2), 2)
    params, state, _ = net.init(key, (2,))
    assert net.apply(params, state, jnp.ones((1, 2)), key=key)[0].shape == (1, 2)


def test_the_program_of_repeat_does_not_grow_with_the_copies(key):
    def length(n):
        net = jn.repeat(jn.serial(jn.dense(4), jnp.tanh), n)

        def step(key, x):
            params, state, _ = net.init(key, (4,))
            return jax.grad(lambda params: net.apply(params, state, x)[0].sum())(params)

        return str(jax.make_jaxpr(step)(key, jnp.ones((2, 4)))).count(" = ")

    assert length(2) == length(50)


# Frozen


def test_frozen_weights_are_out_of_an_optimisers_sight(key):
    inner = jn.serial(jn.dense(4), counter())
    net = jn.serial(jn.dense(3), jn.frozen(inner), jn.dense(1))
    params, state, _ = net.init(key, (2,))
    plain = jn.serial(jn.dense(3), inner, jn.dense(1))
    plain_params, plain_state, _ = plain.init(key, (2,))
    assert params[1] == ()
    leaves_equal(state[1]["params"], plain_params[1])  # wrapping changes no numbers
    x = jax.random.normal(key, (5, 2))

    def total(net, state):
        return lambda params: jnp.sum(net.apply(params, state, x, train=True)[0] ** 2)

    gradient, wanted = jax.grad(total(net, state))(params), jax.grad(total(plain, plain_state))(plain_params)
    leaves_equal((gradient[0], gradient[2]), (wanted[0], wanted[2]))  # it goes through to what is before
    through_state = jax.grad(lambda state: total(net, state)(params))(state)
    assert not any(leaf.any() for leaf in jax.tree.leaves(through_state[1]["params"]))
    _, new_state = net.apply(params, state, x, train=True)
    leaves_equal(new_state[1]["params"], state[1]["params"])
    assert new_state[1]["state"][1]["steps"] == 1
    trial = jn.Trial(net, jn.losses.squared_error, optax.adamw(0.1, weight_decay=0.5), batch_size=5)
    fitted = jn.fit(trial, (x, x[:, :1]), epochs=2, key=key)
    own = net.init(jax.random.fold_in(key, 0), (2,))[1]
    assert jax.tree.structure(fitted.state[1]["params"]) == jax.tree.structure(own[1]["params"])
    head = (state[0], state[1] | {"params": plain_params[1]}, state[2])  # put in by dict work
    np.testing.assert_array_equal(net.apply(params, head, x)[0], plain.apply(plain_params, plain_state, x)[0])


# Other arithmetic


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_arithmetic_is_in_the_dtype_and_parameters_and_outputs_are_not(dtype, key):
    seen = []

    def record(x):
        seen.append(x.dtype)
        return x

    net = jn.with_dtype(jn.serial(jn.dense(3), jn.lift(record), counter()), dtype)
    params, state, out = net.init(key, (2,))
    x = jax.random.normal(key, (50, 2))
    seen.clear()
    y, new_state = net.apply(params, state, x, train=True)
    assert seen == [dtype] and y.dtype == out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, new_state)))
    w, b = params[0]["w"].astype(dtype), params[0]["b"].astype(dtype)
    by_hand = x.astype(dtype) @ w + b[None]
    np.testing.assert_allclose(y, by_hand.astype(jnp.float32), rtol=0.02, atol=0.02)
    assert (y != x @ params[0]["w"]).any()


def test_gradients_come_back_in_float32_and_near_those_of_float32(key):
    net, plain = jn.with_dtype(jn.dense(3), jnp.float16), jn.dense(3)
    params, state, _ = net.init(key, (4,))
    x = jax.random.normal(key, (20, 4))

    def gradient(net):
        return jax.grad(lambda p, x: jnp.mean(net.apply(p, state, x)[0] ** 2), argnums=(0, 1))(params, x)

    for got, wanted in zip(jax.tree.leaves(gradient(net)), jax.tree.leaves(gradient(plain)), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, rtol=0.05, atol=1e-3)


def test_the_scale_keeps_small_gradients_from_vanishing_in_float16(key):
    """A gradient of 1e-8 is zero in float16 (its least number is 6e-8); scaled by 1024 it isn't."""
    x = jnp.ones((1, 1))

    def gradient(scale):
        net = jn.with_dtype(jn.dense(1), jnp.float16, loss_scale=scale)
        params, state, _ = net.init(key, (1,))
        return jax.grad(lambda p: 1e-8 * net.apply(p, state, x)[0].sum())(params)["w"][0, 0]

    assert gradient(1) == 0
    np.testing.assert_allclose([gradient(None), gradient(2**12)], 1e-8, rtol=0.01)
    np.testing.assert_allclose(jax.vmap(gradient)(jnp.array([1024.0, 4096.0])), 1e-8, rtol=0.01)
    assert not np.isfinite(gradient(1e13))  # beyond 65504


def test_integers_go_through_with_dtype():
    net = jn.with_dtype(jn.flatten, jnp.bfloat16)
    assert net.apply((), (), jnp.ones((2, 3, 4), jnp.uint8))[0].dtype == jnp.uint8
    dense = jn.with_dtype(jn.dense(2), jnp.bfloat16)
    params, state, out = dense.init(jax.random.key(0), jn.Spec((3,), jnp.int32))
    assert dense.apply(params, state, jnp.ones((2, 3), jnp.int32))[0].dtype == out.dtype == jnp.float32


def test_remat_changes_no_number_and_computes_again(key):
    block = jn.serial(jn.dense(4), jnp.tanh, jn.dropout(0.5), counter(), jn.dense(4))
    net = jn.remat(block)
    params, state, _ = net.init(key, (4,))
    leaves_equal(params, block.init(key, (4,))[0])
    x = jax.random.normal(key, (5, 4))

    def step(net):
        def total(params):
            y, new_state = net.apply(params, state, x, key=key, train=True)
            return jnp.sum(y**2), (y, new_state)

        return jax.grad(total, has_aux=True)

    for a, b in zip(jax.tree.leaves(step(net)(params)), jax.tree.leaves(step(block)(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    tanhs = [str(jax.make_jaxpr(step(layer))(params)).count("= tanh") for layer in (block, net)]
    assert tanhs == [1, 2]


def test_a_search_over_sizes_goes_through_all_of_them(key):
    """The best network, cut out of its padding, has the score that its lane had."""
    x = jax.random.normal(key, (40, 4, 4, 1))
    targets = (x.mean(axis=(1, 2, 3)) > 0).astype(jnp.int32)

    def trial(hp):
        block = jn.serial(jn.dense(hp.hidden), jax.nn.sigmoid)
        net = jn.serial(
            jn.avg_pool((3, 3), strides=1, padding="SAME"), jn.dense(hp.hidden), jn.max_pool((2, 2)), jn.upsample(2),
            jn.global_avg_pool, jn.repeat(jn.residual(block), 2), jn.parallel(jn.frozen(block), jnp.cos),
            jn.remat(jn.parallel(block, jn.dense(hp.hidden), merge="product")), jn.dense(2),
        )  # fmt: skip
        return jn.Trial(net, jn.losses.label_smoothing(0.1), optax.adam(0.03), batch_size=20)

    space = jn.Space(hidden=jn.integers(2, 6))
    result = jn.random_search(trial, space, (x, targets), (x, targets), trials=4, epochs=2, key=key)
    assert (result.table["status"] == "completed").all() and len(set(result.table["hidden"])) > 1
    for row in range(4):
        row = {name: column[row] for name, column in result.table.items()}
        net, params, state = result.network(row)
        outputs, _ = net.apply(params, state, x)
        np.testing.assert_allclose(trial(jn.hp(hidden=2)).loss(outputs, targets).mean(), row["score"], rtol=1e-4)


def test_time_distributed_is_the_layer_at_each_step(key):
    layer = jn.serial(jn.conv(4, (2, 2)), jnp.tanh, jn.flatten, jn.dense(2))
    params, state, out = jn.time_distributed(layer).init(key, (3, 5, 5, 1))
    assert out.shape == (3, 2)
    x = jax.random.normal(jax.random.key(1), (2, 3, 5, 5, 1))
    y, _ = jn.time_distributed(layer).apply(params, state, x)
    for t in range(3):
        np.testing.assert_allclose(y[:, t], layer.apply(params, state, x[:, t])[0], rtol=1e-6)


def test_time_distributed_batch_norm_counts_steps_inside_only():
    """Statistics by hand, over the steps that exist, of the rows that are examples."""
    layer = jn.time_distributed(jn.batch_norm())
    spec = jn.Sequence(jn.Spec((3, 2)), jn.Spec((), jnp.int32))
    params, state, _ = layer.init(jax.random.key(0), spec)
    x = jax.random.normal(jax.random.key(1), (3, 3, 2))
    batch = jn.Sequence(x, jnp.array([3, 1, 2]))
    inside = np.concatenate([x[0], x[1, :1], x[2, :2]])
    y, new_state = layer.apply(params, state, batch, train=True)
    np.testing.assert_allclose(new_state["mean"], 0.1 * inside.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(new_state["variance"], 0.9 + 0.1 * inside.var(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(y.values[1, 1:], 0)
    with counting_rows(jnp.array([True, True, False])):
        _, without_last = layer.apply(params, state, batch, train=True)
        _, plain = layer.apply(params, state, x, train=True)
    np.testing.assert_allclose(without_last["mean"], 0.1 * inside[:4].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(plain["mean"], 0.1 * x[:2].mean(axis=(0, 1)), rtol=1e-5, atol=1e-7)


def test_time_distributed_wants_a_time_axis(key):
    with pytest.raises(ValueError, match="time_distributed > dense: expected examples with at least 1 axis"):
        jn.time_distributed(jn.dense(3)).init(key, ())
    params, state, _ = jn.time_distributed(jnp.tanh).init(key, (3,))
    with pytest.raises(ValueError, match=r"time_distributed: expected x of shape \[batch, time, ...\], got \(3,\)"):
        jn.time_distributed(jnp.tanh).apply(params, state, jnp.ones(3))


def test_the_scale_of_float16_changes_no_tangent_and_no_gradient_of_the_state(key):
    """What is small must not be divided before it is cast; and the state leaves the layer scaled as outputs do."""
    x, along = jnp.ones((1, 3)), jnp.array([[1e-4, -2e-4, 3.3e-5]])
    moving = jax.random.normal(key, (8, 3))

    def both(dtype):
        dense = jn.with_dtype(jn.dense(2), dtype)
        params, state, _ = dense.init(key, (3,))
        _, tangent = jax.jvp(lambda x: dense.apply(params, state, x)[0], (x,), (along,))
        norm = jn.with_dtype(jn.serial(jn.dense(4), jn.batch_norm()), dtype)
        params, state, _ = norm.init(key, (3,))

        def of_state(params, state):
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(norm.apply(params, state, moving, train=True)[1]))

        by_params, by_state = jax.grad(of_state, argnums=(0, 1))(params, state)
        return tangent, by_params[0]["w"], by_state

    run = jax.jit(both, static_argnums=0)
    for half, full in zip(*(jax.tree.leaves(run(dtype)) for dtype in ("float16", "float32")), strict=True):
        np.testing.assert_allclose(half, full, rtol=0.02, atol=1e-4 * np.abs(full).max())


def test_a_repeated_layer_that_changes_the_dtype_is_refused(key):
    net = jn.repeat(jn.dense(4), 2)
    params, state, _ = net.init(key, (4,))
    with pytest.raises(ValueError, match=r"repeat > dense: .*of bfloat16 it made float32. Try x.astype\(float32\)"):
        net.apply(params, state, jnp.ones((2, 4), jnp.bfloat16))
