"""How programs that train are compiled: the one place that tells XLA to do anything but what it does by itself."""

from __future__ import annotations

import contextvars
import functools
import os
from collections.abc import Callable
from typing import Any

import jax

_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside", default=False)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """``jax.jit`` of a whole program that trains, not to be called inside of another.

    On a CPU, XLA of 2026 hands matmuls and convolutions to YNNPACK, which runs them on one core up to sizes where two
    would take half the time, all convolutions but the narrowest among them. Here they stay with Eigen, which splits
    them over all cores; sums stay with YNNPACK. Training steps on two cores took 0.43 of the time of a loop by
    hand that is compiled by default (LeNet 32-64-256), 0.85 (MLP 784-16-10), 0.84 (ResNet 8), 0.90 (LSTM), 1.00 (MLP
    784-512-10): ``python -m experiments.benchmarks lanes``, the columns of one at a time.

    Whoever sets ``xla_cpu_experimental_ynn_fusion_type`` in ``XLA_FLAGS`` has that. An XLA that doesn't know the option
    is left alone.

    Args:
      function: pure. options: of ``jax.jit``.
    """

    compiler_options = _compiler_options()

    @functools.wraps(function)
    def traced(*arguments, **named):
        token = _inside.set(compiler_options is not None)
        try:
            return function(*arguments, **named)
        finally:
            _inside.reset(token)

    return jax.jit(traced, compiler_options=compiler_options, **options)


def multiplied_by_eigen() -> bool:
    """Whether what is being traced is part of a program of which that is known."""
    return _inside.get()


def _compiler_options() -> dict[str, str] | None:
    return _eigen() if jax.default_backend() == "cpu" and _FUSIONS not in os.environ.get("XLA_FLAGS", "") else None


@functools.cache
def _eigen() -> dict[str, str] | None:
    options = {_FUSIONS: "LIBRARY_FUSION_TYPE_REDUCE", "xla_disable_hlo_passes": "cse_barrier_expander"}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options
