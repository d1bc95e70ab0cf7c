"""Data as training takes them: checked on the host once, then on the device as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.layer import Spec

Data = tuple[Any, Any]


def as_data(data: Any, name: str) -> Data:
    """``(inputs, targets)`` on the device, after all checks.

    Args:
      data: a pair; each an array, a nested list, or a tree of arrays, with examples on the first axis.
      name: what errors call it.

    Raises:
      TypeError: when it isn't a pair, or holds something that isn't numbers. ValueError: for no examples, inputs and
        targets of different lengths, or entries that are NaN, infinite or masked.

    >>> inputs, targets = as_data((np.zeros((4, 2)), np.zeros(4, int)), "train")
    >>> inputs.dtype, targets.dtype
    (dtype('float32'), dtype('int32'))
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        hint = ""
        if isinstance(data, (tuple, list)):
            hint = "; inputs that are several arrays are the first of the pair, ((a, b), targets)"
        elif not hasattr(data, "shape") and (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
            hint = "; a Dataset, or what makes batches, is given as jn.Stream(...)"
        raise TypeError(f"{name}: expected a pair (inputs, targets), got {_outline(data)}{hint}")
    inputs, targets = as_arrays(data[0], f"{name} inputs"), as_arrays(data[1], f"{name} targets")
    if count(inputs) != count(targets):
        raise ValueError(
            f"{name}: {count(inputs)} inputs but {count(targets)} targets; the first axis of both counts examples"
        )
    return inputs, targets


def as_arrays(tree: Any, name: str) -> Any:
    """A tree of device arrays with the same number of examples on the first axis; raises as ``as_data``."""
    return jax.tree.map(jnp.asarray, checked(tree, name))


def check_on_host(name: str, *trees: Any) -> None:
    """Raises inside of ``jax.jit``, ``vmap`` and ``grad``, where what JAX computes, or is given, is traced."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((trees, jnp.zeros(())))):
        raise TypeError(
            f"{name}: call it outside of jax.jit, jax.vmap and jax.grad; it runs on the host, and jits itself"
        )


def checked(tree: Any, name: str) -> Any:
    """``as_arrays``, but what didn't come from the device stays on the host, with the dtype that it has there."""
    if isinstance(tree, list):
        tree = np.asarray(tree)
    tree = jax.tree_util.tree_map_with_path(lambda path, leaf: _checked(leaf, name + jax.tree_util.keystr(path)), tree)
    lengths = sorted({len(leaf) for leaf in jax.tree.leaves(tree)})
    if len(lengths) != 1:
        raise ValueError(f"{name}: expected arrays with the same number of examples on the first axis, got {lengths}")
    return tree


def check_unmasked(leaf: Any, name: str) -> None:
    """Raises for a masked array of NumPy of which something is masked.

    Args:
      leaf: anything. name: what it is, for the error.
    """
    if np.ma.is_masked(leaf):
        raise ValueError(
            f"{name}: {np.ma.count_masked(leaf)} entries are masked, and a mask isn't looked at. Leave those examples "
            f"out, or fill them in (.filled(0))."
        )


def _checked(leaf: Any, name: str) -> Any:
    if isinstance(leaf, Tracer):
        raise TypeError(f"{name}: expected numbers, got {_outline(leaf)}, traced by jax.jit, jax.vmap or jax.grad")
    check_unmasked(leaf, name)
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise TypeError(f"{name}: expected numbers, got dtype {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{name}: expected at least one example on the first axis, got shape {array.shape}")
    device_dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if jnp.issubdtype(array.dtype, jnp.integer) and device_dtype != array.dtype:
        limits = np.iinfo(device_dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"{name}: {array.dtype} entries up to {array.max()} don't fit {device_dtype}; "
                f"enable them with jax.config.update('jax_enable_x64', True)"
            )
    what = "NaN or infinite"
    if device_dtype != array.dtype:
        what += f" as {device_dtype}"
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            array = array.astype(device_dtype)
    if jnp.issubdtype(device_dtype, jnp.inexact):
        bad = ~np.isfinite(np.asarray(array, np.float32 if device_dtype == jnp.bfloat16 else None))
        if bad.any():
            raise ValueError(
                f"{name}: {int(bad.sum())} entries are {what}, the first at {np.argwhere(bad)[0].tolist()}. "
                f"Leave those examples out, or fill them in (numpy.nan_to_num)."
            )
    return array


def count(data: Any) -> int:
    """The number of examples of a tree of arrays."""
    return len(jax.tree.leaves(data)[0])


def input_spec(inputs: Any) -> Any:
    """The ``Spec`` of one example, or a tree of them; pixels (uint8) become float32 when a batch is made.

    >>> input_spec(jnp.zeros((5, 28, 28, 1), jnp.uint8))
    Spec(shape=(28, 28, 1), dtype=dtype('float32'), active=None)
    """
    return jax.tree.map(lambda a: Spec(a.shape[1:], jnp.float32 if a.dtype == jnp.uint8 else a.dtype), inputs)


def as_floats(inputs: Any) -> Any:
    """A batch as the network sees it: uint8 pixels become float32 in [0, 1]; everything else stays as it is."""
    return jax.tree.map(lambda a: a.astype(jnp.float32) / 255 if a.dtype == jnp.uint8 else a, inputs)


def feeder(train: Data, validation: Data | None, order_key: jax.Array, shuffle: str) -> Callable[[int], dict[str, Any]]:
    """``feed(epoch)``: what the epoch's program is given beside the lanes, data and the order of the examples.

    The order is drawn here, on the host, since a sort inside the compiled program costs more compile time than it
    saves. It depends on the key and the epoch alone.
    """
    order, examples = orders(order_key), count(train)
    static = {"train": train} | ({} if validation is None else {"validation": validation})

    def feed(epoch: int) -> dict[str, Any]:
        if shuffle != "shared":
            return static
        return static | {"order": jnp.asarray(order(epoch, examples), jnp.int32)}

    return feed


def orders(order_key: jax.Array) -> Callable[[int, int], np.ndarray]:
    """``order(epoch, examples)``: a permutation, drawn from the key and the epoch alone."""
    words = np.asarray(jax.random.bits(order_key, (2,), jnp.uint32)).astype(np.uint64)

    def order(epoch: int, examples: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox(key=words, counter=[0, 0, 0, epoch]))
        return generator.permutation(examples)

    return order


def as_key(key: Any) -> jax.Array:
    """A single key, ``jax.random.key(0)`` or the older ``PRNGKey(0)``, as the former; else raises ``TypeError``."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0
    raw = isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32
    raw = raw and key.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape
    if not typed and not raw:
        raise TypeError(f"expected a single key such as jax.random.key(0), got {_outline(key)}")
    made: Any = key if typed else jax.random.wrap_key_data(jnp.asarray(key))
    return made


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises unless ``value`` is an integer of at least 1, or another least one.

    Args:
      name: of the argument, for the error. value: what was given for it. least: what it may be.

    Raises:
      TypeError: for a bool or what isn't an integer. ValueError: for a smaller one.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def _outline(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{value!r:.80}" if shape is None else f"an array of shape {shape}, {value.dtype}"
