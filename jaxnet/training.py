"""Training as a pure function: a trial and data become a program, and ``fit`` runs one.

A search runs the same program in many lanes (``jaxnet.search``); there is no other training loop.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.callback import Callback, check_callbacks
from jaxnet.data import Data, as_floats, as_key, check_count, check_on_host, checked, input_spec
from jaxnet.hints import Named, did_you_mean
from jaxnet.layer import Layer, Size, Spec, check_features, function_name
from jaxnet.layers.elementwise import as_layer
from jaxnet.losses import check_labels, label_uses
from jaxnet.ops import affine, compiling, folding
from jaxnet.ops.random import threefry_key
from jaxnet.ops.reductions import counting_rows
from jaxnet.ops.scan import SEGMENT, guarded_steps, scan_steps
from jaxnet.sequence import Sequence
from jaxnet.stream import (
    Parts,
    Stream,
    as_source,
    batch_count,
    each_window,
    labels_inside,
    parts_feeder,
    run_parts,
    shapes_of,
)


def evaluation_batch() -> int:
    """Examples that are evaluated at a time, where nothing depends on it but the speed.

    1,000 keep an accelerator busy, and activations of a thousand lanes still fit. On a CPU 200, whose activations its
    caches hold: LeNet 6-16-120 takes 0.4 of the time that it takes with 1,000 (``python -m
    experiments.benchmarks.scaling --only predicted``). Small networks lose a little in ``predict``, a call for each.
    """
    return 200 if jax.default_backend() == "cpu" else 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One configuration: all that training needs beside data, epochs and a key.

    Args:
      net: the network, a ``Layer``.
      loss: ``(outputs, targets) -> [batch]``, one number for each example; its mean is minimised.
      optimizer: any optax transformation; its learning rate, momentum and so on may be traced. ``update`` gets
        ``value``, ``grad`` and ``value_fn`` if it takes them; those that want more (sophia's ``obj_fn``, opaque sam's
        ``grad_fn``), or parameters of their own kind (lookahead), can't be used.
      metric: ``(outputs, targets) -> [batch]``, reported beside the loss, and what a search minimises on the validation
        data; without one it minimises the loss.
      penalty: ``params -> scalar``, added to the mean loss (``losses.l2``).
      batch_size: examples in a step, an integer or a ``Size``. The last batch of an epoch has what is left.
      augment: ``(key, inputs) -> inputs``, applied to each batch in training only.
      loss_limit: a batch's mean loss above which training counts as diverged, as it always does when the loss or a
        parameter is no longer finite, or the sum of an array of them (in float32, above 3e38); may be traced. The
        default, infinity, adds no limit.

    Raises:
      TypeError, ValueError: for a part of the wrong kind, a batch size below 1, or a loss limit that is NaN.

    >>> import jaxnet as jn
    >>> trial = Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.1), batch_size=32)
    >>> trial.batch_size
    32
    """

    net: Layer
    loss: Callable[[Any, Any], jax.Array]
    optimizer: Any
    metric: Callable[[Any, Any], jax.Array] | None = None
    penalty: Callable[[Any], jax.Array] | None = None
    batch_size: int | Size = 128
    augment: Callable[[jax.Array, Any], Any] | None = None
    loss_limit: Any = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "net", as_layer(self.net))
        for name in ("loss", "metric", "penalty", "augment"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "loss"):
                raise TypeError(f"Trial: {name} must be a function, got {value!r}")
        if not hasattr(self.optimizer, "init") or not hasattr(self.optimizer, "update"):
            raise TypeError(
                f"Trial: optimizer must be an optax transformation such as optax.sgd(0.1), got {self.optimizer!r}"
            )
        check_features("Trial", self.batch_size, "batch_size")
        if not hasattr(self.loss_limit, "__float__"):
            raise TypeError(f"Trial: loss_limit must be a number, got {self.loss_limit!r}")
        if isinstance(self.loss_limit, (float, np.floating)) and math.isnan(self.loss_limit):
            raise ValueError("Trial: loss_limit must be a number, got nan, above which no loss is; leave it out")


class Program(NamedTuple):
    """What a search runs: three pure functions of one trial, which it vmaps over lanes.

    ``init(hp, key) -> carry``; ``advance(hp, carry, key) -> carry``, one unit of budget (an epoch, say); and
    ``evaluate(hp, carry) -> {"score": ..., ...}``, numbers of the shape () of which ``score`` is minimised; their names
    are neither those of hyperparameters nor ``id``, ``status``, ``units`` or ``score_error``, columns of the results.
    The key is the trial's own. Where ``fit`` sees Python floats, ``hp`` has traced float32 scalars.

    With ``feed``, a function on the host ``unit -> tree of arrays``, ``advance`` and ``evaluate`` get the unit's tree
    as one more argument, the same for all lanes: data and batch order, which must not be captured as constants. It is
    called for each unit of each chunk. JAX arrays that come again are on the devices already; NumPy's are copied each
    time, so that one buffer may be filled anew.

    A lane whose score or carry goes non-finite is frozen at its last finite unit and marked diverged. A program that
    notices earlier says so in ``evaluate``, as ``"diverged"``: the step (int, -1 while all is well).

    >>> def advance(hp, carry, key):  # gradient descent on x ** 2
    ...     return carry - hp.learning_rate * 2 * carry
    >>> program = Program(lambda hp, key: jnp.ones(()), advance, lambda hp, carry: {"score": carry**2})
    """

    init: Callable[..., Any]
    advance: Callable[..., Any]
    evaluate: Callable[..., dict[str, Any]]
    feed: Callable[[int], Any] | None = None


class Carry(NamedTuple):
    """What training hands from step to step. ``diverged`` is the step at which the lane was frozen, or -1."""

    params: Any
    state: Any
    optimizer: Any
    step: Any
    diverged: Any
    totals: dict[str, Any]  # sums over the examples of the epoch: loss, metric, examples
    validation: dict[str, Any]  # the same over the validation data, after the epoch; empty where there are none


class Scaled(NamedTuple):
    """What is carried from step to step where weights are folded (``jaxnet.ops.folding``).

    ``params`` are to be multiplied by their scales, after ``most`` steps at the latest.
    """

    carry: Carry
    scales: folding.Scales
    most: jax.Array


class Fitted(NamedTuple):
    """What ``fit`` returns.

    ``params`` and ``state`` are the network's. ``curve`` has a float64 array ``[epochs]`` for each measure, in
    alphabetical order: ``train_error``, ``train_loss``, ``validation_error``, ``validation_loss`` for a trial whose
    metric is called ``error``; without a metric, or validation data, fewer. ``diverged`` is the step at which training
    was frozen because the loss or a parameter was no longer finite (``params`` are then the last finite ones), or None.
    The epoch of that step is the last in the curve, measured up to the step: training measures are NaN where it is the
    epoch's first. A search has NaN there.
    """

    params: Any
    state: Any
    curve: dict[str, np.ndarray]
    diverged: int | None


class Keys(NamedTuple):
    """The independent streams of one search (and of ``fit``, a search of one)."""

    sampler: jax.Array
    order: jax.Array
    trials: jax.Array

    @classmethod
    def of(cls, key: jax.Array) -> Keys:
        """Those of a key."""
        return cls(*_three(threefry_key(as_key(key))))

    def init(self, trial_id: Any) -> jax.Array:
        """Of a trial's first parameters."""
        return jax.random.fold_in(jax.random.fold_in(self.trials, trial_id), 0)

    def unit(self, trial_id: Any, unit: Any) -> jax.Array:
        """Of a trial's unit of budget, counted from 0."""
        return jax.random.fold_in(jax.random.fold_in(self.trials, trial_id), unit + 1)


def fit(
    trial: Trial,
    train: Data | Stream,
    validation: Data | Stream | None = None,
    *,
    epochs: int,
    key: jax.Array,
    stop: Callable[[dict[str, np.ndarray]], bool] | None = None,
    shuffle: str = "shared",
    trial_id: int = 0,
    callbacks: Iterable[Callback] = (),
) -> Fitted:
    """Trains one trial: a search of one.

    The same jitted epoch as a search's, with the data on the device and one host synchronisation an epoch. ``fit`` of
    row ``i`` of a search, with the search's key and ``trial_id=i``, gives that row's curve again, to rounding.

    It is compiled once for a ``Trial``, the very object, and shapes of data: with other keys, ids, epochs or numbers of
    the same shapes nothing is compiled. A trial made anew, as by another call of ``trial(hp)``, is compiled anew. The
    programs of the last 16 are kept, and with them the trials and what their functions capture.

    Args:
      trial: what to train; its sizes must be integers here.
      train: ``(inputs, targets)``, each an array or a tree of arrays with examples on the first axis. uint8 inputs are
        pixels: they stay uint8 on the device and become float32 in [0, 1] batch by batch. float64 becomes float32
        unless JAX's x64 mode is on. Data that don't fit on the device come as a ``jn.Stream``.
      validation: the same, measured after each epoch.
      epochs: the largest number of passes over the data.
      key: a PRNG key.
      stop: called after each epoch with the curve so far; training ends when it returns True (``target``,
        ``patience``).
      shuffle: "shared" or "own", as in a search; each epoch has its own order either way.
      trial_id: the trial's place in a search of the same key.
      callbacks: objects of ``jn.Callback``, told of every epoch.

    Raises:
      ValueError, TypeError: before training, for data that are empty, not finite, of different lengths, fewer than a
        batch, labels out of range, or shapes that the network, loss or metric can't take; and inside jax.jit.

    >>> import jaxnet as jn
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> trial = Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.5), batch_size=16)
    >>> fitted = fit(trial, (x, 3 * x + 1), epochs=20, key=jax.random.key(0))
    >>> fitted.params["w"].item(), fitted.params["b"].item(), len(fitted.curve["train_loss"])
    (3.0, 1.0, 20)
    """
    check_count("epochs", epochs)
    check_count("trial_id", trial_id, least=0)
    callbacks, keys = check_callbacks(callbacks), Keys.of(key)
    check_on_host("fit", keys.order)
    train, validation = as_source(train, "train"), None if validation is None else as_source(validation, "validation")
    check_trial(trial, train, validation)
    examples = batch_count(train), None if validation is None else batch_count(validation)
    init, advance = _compiled(trial, input_spec(shapes_of(train)[0]), *examples, shuffle)
    feed = parts_feeder(train, validation, keys.order, shuffle, int(trial.batch_size), evaluation_batch())
    with compiling.keys_folded_by_kernel():
        carry = init(keys.init(trial_id))
    curve, epoch, diverged = Named[np.ndarray](), 0, -1
    for callback in callbacks:
        callback.on_start(None)
        callback.on_trial_start(trial_id, {})
    for epoch in range(epochs):
        unit_key, parts = keys.unit(trial_id, epoch), Parts.of(feed(epoch))
        carry, measures = run_parts(
            lambda kind, carry, part, key=unit_key: advance(carry, key, part), carry,
            parts.stream(parts.static, jax.device_put),
        )  # fmt: skip
        measures = {name: np.asarray(value, np.float64) for name, value in jax.device_get(measures).items()}
        for name, value in measures.items():
            if name not in ("score", "diverged"):
                curve[name] = np.append(curve.get(name, []), value)
        diverged = int(measures.pop("diverged"))
        told = {name: np.full(1, value if diverged < 0 else np.nan) for name, value in measures.items()}
        for callback in callbacks:
            callback.on_unit(np.array([trial_id]), np.zeros(1, int), epoch + 1, told)
        if diverged >= 0 or (stop is not None and stop(curve)):
            break
    status = "diverged" if diverged >= 0 else "completed" if epoch + 1 == epochs else "stopped"
    fitted = Fitted(carry.params, carry.state, curve, None if diverged < 0 else diverged)
    for callback in callbacks:
        callback.on_trial_end(trial_id, status)
        callback.on_end(fitted)
    return fitted


def evaluate(trial: Trial, params: Any, state: Any, data: Data | Stream) -> dict[str, float]:
    """The trial's mean loss and metric on data, in evaluation mode, by name: ``{"loss": ..., "error": ...}``.

    Args:
      trial: names the network, the loss and the metric.
      params, state: the network's trees, as ``fit`` returns them.
      data: ``(inputs, targets)`` or a ``jn.Stream``, as for ``fit``; any number of examples.

    Raises:
      ValueError, TypeError: as ``fit``.

    >>> import jaxnet as jn
    >>> trial = Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.5))
    >>> params = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    >>> evaluate(trial, params, (), (np.ones((3, 1), np.float32), np.zeros((3, 1), np.float32)))
    {'loss': 1.0}
    """
    check_on_host("evaluate", params, state)
    data = as_source(data, "data")
    check_trial(trial, None, data)
    if isinstance(data, Stream):
        step = _stream_evaluator(trial, len(data), min(evaluation_batch(), len(data), data.window))
        windows = ((0, window) for window in each_window(data, evaluation_batch()))
        _, means = run_parts(lambda _, totals, part: step(params, state, totals, *part), None, windows)
    else:
        means = _evaluator(trial)(params, state, *data)
    return {name: float(value) for name, value in means.items()}


def predict(net: Layer, params: Any, state: Any, inputs: Any, *, batch_size: int | None = None) -> np.ndarray:
    """The network's outputs for all inputs, in evaluation mode, batch by batch: ``[examples, *out.shape]`` on the host.

    Args:
      net, params, state: the network and its trees.
      inputs: an array or tree of arrays with examples on the first axis, as for ``fit`` (uint8 are pixels); or a
        ``jn.Stream``, of which the inputs are taken, in its own order.
      batch_size: the most examples at a time; bounds memory, changes no result: what is on the host goes to the device
        batch by batch, and outputs are there of two batches at most. By default 1,000, and 200 on a CPU,
        where convolutions are much faster so; for small networks more are a little faster.

    Raises:
      ValueError: for no inputs, or inputs of different lengths. TypeError: for a batch size that isn't an integer; and
        inside jax.jit, where it is ``net.apply``.

    >>> import jaxnet as jn
    >>> predict(jn.flatten, (), (), np.ones((3, 2, 2), np.float32)).shape
    (3, 4)
    """
    batch_size = evaluation_batch() if batch_size is None else batch_size
    check_count("batch_size", batch_size)
    check_on_host("predict", params, state, () if isinstance(inputs, Stream) else inputs)
    if isinstance(inputs, Stream):
        stream = inputs.named("inputs")
        outputs = []
        for (window, _), before in each_window(stream, batch_size):
            made = _stream_predictor(net, min(batch_size, len(stream), stream.window))(params, state, window)
            outputs.append(jax.tree.map(operator.itemgetter(slice(len(stream) - before)), jax.device_get(made)))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    inputs = checked(inputs, "inputs")
    length = len(jax.tree.leaves(inputs)[0])
    outputs = []
    for start in range(0, length, batch_size):
        batch = jax.tree.map(operator.itemgetter(slice(start, start + batch_size)), inputs)
        outputs.append(_predictor(net)(params, state, batch))
        outputs[-2:-1] = jax.device_get(outputs[-2:-1])  # those before come to the host while these are computed
    return jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(outputs))


def target(**limits: float) -> Callable[[dict[str, np.ndarray]], bool]:
    """A stop rule: all the named measures have come down to their limits. ``target(train_error=0)`` is 100 % accuracy.

    Args:
      limits: by the measure's name in the curve; a training measure is the mean over the epoch's batches, each taken
        before the step that it leads to.

    Raises:
      ValueError: without limits, or, in training, for a measure that the curve doesn't have.

    >>> target(train_error=0.1)({"train_error": np.array([0.3, 0.1])})
    True
    """
    if not limits:
        raise ValueError("target: name at least one measure and its limit, such as target(train_error=0)")
    return lambda curve: all(_measure(curve, name)[-1] <= limit for name, limit in limits.items())


def patience(epochs: int, measure: str = "validation_loss") -> Callable[[dict[str, np.ndarray]], bool]:
    """A stop rule: the measure has had no new lowest value for ``epochs`` epochs.

    Args:
      epochs: at least 1.
      measure: by its name in the curve; NaN is no value.

    >>> patience(2)({"validation_loss": np.array([0.5, 0.4, 0.4, 0.6])})
    True
    """
    check_count("epochs", epochs)

    def stop(curve: dict[str, np.ndarray]) -> bool:
        values = np.append(np.inf, _measure(curve, measure))  # the first stands for a time without a value
        return len(values) - 1 - int(np.nanargmin(values)) >= epochs

    return stop


def check_trial(trial: Trial, train: Data | Stream | None, validation: Data | Stream | None) -> None:
    """Raises, before anything is compiled, where a trial and data don't go together; ``fit`` tells what is raised.

    Args:
      trial: with integers for sizes.
      train, validation: as ``as_source`` returns them, or None where there are none.
    """
    if not isinstance(trial, Trial):
        raise TypeError(f"expected a jn.Trial, got {trial!r}")
    if isinstance(trial.batch_size, Size):
        trial.batch_size.__index__()
    if trial.metric is not None and function_name(trial.metric) == "loss":
        raise ValueError("a metric called 'loss' would take the loss's place among the measures; call it otherwise")
    for name, data in (("train", train), ("validation", validation)):
        if data is None:
            continue
        inputs, targets = shapes_of(data)
        if name == "train" and trial.batch_size > batch_count(data):
            raise ValueError(_too_large_batch(trial.batch_size, batch_count(data)))

        passed: dict[int, int] = {}  # which leaves of the outputs are leaves of the inputs, such as lengths

        def outputs(batch, passed=passed):
            params, state, out = trial.net.init(jax.random.key(0), input_spec(batch))
            batch = as_floats(batch)
            outputs, _ = trial.net.apply(params, state, batch)
            own = {id(leaf): j for j, leaf in enumerate(jax.tree.leaves(batch))}
            passed.update({k: own[id(leaf)] for k, leaf in enumerate(jax.tree.leaves(outputs)) if id(leaf) in own})
            return outputs, out, params

        two_inputs, two = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), (inputs, targets))
        made, out, params = jax.eval_shape(outputs, two_inputs)
        _check_outputs(out)
        if name == "train":
            _check_penalty_and_augment(trial, params, inputs)
        for role, function in (("loss", trial.loss), ("metric", trial.metric)):
            if function is not None:
                for i, classes, lengths in _labels(role, function, made, two, passed):
                    if isinstance(data, Stream):
                        data.expect_labels(i, classes, lengths)
                    else:
                        check_labels(labels_inside(data, i, lengths), classes)


def supervised(
    make_trial: Callable[[Any], Trial],
    train: Data | Stream,
    validation: Data | Stream | None,
    *,
    order_key: jax.Array,
    shuffle: str,
    batch_size: int | None = None,
) -> Program:
    """A trial with data as a ``Program``: ``advance`` is an epoch, ``score`` the validation metric.

    Args:
      make_trial: makes the trial from hyperparameters, traced ones in a search.
      train, validation: as ``as_source`` returns them.
      order_key: draws the order of the batches where all lanes share it.
      shuffle: "shared" or "own".
      batch_size: of all trials, where ``train`` is a stream.
    """
    examples = batch_count(train), None if validation is None else batch_count(validation)
    functions = _functions(make_trial, input_spec(shapes_of(train)[0]), *examples, shuffle)
    feed = parts_feeder(train, validation, order_key, shuffle, batch_size, evaluation_batch())
    return Program(*functions, feed=feed)


def _functions(make_trial, spec, examples: int, validation_examples: int | None, shuffle: str):
    """``init``, ``advance``, ``evaluate`` of one trial; pure, and independent of the data."""
    if shuffle not in (known := ("shared", "own")):
        raise ValueError(f'shuffle must be "shared" or "own", got {shuffle!r}{did_you_mean(shuffle, known)}')

    def init(hp, key):
        trial = make_trial(hp)
        params, state, out = trial.net.init(key, spec)
        _check_outputs(out)
        totals = _no_totals(trial), {} if validation_examples is None else _no_totals(trial)
        return Carry(params, state, trial.optimizer.init(params), jnp.int32(0), jnp.int32(-1), *totals)

    def batch(own, shared, index):
        """What a step is given, and which of its rows count."""
        size = (trial := make_trial(own["hp"])).batch_size
        bound, value = (size.bound, size.value) if isinstance(size, Size) else (size, size)
        first = shared.get("first", 0)  # the step with which a window of a stream begins
        index = first + index
        place = index * value + jnp.arange(bound)  # [batch]
        valid = (jnp.arange(bound) < value) & (place < examples)
        rows = jnp.minimum(place, examples - 1)
        if "first" in shared:  # a window has its examples in their order
            rows = rows - first * value
        else:
            rows = (shared["order"] if shuffle == "shared" else own["order"])[rows]
        inputs, targets = jax.tree.map(lambda a: a[rows], shared["train"])
        inputs = as_floats(inputs)
        step_key = jax.random.fold_in(own["key"], index)
        if trial.augment is not None:
            inputs = trial.augment(jax.random.fold_in(step_key, 1), inputs)
        return inputs, targets, valid, step_key

    def outputs_of(trial, params, state, inputs, valid, step_key):
        # Batch statistics leave out the rows that are copies; where every batch is full, they needn't ask.
        sized = isinstance(trial.batch_size, Size)
        counted = None if not sized and examples % trial.batch_size == 0 else valid
        with counting_rows(counted, None if sized else examples % trial.batch_size):
            return trial.net.apply(params, state, inputs, key=jax.random.fold_in(step_key, 0), train=True)

    def step(own, carry, shared, index):
        return stepped(own, carry, {}, shared, index)[0]

    def stepped(own, carry, scales, shared, index):
        """A step, and the scales of the weights that are folded in it."""
        trial = make_trial(own["hp"])
        inputs, targets, valid, step_key = batch(own, shared, index)
        moves = (carry.diverged < 0) & valid[0]  # a lane may be over, or have fewer steps than others
        folds, scales_after = folding.folds(_shares(trial, carry) if scales else [], scales, moves)

        def objective(params, folds, scales):
            with folding.folding(params, folds):
                outputs, state = outputs_of(trial, params, carry.state, inputs, valid, step_key)
            losses = _one_per_example("loss", trial.loss, outputs, targets, valid)
            loss = jnp.sum(losses) / jnp.maximum(jnp.sum(valid), 1)
            if trial.penalty is not None:
                loss = loss + trial.penalty(folding.unscaled(params, scales))
            return loss, (losses, outputs, state)

        (loss, (losses, outputs, state)), gradient = jax.value_and_grad(objective, has_aux=True)(
            carry.params, folds, scales
        )
        gradient, moved = folding.taken_out(gradient, scales)
        params = folding.unscaled(carry.params, scales)
        optimizer = optax.with_extra_args_support(trial.optimizer)
        extra = {"value": loss, "grad": gradient, "value_fn": lambda params: objective(params, {}, {})[0]}
        extra = _taken(optimizer.update, extra)
        updates, optimizer_state = optimizer.update(gradient, carry.optimizer, params, **extra)
        optimizer_state = _as_wide_as(carry.optimizer, optimizer_state)
        params = optax.apply_updates(params, updates)

        total = jnp.sum(losses)
        if not isinstance(trial.loss_limit, float) or trial.loss_limit < math.inf:
            # Once it is infinite it stays so, as a loss that isn't finite does.
            total = jnp.where(total > trial.loss_limit * jnp.sum(valid), jnp.inf, total)
        totals = {"loss": total, "examples": jnp.sum(valid).astype(jnp.float32)}
        if trial.metric is not None:
            totals["metric"] = jnp.sum(_one_per_example("metric", trial.metric, outputs, targets, valid))
        totals = jax.tree.map(jnp.add, carry.totals, totals)
        new = Carry(params, state, optimizer_state, carry.step + 1, carry.diverged, totals, carry.validation)

        new = _where(moves, new, carry)  # known before the step, so it costs no pass of its own
        return new._replace(params=folding.put_back(new.params, moved)), scales_after

    def healthy(carry):
        # A sum is finite only if all its terms are, and is one pass over the parameters; in float32, which holds the
        # sum of any float16 numbers. That of parameters near the end of float32 may not be, which is divergence enough:
        # to look at each number by itself takes twice the time on a CPU, and memory where it isn't fused.
        sums = [jnp.sum(leaf, dtype=jnp.promote_types(leaf.dtype, "float32")) for leaf in _floats(carry[:2])]
        return jnp.isfinite(sum(sums, start=carry.totals["loss"]))

    def freeze(carry, index):
        return carry._replace(diverged=carry.step)

    def advance(hp, carry, key, feed):
        trial = make_trial(hp)
        if "train" in feed:
            carry = train_on(trial, hp, carry, key, feed)
        if "validation" in feed:
            assert validation_examples is not None
            own = {"hp": hp, "params": carry.params, "state": carry.state}
            totals = _from(feed, carry.validation, trial)
            first = feed.get("first")
            totals = _evaluate(make_trial, own, feed["validation"], validation_examples, totals, first)
            carry = carry._replace(validation=totals)
        return carry

    def train_on(trial, hp, carry, key, feed):
        size = trial.batch_size
        own = {"hp": hp, "key": jax.random.fold_in(key, 0)}
        shared = {name: feed[name] for name in ("train", "order", "first") if name in feed}
        if shuffle == "own":
            own["order"] = jax.random.permutation(jax.random.fold_in(key, 1), examples)
        validation = {} if validation_examples is None else _no_totals(trial)
        carry = carry._replace(totals=_from(feed, carry.totals, trial), validation=validation)
        if (most := size.bound if isinstance(size, Size) else size) > examples:
            raise ValueError(_too_large_batch(most, examples))
        if "first" in feed:
            assert not isinstance(size, Size)  # windows are whole batches, which all lanes share
            steps = len(jax.tree.leaves(feed["train"])[0]) // size
        else:
            steps = math.ceil(examples / (size.least if isinstance(size, Size) else size))
        shares = _shares(trial, carry) if folding.folds_here() else []
        if not shares or not (scales := folding.first_scales(shares, foldable(trial, own, carry, shared))):
            return guarded_steps(step, steps, healthy, freeze)(own, carry, shared)
        most = folding.steps_held(shares, scales, SEGMENT)
        return guarded_steps(
            scaled_step, steps, lambda scaled: healthy(scaled.carry), freeze_scaled, between=unscaled, held=held
        )(own, Scaled(carry, scales, most), shared).carry

    def foldable(trial, own, carry, shared):
        inputs, _, *rest = jax.eval_shape(lambda: batch(own, shared, jnp.int32(0)))
        return folding.foldable(functools.partial(outputs_of, trial), carry.params, carry.state, inputs, *rest)

    def scaled_step(own, scaled, shared, index):
        carry, scales = stepped(own, scaled.carry, scaled.scales, shared, index)
        return scaled._replace(carry=carry, scales=scales)

    def freeze_scaled(scaled, index):
        return scaled._replace(carry=freeze(scaled.carry, index))

    def unscaled(scaled):
        params = folding.unscaled(scaled.carry.params, scaled.scales)
        return scaled._replace(
            carry=scaled.carry._replace(params=params), scales=jax.tree.map(jnp.ones_like, scaled.scales)
        )

    def held(scaled):
        return jnp.where(scaled.carry.diverged < 0, scaled.most, SEGMENT)

    def evaluate(hp, carry, feed):
        trial = make_trial(hp)
        measures = _means(trial, carry.totals, "train_")
        if validation_examples is not None:
            # 0 until a stream's come to be measured: NaN would be divergence.
            measured = carry.validation | {"examples": jnp.maximum(carry.validation["examples"], 1)}
            measures |= _means(trial, measured, "validation_")
            measures["score"] = list(measures.values())[-1]  # the validation metric, or the loss where there is none
            bad = (carry.diverged < 0) & ~jnp.isfinite(measures["score"])
            return measures | {"diverged": jnp.where(bad, carry.step, carry.diverged)}
        return measures | {"diverged": carry.diverged}

    return init, advance, evaluate


def _evaluate(
    make_trial, own: dict[str, Any], data: Data, examples: int, totals: dict[str, Any], first: Any = None
) -> dict[str, jax.Array]:
    """Sums of loss and metric over data, in evaluation mode, added to totals; ``own`` holds hp, params and state.

    Where ``first`` is given, data are a window of a stream that begins with the batch of this number.
    """
    held = len(jax.tree.leaves(data)[0])
    batch = min(evaluation_batch(), examples, held)

    def step(own, totals, shared, index):
        trial = make_trial(own["hp"])
        first = shared.get("first", 0)
        place = (first + index) * batch + jnp.arange(batch)
        valid = place < examples
        rows = jnp.minimum(place, examples - 1) - first * batch
        inputs, targets = jax.tree.map(lambda a: a[rows], shared["data"])
        outputs, _ = trial.net.apply(own["params"], own["state"], as_floats(inputs))
        more = {"loss": trial.loss, "metric": trial.metric}
        more = {k: jnp.sum(_one_per_example(k, f, outputs, targets, valid)) for k, f in more.items() if f is not None}
        return jax.tree.map(jnp.add, totals, more | {"examples": jnp.sum(valid).astype(jnp.float32)})

    shared = {"data": data} if first is None else {"data": data, "first": first}
    return scan_steps(step, math.ceil(held / batch))(own, totals, shared)


def _from(feed: dict[str, Any], totals: dict[str, Any], trial: Trial) -> dict[str, jax.Array]:
    """Totals as they go on: from zero, except in a window of a stream that isn't the first."""
    fresh = _no_totals(trial)
    return _where(feed["first"] == 0, fresh, totals) if "first" in feed else fresh


def _no_totals(trial: Trial) -> dict[str, jax.Array]:
    names = ["loss", "examples"] + ["metric"] * (trial.metric is not None)
    return {name: jnp.zeros(()) for name in names}


def _means(trial: Trial, totals: dict[str, Any], prefix: str) -> dict[str, jax.Array]:
    """Loss first, then the metric under its function's name; NaN, and no perfect 0, where no example was counted."""
    examples = totals["examples"]
    means = {f"{prefix}loss": totals["loss"] / examples}
    if trial.metric is not None:
        means[prefix + function_name(trial.metric)] = totals["metric"] / examples
    return means


def _one_per_example(role: str, function, outputs, targets, valid) -> jax.Array:
    """``function(outputs, targets)`` ``[batch]``, zero where there is no valid example; floats at least float32."""
    values = function(outputs, targets)
    if values.shape != valid.shape:
        raise ValueError(
            f"the {role} {function_name(function)!r} must return one number for each example, shape [batch] "
            f"{valid.shape}, got {values.shape}; average over the other axes, not over the batch"
        )
    if jnp.issubdtype(values.dtype, jnp.floating):  # sums over a batch pass float16's end, and bfloat16's 8 bits
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return jnp.where(valid, values, jnp.zeros((), values.dtype))


def _check_outputs(spec: Any) -> None:
    """Raises where some of a network's outputs are padding, which a loss would count.

    Of several outputs one may be padded, as the code of an autoencoder is: the loss that takes them apart is its own.
    """
    parts = jax.tree.leaves(spec, is_leaf=_is_spec) if isinstance(spec, (Spec, Sequence)) else []
    if any(getattr(part, "active", None) is not None for part in parts):
        raise ValueError(
            "the network's last layer has a Size; its number of outputs must be an integer, the same for all trials or "
            "declared with static=True"
        )


def _check_penalty_and_augment(trial: Trial, params: Any, inputs: Any) -> None:
    """Raises unless they return what a step needs, by tracing them with the shapes of a training batch."""
    if trial.penalty is not None:
        made = jax.eval_shape(trial.penalty, params)
        if getattr(made, "shape", None) != ():
            raise ValueError(
                f"the penalty {function_name(trial.penalty)!r} must return one number, of shape (), got {made}; "
                f"sum over what it has of all parameters"
            )
    if trial.augment is not None:
        size = int(trial.batch_size)
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), inputs)
        batch = jax.eval_shape(as_floats, batch)
        made = jax.eval_shape(trial.augment, jax.random.key(0), batch)
        same = jax.tree.structure(made) == jax.tree.structure(batch)
        if not same or {leaf.shape[:1] for leaf in jax.tree.leaves(made)} != {(size,)}:
            raise ValueError(
                f"augment must return as many inputs as it is given, in the same structure: {batch}, got {made}"
            )


def _labels(
    role: str, function: Any, outputs: Any, targets: Any, passed: Mapping[int, int]
) -> list[tuple[int, int, int | None]]:
    """Which leaves of ``targets`` a loss or metric takes for labels, and of how many classes; by tracing it.

    Third, where they are labels of a ``Sequence``'s steps, which leaf of the inputs has the lengths, as ``passed``
    tells for each leaf of the outputs. Where none has, they can't be checked beforehand.
    """
    found = []

    def traced(outputs, targets, valid):
        with label_uses() as uses:
            values = _one_per_example(role, function, outputs, targets, valid)
        for labels, classes in uses:
            if classes == 1:  # says yes or no to a metric
                if role == "loss":
                    raise ValueError(
                        f"the loss {function_name(function)!r} takes labels of several classes, but one output has no "
                        f"softmax; use losses.sigmoid_cross_entropy, with targets of the outputs' shape: "
                        f"targets[..., None]"
                    )
                continue
            lengths = None
            if isinstance(labels, Sequence):
                places = [k for k, leaf in enumerate(jax.tree.leaves(outputs)) if leaf is labels.lengths]
                labels, lengths = labels.values, passed.get(places[0]) if places else None
                if lengths is None:
                    continue
            found.extend((i, classes, lengths) for i, leaf in enumerate(jax.tree.leaves(targets)) if leaf is labels)
        return values

    jax.eval_shape(traced, outputs, targets, jax.ShapeDtypeStruct((2,), bool))
    return found


def _too_large_batch(batch_size: int, examples: int) -> str:
    return (
        f"batch_size is {batch_size}, but there are only {examples} training examples; "
        f"try batch_size={examples} or less"
    )


@jax.jit
def _three(key: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jax.random.split(key, 3))


def _taken(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return options
    return {parameter.name: options[parameter.name] for parameter in parameters if parameter.name in options}


def _shares(trial: Trial, carry: Carry) -> list[affine.Affine | None]:
    """What a step's update is of each parameter and of its gradient."""
    optimizer = optax.with_extra_args_support(trial.optimizer)

    def update(gradient, params, value, value_fn):
        extra = _taken(optimizer.update, {"value": value, "grad": gradient, "value_fn": value_fn})
        return optimizer.update(gradient, carry.optimizer, params, **extra)

    return affine.shares(update, trial.penalty, carry.params)


def _is_spec(value: Any) -> bool:
    return isinstance(value, Spec)


def _floats(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _as_wide_as(before: Any, tree: Any) -> Any:
    """The tree with floats of the dtypes before: a traced momentum is float32, and would widen a bfloat16's trace."""
    return jax.tree.map(
        lambda old, new: jnp.asarray(new, old.dtype) if jnp.issubdtype(old.dtype, jnp.floating) else new, before, tree
    )


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _measure(curve: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in curve:
        raise ValueError(
            f"there is no measure {name!r} to stop by; the curve has {sorted(curve)}{did_you_mean(name, curve)}"
        )
    return curve[name]


@functools.lru_cache(maxsize=16)
def _compiled_for(trial: Trial, specs: tuple, tree: Any, *rest: Any):
    init, advance, evaluate = _functions(lambda hp: trial, jax.tree.unflatten(tree, specs), *rest)

    def unit(carry, key, feed):
        carry = advance((), carry, key, feed)
        return carry, evaluate((), carry, feed)

    return jax.jit(lambda key: init((), key)), compiling.jit(unit, donate_argnums=0)


def _compiled(trial: Trial, spec: Any, examples: int, validation_examples: int | None, shuffle: str):
    """Jitted once for a trial and the shapes of its data, so that more seeds or epochs compile nothing."""
    specs, tree = jax.tree.flatten(spec, is_leaf=_is_spec)
    return _compiled_for(trial, tuple(specs), tree, examples, validation_examples, shuffle)


@functools.lru_cache(maxsize=16)
def _evaluator(trial: Trial):
    def means(params, state, inputs, targets):
        examples = len(jax.tree.leaves(inputs)[0])
        own = {"hp": (), "params": params, "state": state}
        totals = _evaluate(lambda hp: trial, own, (inputs, targets), examples, _no_totals(trial))
        return _means(trial, totals, "")

    return compiling.jit(means)


@functools.lru_cache(maxsize=16)
def _stream_evaluator(trial: Trial, examples: int, batch: int):
    def step(params, state, totals, data, before):
        own = {"hp": (), "params": params, "state": state}
        totals = _no_totals(trial) if totals is None else totals
        totals = _evaluate(lambda hp: trial, own, data, examples, totals, before // batch)
        return totals, _means(trial, totals, "")

    return compiling.jit(step)


@functools.lru_cache(maxsize=16)
def _stream_predictor(net: Layer, batch: int):
    def outputs(params, state, inputs):
        batches = jax.tree.map(lambda a: a.reshape(-1, batch, *a.shape[1:]), inputs)
        made = jax.lax.map(lambda inputs: net.apply(params, state, as_floats(inputs))[0], batches)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), made)

    return jax.jit(outputs)


@functools.lru_cache(maxsize=16)
def _predictor(net: Layer):
    return jax.jit(lambda params, state, inputs: net.apply(params, state, as_floats(inputs))[0])
