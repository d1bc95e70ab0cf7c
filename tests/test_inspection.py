import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


def rows(net, spec):
    return [(row.path, row.layer, row.output, row.parameters) for row in jn.summary(net, spec).rows]


# Summaries


def test_a_summary_by_hand():
    """784 * 30 + 30 parameters of 4 bytes each, 2 * 784 * 30 operations; and so on."""
    table = jn.summary(jn.serial(jn.flatten, jn.dense(30), jax.nn.relu, jn.dense(10)), (28, 28, 1))
    assert [tuple(row) for row in table.rows] == [
        ("0", "flatten", (784,), 0, 0, 0),
        ("1", "dense", (30,), 23550, 94200, 47040),
        ("2", "relu", (30,), 0, 0, 0),
        ("3", "dense", (10,), 310, 1240, 600),
    ]
    assert tuple(table.total) == ("", "serial", (10,), 23860, 95440, 47640)


def test_names_and_nesting_are_paths():
    branches = jn.parallel(left=jn.dense(2), right=jn.serial(jnp.tanh, jn.dense(3)))
    net = jn.serial(body=jn.residual(jn.dense(4)), merged=branches, head=jn.remat(jn.serial(jn.dense(1))))
    assert rows(net, (4,)) == [
        ("body.layer", "dense", (4,), 20),
        ("body.shortcut", "serial", (4,), 0),
        ("merged.left", "dense", (2,), 10),
        ("merged.right.0", "tanh", (4,), 0),
        ("merged.right.1", "dense", (3,), 15),
        ("head.0", "dense", (1,), 6),
    ]
    assert jn.summary(net, (4,)).total.parameters == 51


def test_copies_are_one_row_and_frozen_parameters_are_bytes_only():
    table = jn.summary(jn.serial(jn.repeat(jn.serial(jn.dense(4), jnp.tanh), 5), jn.frozen(jn.dense(4))), (4,))
    copies, fixed = table.rows
    assert tuple(copies) == ("0", "repeat", (4,), 5 * 20, 5 * 80, 5 * 32)
    assert tuple(fixed) == ("1", "frozen", (4,), 0, 80, 32)
    assert table.total[3:] == (100, 480, 192)


def test_one_layer_and_a_sequence_and_a_size():
    assert rows(jn.dense(3), (2,)) == [("", "dense", (3,), 9)]
    sequence = jn.Sequence(jn.Spec((7, 2)), jn.Spec((), jnp.int32))
    table = jn.summary(jn.serial(jn.dense(3), jn.global_max_pool, jn.dense(1)), sequence)
    assert [row.output for row in table.rows] == [(7, 3), (3,), (1,)] and table.total.operations == 7 * 12 + 6
    assert jn.summary(jn.serial(jn.dense(jn.Size(6, 2)), jn.dense(1)), (2,)).total.parameters == 18 + 7


def test_a_convolution_counts_its_own_operations_however_it_is_computed():
    """Two for each place of the kernel, each input feature and each output: no zeros that make it faster."""
    table = jn.summary(jn.serial(jn.conv(6, (5, 5), padding="SAME"), jn.conv(16, (3, 3), strides=2)), (28, 28, 1))
    assert [row.operations for row in table.rows] == [2 * 28 * 28 * 25 * 6, 2 * 13 * 13 * 9 * 6 * 16]


def test_the_output_needs_no_terminal(capsys):
    net = jn.serial(jn.dense(1000), jn.dense(1))
    print(jn.summary(net, (1000,)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["path", "layer", "output", "parameters", "bytes", "operations"]
    assert lines[2].split() == ["0", "dense", "(1000,)", "1,001,000", "4,004,000", "2,000,000"]
    assert lines[-1].split()[0] == "total" and "\x1b" not in "".join(lines)


def test_a_summary_of_several_outputs_has_their_shapes():
    net = jn.models.autoencoder(jn.serial(jn.flatten, jn.dense(3)), jn.dense(8))
    table = jn.summary(net, (4, 2))
    assert table.total.output == ((8,), (3,)) and table.total.parameters == 8 * 3 + 3 + 3 * 8 + 8
    assert [row.path for row in table.rows] == ["encoder.0", "encoder.1", "decoder"]
    assert jn.summary(jn.lstm(4, returns="state"), (5, 3)).total.output == ((4,), (4,))  # h and c


def test_a_summary_computes_nothing():
    def init(key, spec):
        assert isinstance(key, jax.core.Tracer)
        return {"w": jax.random.normal(key, (10**6, 10**6))}, (), jn.Spec((10**6,))  # four terabytes

    net = jn.Layer(init, lambda params, state, x, *, key=None, train=False: (x @ params["w"], state))
    assert jn.summary(net, (10**6,)).total.bytes == 4 * 10**12


def test_errors_are_those_of_init():
    with pytest.raises(ValueError, match=r"^serial\[0\] dense: expected examples with at least 1 axis"):
        jn.summary(jn.serial(jn.dense(3)), ())
    with pytest.raises(TypeError, match="expected a layer or a function"):
        jn.summary(3, (2,))


# Matrices


def test_the_matrix_of_a_dense_layer_is_its_weights(key):
    layer = jn.serial(jn.flatten, jn.dense(4))
    params, _, _ = layer.init(key, (2, 3))
    np.testing.assert_array_equal(jn.linear_map(layer, params, (2, 3)), params[1]["w"].T)


def test_matrices_by_hand():
    mean = jn.linear_map(jn.avg_pool((2,), strides=1), (), (4, 1))
    assert mean.tolist() == [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]
    assert jn.linear_map(jn.transpose((1, 0)), (), (2, 2)).tolist() == np.eye(4)[[0, 2, 1, 3]].tolist()
    assert jn.linear_map(jn.dropout(0.5), (), (2,)).tolist() == [[1, 0], [0, 1]]  # in evaluation
    assert jn.linear_map(lambda x: 3 * x + 1, (), (2,)).tolist() == [[3, 0], [0, 3]]


def test_a_convolution_is_a_banded_matrix(key):
    """The course's: three weights in each row, the same in all, one place further from row to row."""
    layer = jn.conv(1, (3,), padding=1)
    params, _, _ = layer.init(key, (6, 1))
    w = np.asarray(params["w"]).ravel()
    banded = sum(w[i] * np.eye(6, k=i - 1) for i in range(3))
    np.testing.assert_allclose(jn.linear_map(layer, params, (6, 1)), banded, atol=1e-7)


def test_masks_in_the_state_are_used(key):
    layer = jn.serial(jn.dense(jn.Size(3, 2)), lambda x: x + 1)
    params, state, _ = layer.init(key, (2,))
    for given in (None, state):
        matrix = jn.linear_map(layer, params, (2,), given)
        np.testing.assert_allclose(matrix, params[0]["w"].T, rtol=1e-6)


@pytest.mark.parametrize("function", [jax.nn.relu, jnp.tanh, lambda x: x**2, lambda x: jnp.where(x > 4, x, 0)])
def test_what_is_not_linear_is_refused(function):
    with pytest.raises(ValueError, match=r"linear_map: .* isn't linear.*differ by .* from those of its Jacobian"):
        jn.linear_map(function, (), (50,))


def test_integers_have_no_matrix():
    with pytest.raises(ValueError, match="linear_map: only a layer of floating inputs.*int32"):
        jn.linear_map(jn.flatten, (), jn.Spec((3,), jnp.int32))


# Gradients


def test_right_gradients_pass(key):
    net = jn.serial(jn.dense(4), jnp.tanh, jn.dropout(0.3), jn.residual(jn.dense(4)), jn.avg_pool((2,)))
    assert jn.check_gradients(net, (4, 3)) < 1e-7
    assert jn.check_gradients(lambda a, b: jnp.sum(a["w"] ** 3) * b, {"w": np.ones(3, np.float32)}, 2) < 1e-7
    assert jax.numpy.ones(1).dtype == jnp.float32  # float64 was switched off again


def test_wrong_gradients_are_found_and_named():
    @jax.custom_vjp
    def wrong(x):
        return x**2

    wrong.defvjp(lambda x: (x**2, x), lambda x, g: (2.001 * x * g,))
    with pytest.raises(AssertionError, match=r"check_gradients: with respect to arguments\[1\]\['a'\] .*slope of"):
        jn.check_gradients(lambda x, y: jnp.sum(x**2) + jnp.sum(wrong(y["a"])), np.ones(3), {"a": np.arange(3.0)})
    assert jn.check_gradients(lambda x: jnp.sum(wrong(x)), np.ones(3), tolerance=0.01) > 1e-4
    layer = jn.serial(jn.dense(2), jn.lift(wrong))
    with pytest.raises(AssertionError, match=r"with respect to \['params'\]\[0\]\['b'\]"):
        jn.check_gradients(layer, (3,))


def test_nan_fails():
    with pytest.raises(AssertionError, match="slope of nan"):
        jn.check_gradients(lambda x: jnp.sqrt(x * 0.0), 1.0)


def test_only_numbers_are_checked():
    with pytest.raises(ValueError, match=r"must return one number, but made the shape \(3,\)"):
        jn.check_gradients(lambda x: 2 * x, np.ones(3))
