"""How programs that train are compiled: the one place that tells XLA to do anything but what it does by itself."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

_FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
_OPTIONS: dict[str, str | bool] = {
    _FUSIONS: "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",  # drops barriers; can't compile them
    "xla_cpu_prefer_vector_width": "512",
    "xla_cpu_copy_insertion_use_region_analysis": True,
}

_FOLDS = "jax_threefry_gpu_kernel_lowering"
_folding = threading.RLock()

# Of what is being traced, when it is a program that trains: who multiplies its matrices.
_multiplier: contextvars.ContextVar[str | None] = contextvars.ContextVar("multiplier", default=None)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """``jax.jit`` of a whole program that trains, not to be called inside of another.

    On a CPU, XLA of 2026 hands matmuls and convolutions to YNNPACK, which runs them on one core up to sizes where two
    would take half the time, all convolutions but the narrowest among them. Here they stay with Eigen, which splits
    them over all cores; sums stay with YNNPACK. Training steps on two cores took 0.34 of the time of a loop by
    hand that is compiled by default (LeNet 32-64-256), 0.77 (MLP 784-16-10), 0.83 (ResNet 8), 0.81 (LSTM), 0.90 (MLP
    784-512-10): ``python -m experiments.benchmarks lanes``, the columns of one at a time.

    And barriers (``lax.optimization_barrier``) hold: XLA for a CPU drops them before it fuses, and then computes what a
    transpose is of once more, element by element in the transpose's order, where it could copy what is there. That took
    1.0 ms for relu of 128 x 28 x 28 x 16 numbers, and takes 0.5; a training step of ResNet 8 took 47 ms, and takes 42.

    Two options more, for vectors of 512 bits where the processor has them (XLA takes 256), and for fewer copies in
    loops: training steps took 0.95 of the time (LSTM), 0.93 (VAE), 0.98 (MLP with batch norm), others were the same:
    ``python -m experiments.benchmarks networks`` with and without ``XLA_FLAGS="--xla_cpu_prefer_vector_width=256
    --xla_cpu_copy_insertion_use_region_analysis=false"``.

    Where ``XLA_FLAGS`` sets ``xla_cpu_experimental_ynn_fusion_type``, nothing of this is changed; where it sets another
    of the options, its value wins. An option that XLA doesn't know is left out.

    Args:
      function: pure. options: of ``jax.jit``.
    """

    compiler_options = _compiler_options()
    multiplier = "accelerator" if jax.default_backend() != "cpu" else "eigen" if compiler_options is not None else None

    @functools.wraps(function)
    def traced(*arguments, **named):
        token = _multiplier.set(multiplier)
        try:
            return function(*arguments, **named)
        finally:
            _multiplier.reset(token)

    return jax.jit(traced, compiler_options=compiler_options, **options)


def multiplied_by_eigen() -> bool:
    """Whether what is being traced is part of a program of which that is known."""
    return _multiplier.get() == "eigen"


def multiplied_by_accelerator() -> bool:
    """Whether what is being traced is part of a program that trains, for an accelerator."""
    return _multiplier.get() == "accelerator"


@contextlib.contextmanager
def keys_folded_by_kernel() -> Iterator[None]:
    """What is traced here and lowered for a GPU folds keys in JAX's kernel for them, as ``jax.random.fold_in`` would.

    A network's ``init`` folds a number for each layer and each parameter into its key, and XLA writes out the rounds of
    each hash. The kernel gives the same numbers, and what draws the weights of many lanes for an H100 compiles in 0.33
    of the time (ResNet 8), 0.5 (LSTM), 0.6 (LeNet), 0.7 (MLP): ``python -m experiments.benchmarks.programs`` with and
    without ``JAX_THREEFRY_GPU_KERNEL_LOWERING=0``. Training steps fold as they would elsewhere: there the kernels'
    starts count.

    Whoever sets that variable has what it says. JAX's setting is one for all threads, so one at a time changes it; what
    another one lowers meanwhile takes the kernel too.
    """
    known = hasattr(jax.config, _FOLDS) and _FOLDS.upper() not in os.environ
    if jax.default_backend() == "cpu" or not known:
        yield
        return
    with _folding:
        before = getattr(jax.config, _FOLDS)
        jax.config.update(_FOLDS, True)
        try:
            yield
        finally:
            jax.config.update(_FOLDS, before)


def _compiler_options() -> dict[str, str | bool] | None:
    flags = os.environ.get("XLA_FLAGS", "")
    if jax.default_backend() != "cpu" or _FUSIONS in flags:
        return None
    wanted = {name: value for name, value in _OPTIONS.items() if name not in flags}
    if not _compiles(**wanted):
        known: dict[str, str | bool] = {}
        for name, value in wanted.items():
            known |= {name: value} if _compiles(**known, **{name: value}) else {}
        wanted = known
    return wanted if _FUSIONS in wanted else None


@functools.cache
def _compiles(**options: str | bool) -> bool:
    """Whether XLA knows options, and compiles a small loop with a barrier under them."""

    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda i, x: jax.lax.optimization_barrier(x + 1), x)

    try:
        jax.jit(loop, compiler_options=dict(options)).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
