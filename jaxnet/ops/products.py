"""Matrix products of activations and weights: the one place that decides how their gradients are multiplied."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxnet.ops.compiling import multiplied_by_accelerator, multiplied_by_eigen
from jaxnet.ops.folding import folded_product
from jaxnet.ops.linear import Linear, transposable
from jaxnet.ops.meshes import split, varying_alike

# How large a gradient may be that is transposed: 784 x 512 took 1.08 of the time, 512 x 512 beside it 1.09.
MOST_ENTRIES = 2**17


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """``x @ w``, of the last axis of ``x`` ``[..., in]`` and a matrix ``[in, out]``.

    The gradient of ``w`` sums over all rows of ``x``. JAX's is ``(dy.T @ x).T``, which XLA makes one product, for which
    it may copy ``dy`` into another order, number by number. In the programs of ``fit`` and of searches on a CPU it is
    ``x.T @ dy``, for which it doesn't: training steps took 0.58 of the time (one convolution of 5 x 5 from 1 to 16
    features). Where ``w`` has no more columns than rows and isn't large, it is ``(dy.T @ x).T`` in three steps that
    read and write in order: training steps took 0.83 (MLP 784-16-10), 0.96 (784-128-10), 0.87 (LeNet 6-16-120).

    On an accelerator plain SGD takes its step while the gradient is multiplied (``jaxnet.ops.folding``); otherwise
    nothing is added there. XLA would let cuBLAS add a penalty's gradient (of momentum what was before), which it writes
    down for that, as large as all weights.

    >>> product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    in_features, features = w.shape
    of_float32 = multiplied_by_eigen() and jnp.result_type(x) == jnp.result_type(w) == jnp.float32
    of_own = of_float32 or (multiplied_by_accelerator() and jnp.result_type(x) == jnp.result_type(w))
    if not of_own or any(split(x) + split(w)):
        return x @ w  # on a mesh, too: JAX's own adds up the gradients of its devices
    rows = x.reshape(-1, in_features)
    folded = folded_product(rows, w) if not of_float32 and jnp.result_type(w) == jnp.float32 else None
    y = _product(*varying_alike(rows, w)) if folded is None else folded
    return y.reshape(*x.shape[:-1], features)


@jax.custom_jvp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


def _product_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    y = _product(x, w)
    parts = [] if isinstance(dx, SymbolicZero) else [_product(dx, w)]
    if not isinstance(dw, SymbolicZero):
        parts.append(transposable(_OF_WEIGHTS, None, x, dw, like=y))
    return y, sum(parts[1:], parts[0])


def gradient_of_weights(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of ``w`` ``[in, out]`` where ``x @ w``, rows ``[n, in]``, has the gradient ``dy``, ``[n, out]``."""
    rows = (((0,), (0,)), ((), ()))
    if multiplied_by_accelerator():
        return lax.optimization_barrier(lax.dot_general(dy, x, rows).T)
    if not multiplied_by_eigen() or dy.shape[1] > x.shape[1] or dy.shape[1] * x.shape[1] > MOST_ENTRIES:
        return lax.dot_general(x, dy, rows)
    across = lax.optimization_barrier(dy.T)  # barriers keep XLA from making it one product
    return lax.optimization_barrier(across @ x).T


_OF_WEIGHTS = Linear(lambda _, x, dw: _product(x, dw), lambda _, x, dy: gradient_of_weights(x, dy))
_product.defjvp(_product_jvp, symbolic_zeros=True)
