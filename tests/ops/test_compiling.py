import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops import compiling
from jaxnet.ops.lowering import lowered_as

OPTION = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture
def afresh():
    compiling._compiles.cache_clear()
    yield
    compiling._compiles.cache_clear()


def trained():
    """A convolution of more features than are made by patches, an LSTM, and sums."""
    features = jn.conv(16, (3, 3)), jn.batch_norm(), jnp.tanh, jn.conv(16, (3, 3)), jn.reshape((4, 64))
    trial = jn.Trial(
        net=jn.serial(*features, jn.lstm(8, returns="last"), jn.dense(3)),
        loss=jn.losses.softmax_cross_entropy,
        optimizer=optax.sgd(0.1),
        batch_size=8,
    )
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16, 8, 8, 2)).astype(np.float32), rng.integers(0, 3, 16)
    return jn.fit(trial, data, data, epochs=2, key=jax.random.key(0))


def test_training_is_the_same_however_it_is_compiled(monkeypatch):
    plain = trained()
    monkeypatch.setenv("XLA_FLAGS", f"--{OPTION}=")  # read by XLA at its start only, by jaxnet each time
    with lowered_as("patches"):
        other = trained()
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_what_is_traced_inside_knows_of_it_and_nothing_outside(monkeypatch):
    seen = []
    compiling.jit(lambda x: (seen.append(compiling.multiplied_by_eigen()), x)[1])(1.0)
    assert seen == [jax.default_backend() == "cpu"]
    assert not compiling.multiplied_by_eigen()
    monkeypatch.setenv("XLA_FLAGS", f"--{OPTION}=LIBRARY_FUSION_TYPE_DOT")
    compiling.jit(lambda x: (seen.append(compiling.multiplied_by_eigen()), x)[1])(1.0)
    assert seen[1:] == [False]


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch, afresh):
    unknown = {"xla_cpu_no_such_option": "true"}
    options = compiling._compiler_options()
    monkeypatch.setattr(compiling, "_OPTIONS", unknown | compiling._OPTIONS)
    assert compiling._compiler_options() == options
    assert compiling.jit(lambda x: x + 1)(1) == 2


def test_nothing_is_told_an_xla_that_does_not_know_how_to_multiply(monkeypatch, afresh):
    others = {name: value for name, value in compiling._OPTIONS.items() if name != OPTION}
    monkeypatch.setattr(compiling, "_OPTIONS", others | {"xla_cpu_no_such_option": "true"})
    assert compiling._compiler_options() is None
    assert compiling.jit(lambda x: x + 1)(1) == 2


def test_options_of_the_user_stay(monkeypatch):
    options = compiling._compiler_options() or {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=128")
    options.pop("xla_cpu_prefer_vector_width", None)
    assert (compiling._compiler_options() or {}) == options


def test_keys_of_new_networks_are_folded_by_a_kernel_on_a_gpu(monkeypatch):
    """JAX's own, of which XLA compiles nothing; elsewhere, and in training steps, as JAX does by itself."""
    fold = jax.jit(lambda key: jax.random.key_data(jax.random.fold_in(key, 1)))

    def by_kernel():
        return "cu_threefry2x32" in fold.trace(jax.random.key(0)).lower(lowering_platforms=("cuda",)).as_text()

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with compiling.keys_folded_by_kernel(), compiling.keys_folded_by_kernel():
        assert by_kernel()
    assert not by_kernel()

    def spied(key, spec, *rest):
        made.append(by_kernel())
        return dense.init(key, spec)

    def apply(*arguments, **named):
        trained.append(by_kernel())
        return dense.apply(*arguments, **named)

    dense, made, trained = jn.dense(1), [], []
    trial = jn.Trial(jn.Layer(spied, apply), jn.losses.squared_error, optax.sgd(0.1), batch_size=4)
    data = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    jn.fit(trial, data, epochs=1, key=jax.random.key(0))
    assert True in made and trained and True not in trained
    made.clear()
    jn.random_search(
        lambda hp: trial, jn.Space(rate=jn.uniform(0, 1)), data, data, trials=2, epochs=1, key=jax.random.key(0)
    )
    assert True in made and True not in trained
