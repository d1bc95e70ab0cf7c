"""Windows that slide over space: which arguments make one, how much is padded, what shape comes out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.hints import did_you_mean
from jaxnet.layer import Spec

_AXES = {1: "time", 2: "height, width", 3: "depth, height, width"}
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "edge": "edge", "circular": "wrap"}

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of one, two or three dimensions, made by ``window``; ``name`` is the layer's, for errors."""

    name: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str | Pairs
    mode: str

    def layout(self, features: Any) -> str:
        """The shape of a batch, as errors show it: ``[batch, height, width, 3]``."""
        return f"[batch, {_AXES[len(self.kernel)]}, {features}]"

    def space(self, spec: Spec) -> tuple[int, ...]:
        """The axes of an example that the window slides over. ValueError when their number isn't the window's."""
        if len(spec.shape) != len(self.kernel) + 1:
            hint = ""
            if len(spec.shape) == len(self.kernel):
                hint = f" If an example has one feature at each place, add the axis: {(*spec.shape, 1)}."
            raise ValueError(
                f"{self.name}: a kernel {self.kernel} slides over examples of shape "
                f"{self.layout('features').replace('batch, ', '')}, but got the shape {spec.shape}.{hint}"
            )
        return spec.shape[:-1]

    def check(self, x: jax.Array, features: int) -> None:
        """Raises unless ``x`` is a batch with as many axes as the window needs and ``features`` features."""
        if x.ndim != len(self.kernel) + 2 or x.shape[-1] != features:
            raise ValueError(
                f"{self.name}: expected x of shape {self.layout(features)}, the features that init saw, but got "
                f"{x.shape}. If the batch axis is missing, try x[None]; if the features are on axis 1, try "
                f"jnp.moveaxis(x, 1, -1)."
            )

    def pairs(self, space: tuple[int, ...]) -> Pairs:
        """How many places are added before and after each axis of ``space``."""
        if not isinstance(self.padding, str):
            pairs = self.padding
        elif self.padding == "CAUSAL":
            pairs = tuple((d * (k - 1), 0) for k, d in zip(self.kernel, self.dilation, strict=True))
        else:
            pads = lax.padtype_to_pads(space, self.reach, self.strides, self.padding)
            pairs = tuple((int(low), int(high)) for low, high in pads)
        limit = {"reflect": -1, "circular": 0}.get(self.mode)
        if limit is not None and any(max(pair) > n + limit for pair, n in zip(pairs, space, strict=True)):
            raise ValueError(
                f"{self.name}: padding_mode {self.mode!r} has at most {tuple(n + limit for n in space)} places of "
                f"{space} to repeat on each side, but the padding is {pairs}; try less padding or padding_mode='zeros'"
            )
        return pairs

    @property
    def reach(self) -> tuple[int, ...]:
        """How many places the window spans on each axis, from its first to its last."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def out(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """How many windows fit on each axis of ``space`` with its padding. ValueError when none does."""
        pairs = self.pairs(space)
        padded = tuple(n + low + high for n, (low, high) in zip(space, pairs, strict=True))
        if any(n < reach for n, reach in zip(padded, self.reach, strict=True)):
            raise ValueError(
                f"{self.name}: a window that spans {self.reach} doesn't fit into {space} with padding {pairs}; "
                f"try padding='SAME', a smaller kernel, or larger inputs"
            )
        return tuple((n - r) // s + 1 for n, r, s in zip(padded, self.reach, self.strides, strict=True))

    def pad(self, x: jax.Array) -> tuple[jax.Array, Pairs]:
        """``x`` with all padding that isn't zeros, and the pairs of zeros that remain to be added."""
        space = x.shape[1:-1]
        self.out(space)  # raises when nothing fits
        pairs = self.pairs(space)
        if self.mode == "zeros":
            return x, pairs
        return jnp.pad(x, ((0, 0), *pairs, (0, 0)), mode=PAD_MODES[self.mode]), ((0, 0),) * len(space)


def window(
    name: str, kernel: Any, strides: Any = 1, dilation: Any = 1, padding: Any = "VALID", mode: str = "zeros"
) -> Window:
    """The arguments of a layer that slides a window, checked.

    Args:
      name: the layer's, for errors.
      kernel: a tuple of one to three positive integers.
      strides, dilation: an integer for all axes, or one for each.
      padding: "SAME" (as many windows as ``ceil(n / stride)``, the odd place added at the end), "VALID" (none),
        "CAUSAL" (one dimension: all before the start), an integer for all axes, or for each axis an integer or a pair.
      mode: what is padded with: "zeros", "reflect", "edge" or "circular".

    >>> window("conv", (3, 3), padding="SAME").out((28, 28))
    (28, 28)
    """
    if hasattr(kernel, "__index__"):
        raise TypeError(
            f"{name}: kernel must be a tuple with a number for each dimension, got {kernel!r}; "
            f"try ({kernel},) for sequences or ({kernel}, {kernel}) for images"
        )
    if not isinstance(kernel, (tuple, list)):
        raise TypeError(f"{name}: kernel must be a tuple of one to three integers, got {kernel!r}")
    if not 1 <= len(kernel) <= 3:
        raise ValueError(f"{name}: kernel must have one to three dimensions, got {tuple(kernel)!r}")
    kernel = integers(name, "kernel", kernel, len(kernel))
    strides = integers(name, "strides", strides, len(kernel))
    dilation = integers(name, "dilation", dilation, len(kernel))
    check_mode(name, "padding_mode", mode)
    return Window(name, kernel, strides, dilation, _padding(name, padding, len(kernel)), mode)


def check_mode(name: str, what: str, mode: str) -> None:
    """Raises unless ``mode`` says what stands in the cells past the edge."""
    if mode not in PAD_MODES:
        hint = did_you_mean(mode, PAD_MODES)
        raise ValueError(f"{name}: {what} must be one of {', '.join(map(repr, PAD_MODES))}, got {mode!r}{hint}")


def integers(name: str, what: str, value: Any, count: int, least: int = 1) -> tuple[int, ...]:
    """``value``, an integer for all dimensions or one for each, as a tuple of ``count`` integers of at least ``least``.

    Raises:
      TypeError, ValueError: naming the layer and, as ``what``, the argument.
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    if any(isinstance(n, bool) or not hasattr(n, "__index__") for n in values):
        raise TypeError(f"{name}: {what} must be an integer or a tuple of integers, got {value!r}")
    if len(values) != count:
        raise ValueError(f"{name}: {what} must be one integer or {count}, one for each dimension, got {value!r}")
    values = tuple(int(n) for n in values)
    if any(n < least for n in values):
        raise ValueError(f"{name}: {what} must be at least {least}, got {value!r}")
    return values


def _padding(name: str, padding: Any, count: int) -> str | Pairs:
    if isinstance(padding, str):
        if padding not in (known := ("SAME", "VALID", "CAUSAL")):
            raise ValueError(
                f"{name}: padding must be 'SAME', 'VALID', 'CAUSAL', integers or pairs, got {padding!r}"
                f"{did_you_mean(padding, known)}"
            )
        if padding == "CAUSAL" and count > 1:
            raise ValueError(f"{name}: padding 'CAUSAL' pads time, so it needs a kernel of one dimension, got {count}")
        return padding
    each = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * count
    if len(each) != count:
        hint = f"; for a pair, try ({tuple(each)!r},)" if count == 1 else ""
        raise ValueError(
            f"{name}: padding must be one integer, or {count} integers or pairs, one for each dimension, "
            f"got {padding!r}{hint}"
        )
    return tuple(integers(name, "padding", n, 2, least=0) for n in each)  # pyright: ignore[reportReturnType]
