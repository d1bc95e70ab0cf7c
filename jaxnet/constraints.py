"""Constraints on parameters, as the last link of an optimiser's chain."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.losses import Where, chosen


def max_norm(limit: Any, *, where: Where | None = None) -> optax.GradientTransformation:
    """After each update, scales down the incoming weights of every unit whose norm is above ``limit``.

    An optax transformation, to be the last of a chain: ``optax.chain(optax.sgd(0.1), jn.max_norm(3.0))``. A unit's
    incoming weights are the entries of a parameter with its index on the last axis; ``w`` and ``u`` of a recurrent
    layer are taken each by itself. Units that have all their weights at zero, and so inactive ones, stay as they are.

    Args:
      limit: the largest Euclidean norm, positive; may be traced. Srivastava et al. take 3 to 4.
      where: which parameters: a function of a parameter's path, such as "head/w" or "3/w", to a bool. Without it, all
        but biases, scales and offsets.

    Raises:
      ValueError: here, for a limit that isn't positive; from ``update``, when it isn't given the parameters.
      TypeError: here, when ``where`` isn't a function.

    Source: Srivastava et al., "Dropout" (JMLR 2014), sec. 5.1.

    >>> chain = optax.chain(optax.sgd(1.0), max_norm(1.0))
    >>> w = jnp.array([[3.0, 0.3], [4.0, 0.4]])
    >>> updates, _ = chain.update(jnp.zeros((2, 2)), chain.init(w), w)
    >>> optax.apply_updates(w, updates).tolist()
    [[0.6, 0.3], [0.8, 0.4]]
    """
    if isinstance(limit, (int, float)) and not limit > 0:
        raise ValueError(f"max_norm: limit must be positive, got {limit!r}")
    meant = chosen("max_norm", where)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("max_norm: needs the parameters; call update(updates, state, params)")

        def projected(path, u, p):
            if not meant(path):
                return u
            moved = p + u
            wide = jnp.promote_types(moved.dtype, jnp.float32)
            squares = jnp.sum(jnp.square(moved.astype(wide)), axis=tuple(range(moved.ndim - 1)), keepdims=True)
            above = squares > jnp.square(jnp.asarray(limit, wide))
            norm = jnp.sqrt(jnp.where(above, squares, jnp.ones((), wide)))
            # Exactly the update itself where nothing is above, and not what rounding leaves of it.
            return jnp.where(above, (moved * (limit / norm)).astype(p.dtype) - p, u).astype(u.dtype)

        return jax.tree_util.tree_map_with_path(projected, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
