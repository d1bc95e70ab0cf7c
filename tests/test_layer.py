import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.layer import as_spec, check_features

SIZE = jn.Size(bound=4, value=2, name="hidden")


def traced_size():
    return jn.Size(bound=4, value=jnp.int32(2), name="hidden")


# Size


def test_the_first_units_are_active():
    assert SIZE.active.tolist() == [True, True, False, False]
    assert jax.vmap(lambda value: jn.Size(3, value).active)(jnp.array([1, 3])).tolist() == [
        [True, False, False],
        [True] * 3,
    ]


@pytest.mark.parametrize(
    "operation, bound, value, least",
    [
        (lambda n: 2 * n, 16, 10, 6),
        (lambda n: n * 2, 16, 10, 6),
        (lambda n: n + 1, 9, 6, 4),
        (lambda n: n // 2, 4, 2, 1),
        (lambda n: n - 2, 6, 3, 1),
    ],
)
def test_arithmetic_with_integers(operation, bound, value, least):
    size = operation(jn.Size(8, jnp.int32(5), "hidden", least=3))
    assert (size.bound, int(size.value), size.least, size.name) == (bound, value, least, "hidden")


def test_a_size_goes_through_transformations():
    sizes = jn.Size(4, jnp.array([1, 2, 4]), "hidden")
    assert jax.jit(jax.vmap(lambda size: size.active.sum()))(sizes).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    "misuse",
    {
        "range": lambda n: range(n),
        "if": lambda n: 1 if n else 0,
        "int": int,
        "float": float,
        "greater": lambda n: n > 3,
        "less or equal": lambda n: n <= 3,
        "equal": lambda n: n == 3,
        "reversed": lambda n: 3 < n,  # noqa: SIM300
        "slice": lambda n: [1, 2, 3][:n],
        "index": lambda n: [1, 2, 3][n],
        "array slice": lambda n: jnp.ones(3)[:n],
        "numpy shape": lambda n: np.zeros((n, 3)),
        "jax shape": lambda n: jnp.zeros((n, 3)),
        "jax shape, alone": lambda n: jnp.zeros(n),
        "reshape": lambda n: jnp.ones(8).reshape(n, -1),
        "random shape": lambda n: jax.random.normal(jax.random.key(0), (n,)),
        "dictionary": lambda n: {n: 1},
        "max": lambda n: max(n, 3),
        "division": lambda n: n / 2,
        "divisor": lambda n: 8 // n,
        "rest": lambda n: n % 2,
        "power": lambda n: n**2,
        "taken from": lambda n: 8 - n,
        "negative": lambda n: -n,
        "rounded": round,
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("make", [lambda: SIZE, traced_size], ids=["integer", "array"])
def test_where_python_needs_an_integer_the_way_out_is_shown(misuse, make):
    with pytest.raises(TypeError, match="'hidden'.*integer.*static=True|integer.*'hidden'.*static=True"):
        misuse[1](make())


def test_misuse_while_tracing():
    with pytest.raises(TypeError, match="'hidden' was used where Python needs an integer.*static=True"):
        jax.jit(lambda value: len(range(jn.Size(4, value, "hidden"))))(2)


@pytest.mark.parametrize("other", [2.0, True, jnp.int32(2), SIZE, "2"])
def test_arithmetic_with_anything_else_is_refused(other):
    with pytest.raises(TypeError, match="'hidden'.*can be combined with Python integers only.*value"):
        SIZE * other
    with pytest.raises(TypeError, match="'hidden'.*can be combined with Python integers only"):
        SIZE + other


@pytest.mark.parametrize("operation", [lambda n: n * 0, lambda n: n // 2, lambda n: n - 1, lambda n: -1 * n])
def test_a_size_stays_positive(operation):
    with pytest.raises(ValueError, match="'hidden'.*would become .*a size is at least 1"):
        operation(SIZE)  # whose least is 1


# Layer


def test_a_layer_that_is_called_says_how_it_is_used():
    for call in (lambda: jn.flatten(), lambda: jn.softmax(3), lambda: jn.dense(3)(jnp.ones((2, 3)))):
        with pytest.raises(TypeError, match=r"the layer (flatten|softmax|dense) isn't called: .*layer\.apply\(params"):
            call()


# Spec


def test_a_spec_is_a_shape_and_float32_unless_said_otherwise():
    assert jn.Spec((3,)) == as_spec((3,)) == as_spec([3]) == as_spec((np.int64(3),)) == jn.Spec((3,), "float32")
    assert jn.Spec((3,)) != jn.Spec((3,), jnp.bfloat16)
    assert jn.Spec((28, 28, 1), jnp.uint8).dtype == np.uint8
    assert as_spec(jn.Spec((3,))) == jn.Spec((3,))


def test_a_spec_is_hashable_and_a_tree():
    assert len({jn.Spec((3,)), jn.Spec((3,)), jn.Spec((4,))}) == 2
    spec = jn.Spec((3,), active=jnp.array([True, False, True]))
    assert jax.jit(lambda spec: spec.active.sum())(spec) == 2


@pytest.mark.parametrize("spec", [5, 2.5, "ab", None, {"a": 3}, (2.5,), ("3",), jnp.ones(3)])
def test_what_is_neither_a_spec_nor_a_shape_is_refused(spec):
    with pytest.raises(TypeError, match="expected a Spec or a shape tuple without the batch axis.*got"):
        as_spec(spec)


@pytest.mark.parametrize("shape", [5, (2.5,), "ab", ("3",)])
def test_a_spec_of_what_is_no_shape_is_refused(shape):
    with pytest.raises(TypeError, match="shape"):
        as_spec(jn.Spec(shape))


@pytest.mark.parametrize("spec", [(0,), (3, -1), jn.Spec((0,))])
def test_axes_must_be_positive(spec):
    with pytest.raises(ValueError, match="every axis of an example must have at least one entry, got the shape"):
        as_spec(spec)


@pytest.mark.parametrize("length", [1, 4, 6])
def test_a_mask_has_an_entry_for_each_feature(length, key):
    with pytest.raises(ValueError, match="active"):
        jn.dense(3).init(key, jn.Spec((2, 5), active=jnp.ones(length, bool)))


def test_an_unknown_dtype_is_refused():
    with pytest.raises(TypeError):
        jn.Spec((3,), "float33")


def test_check_features_names_the_caller_and_the_argument():
    check_features("conv", 3)
    check_features("conv", SIZE)
    with pytest.raises(TypeError, match="conv: filters must be an integer or a Size, got 2.0"):
        check_features("conv", 2.0, "filters")
    with pytest.raises(ValueError, match="conv: filters must be at least 1, got 0"):
        check_features("conv", 0, "filters")


def test_a_layer_is_named_after_its_factory():
    assert [jn.dense(3).name, jn.dropout(0.1).name, jn.flatten.name] == ["dense", "dropout", "flatten"]
    assert [jn.serial(jn.dense(3)).name, jn.lift(jax.nn.softmax).name] == ["serial", "lift(softmax)"]
