"""Dense layers. Features are on the last axis, as everywhere in jaxnet."""

from __future__ import annotations

import jax

from jaxnet.layer import Layer, Size, Spec, along_features, as_spec, check_features, units_of
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.products import product
from jaxnet.sequence import on_features


def dense(
    features: int | Size, *, bias: bool = True, w_init: Initializer = jax.nn.initializers.lecun_normal()
) -> Layer:
    """Affine map of the last axis, ``y = x @ w + b``, from ``[batch, ..., in_features]`` to ``[batch, ..., features]``.

    Args:
      features: units of the output; a ``Size`` lets it differ from lane to lane.
      bias: whether ``b`` is added; without it there is no such parameter, as before a normalisation that centres.
      w_init: draws ``w``. The default has variance ``1 / in_features``, counting active features, so that inputs of
        unit variance give outputs of unit variance. ``b`` starts at 0. For layers followed by relu,
        ``jax.nn.initializers.he_normal()`` is the usual choice; it isn't guessed.

    Parameters: ``w`` ``[in_features, features]`` and ``b`` ``[features]``, in the input's dtype where that is floating,
    else float32. No state.

    Raises:
      TypeError, ValueError: here, when ``features`` is not a positive integer or a ``Size``.
      ValueError: from ``init``, for a spec without axes; from ``apply``, when ``x`` has not the ``in_features`` that
        ``init`` saw.

    Source: the scale is LeCun et al., "Efficient BackProp" (1998), sec. 4.6, which leaves the distribution open; ours
    is a normal truncated at two standard deviations.

    >>> params, state, out = dense(3).init(jax.random.key(0), (5,))
    >>> out.shape, params["w"].shape, params["b"].tolist()
    ((3,), (5, 3), [0.0, 0.0, 0.0])
    """
    check_features("dense", features)

    def init(key, spec):
        spec = as_spec(spec, rank=1)
        *shape, in_features = spec.shape
        dtype = parameter_dtype(spec)
        params = {
            "w": parameter(key, w_init, (in_features, features), active=(spec.active, None), dtype=dtype),
        }
        if bias:
            params["b"] = parameter(key, jax.nn.initializers.zeros, (features,), dtype=dtype)
        units, active = units_of(features)
        return params, (), Spec((*shape, units), dtype, active)

    def apply(params, state, x, *, key=None, train=False):
        in_features = params["w"].shape[0]
        if x.ndim < 2 or x.shape[-1] != in_features:  # shapes are static, so under jit this runs once, while tracing
            raise ValueError(
                f"dense: expected x of shape [batch, ..., {in_features}], the in_features that init saw, but got "
                f"{x.shape}. If the batch axis is missing, try x[None]; if the features are on axis 1, try "
                f"jnp.moveaxis(x, 1, -1)."
            )
        y = product(x, params["w"])  # inactive columns and biases are zero, and so is what they give
        return (y + along_features(params["b"], y) if bias else y), state

    return on_features(init, apply, rank=2)  # of a Sequence, time is not a feature
