"""What a search returns: a table, learning curves, and the best networks ready to use."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxnet.checkpoint import as_trees, by_path, read_arrays, replacing, write_arrays
from jaxnet.hints import Named, needs
from jaxnet.layer import Layer, Spec
from jaxnet.ops.parameters import parameter_masks, unpad
from jaxnet.search.lanes import Measured, concrete
from jaxnet.search.planning import Group, Plan
from jaxnet.search.schedules import Rung
from jaxnet.search.space import Hyperparameters, Scale
from jaxnet.training import Fitted, Program, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "result of a search"

Row = dict[str, Any]
Columns = dict[str, np.ndarray]


class Network(NamedTuple):
    """A trained network without padding: ``net.apply(params, state, x)``."""

    net: Layer
    params: Any
    state: Any


class Reproduction(NamedTuple):
    """A trial trained again alone: the curves by measure, those of the search, and how far apart they are at most, as a
    share of the largest value of the measure; infinity where the search has a number and this training has none.

    ``diverged`` is the step at which training was frozen this time, or None; the table's column has the search's.
    """

    curves: dict[str, np.ndarray]
    recorded: dict[str, np.ndarray]
    difference: float
    diverged: int | None = None


class SearchResult:
    """The outcome of a search; ``random_search`` and ``search.run`` make it.

    Attributes:
      table: dict of NumPy columns, one row a trial, in the order of ids: ``id``, ``status`` ("completed",
        "stopped" by the schedule, "diverged", or "failed" to be built), ``units`` (of budget completed), ``score`` (the
        last of those units', NaN for a diverged trial), the other measures then, with several seeds ``score_error``
        (the standard error of their mean), ``diverged`` (the step at which it was frozen, or -1), then the
        hyperparameters by name.
      curves: the score after each unit, ``[trials, units]``, NaN where a trial had diverged.
      history: such an array for every measure, by name; with several seeds the mean over them.
      repeated: the measures of each seed, ``[trials, repeats, units]``, by name.
      maximize: whether a higher score is better.
      messages: why trials failed, by id.
      names: the hyperparameters' names.
      scales: by name, whether a hyperparameter is "linear", "log" or a "category", and its bounds or values.
      groups: dict of columns, one row for each group of trials that shared a compiled program: ``ids`` (an array),
        ``lanes``, ``chunks``, ``sizes`` and ``compiled_in`` (text), ``bytes`` (of its largest program, as the compiler
        knows it; 0 where it doesn't), ``padding`` (the share of arithmetic spent on it, estimated), ``compile_seconds``
        and ``run_seconds``. Groups compile, and on a CPU run, side by side, so that their seconds may add up to more
        than the search's. What a journal gave back took no time.
      rungs: dict of columns, one row for each rung as it was trained: ``step`` (rungs of one step train side by side),
        ``bracket``, ``units`` (at its end), ``ids`` and ``promoted`` (arrays: who was in it, and who trained on).
      plan: how the trials were grouped; None for a result that was loaded.
      compile_seconds, run_seconds: time spent waiting for compilation, and running, in seconds.
      devices: how many shared the lanes, on all hosts.

    >>> import jaxnet as jn
    >>> program = jn.search.Program(lambda hp, key: 1.0, lambda hp, x, key: x * hp.rate, lambda hp, x: {"score": x})
    >>> space = jn.Space(rate=jn.uniform(0.1, 0.9))
    >>> result = jn.random_search(program, space, trials=4, epochs=3, key=jax.random.key(0))
    >>> list(result.table), result.curves.shape
    (['id', 'status', 'units', 'score', 'diverged', 'rate'], (4, 3))
    >>> bool(result.best["rate"] == result.table["rate"].min())
    True
    """

    table: Columns
    history: Columns
    names: list[str]
    scales: dict[str, Scale]
    groups: Columns
    rungs: Columns
    messages: dict[int, str]
    repeated: Columns
    plan: Plan | None
    maximize: bool
    compile_seconds: float
    run_seconds: float
    devices: int

    def __init__(
        self,
        table: Columns,
        history: Columns,
        names: list[str],
        *,
        scales: Mapping[str, Scale] | None = None,
        groups: Columns | None = None,
        rungs: Columns | None = None,
        plan: Plan | None = None,
        compile_seconds: float = 0.0,
        run_seconds: float = 0.0,
        kept: Mapping[int, Callable[[], Any]] | None = None,
        retrain: Callable[[int, int], tuple[Network, Fitted]] | None = None,
        maximize: bool = False,
        messages: Mapping[int, str] | None = None,
        repeated: Mapping[str, np.ndarray] | None = None,
        devices: int = 1,
    ):
        self.table, self.history, self.names = Named(table), Named(history), names
        self.maximize, self.messages = maximize, dict(messages or {})
        self.repeated = dict(repeated or {name: values[:, None] for name, values in history.items()})
        self.scales = {name: seen_scale(table[name]) for name in names} | dict(scales or {})
        self.groups, self.rungs = groups or {}, rungs or {}
        self.plan, self.compile_seconds, self.run_seconds = plan, compile_seconds, run_seconds
        self.devices = devices
        self._kept, self._retrain = dict(kept or {}), retrain

    @property
    def curves(self) -> np.ndarray:
        """The score after each unit, ``[trials, units]``."""
        return self.history["score"]

    def __len__(self) -> int:
        return len(self.table["id"])

    def __repr__(self) -> str:
        ranked = self.ranked(1)
        best = f"{ranked[0]['score']:.6g}" if ranked else "none"
        lost = [f"{n} {how}" for how in ("diverged", "failed") if (n := int((self.table["status"] == how).sum()))]
        return f"SearchResult({', '.join([f'{len(self)} trials', f'best score {best}', *lost])})"

    @property
    def repeats(self) -> int:
        """How many seeds each configuration was trained with."""
        return self.repeated["score"].shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """How many trials ended in which status."""
        names, counts = np.unique(self.table["status"], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    def row(self, trial_id: int) -> Row:
        """One trial's row of the table, as Python values by column."""
        if not 0 <= trial_id < len(self):
            raise ValueError(f"there is no trial {trial_id}; ids run from 0 to {len(self) - 1}")
        return Named((name, _python(column[trial_id])) for name, column in self.table.items())

    def ranked(self, count: int | None = None) -> list[Row]:
        """Rows from the best score on; ties by id; diverged and failed trials are not among them.

        Where a schedule stopped trials, those that trained longest come first, since scores after few units and after
        many don't compare.
        """
        scores = -self.table["score"] if self.maximize else self.table["score"]
        order = [i for i in np.lexsort((scores, -self.table["units"])) if np.isfinite(scores[i])]
        return [self.row(int(i)) for i in order[:count]]

    @property
    def best(self) -> Row:
        """The row with the best score, of the trials that trained longest; the earlier one of equals.

        Raises:
          ValueError: when every trial diverged or failed.
        """
        ranked = self.ranked(1)
        if not ranked:
            lost = "diverged or failed" if self.messages else "diverged"
            raise ValueError(f"all {len(self)} trials {lost}; try lower learning rates (see the column 'diverged')")
        return ranked[0]

    def hyperparameters(self, row: Row | int) -> Hyperparameters:
        """A row's hyperparameters, to call the trial function with: ``trial(result.hyperparameters(row))``."""
        row = self.row(_id(row))
        return Hyperparameters({name: row[name] for name in self.names})

    def network(self, row: Row | int | None = None, seed: int = 0) -> Any:
        """A row's trained network, ``(net, params, state)``, unpadded, with NumPy arrays.

        For a ``Program`` it is the carry, as it was in its lane: where a width is a ``Size``, with its padding.

        The best trials' are at hand (``keep=`` of the search). Another row is trained again, alone, which takes as long
        as ``fit`` and gives the row's numbers to rounding; of a diverged one the last finite parameters.

        Args:
          row: a row or its id; the default is the best.
          seed: which of the seeds, where the search had several (``repeats=``).

        Raises:
          ValueError: for a row that isn't at hand when the result was loaded from a file, since data aren't in it; or
            that a search over a ``Program`` didn't keep; for a row that failed.
        """
        trial_id = self.row(_id(self.best if row is None else row))["id"]
        lane = self._lane(trial_id, seed)
        if lane in self._kept:
            return self._kept[lane]()
        return self._again(trial_id, lane)[0]

    def reproduce(self, row: Row | int | None = None, seed: int = 0) -> Reproduction:
        """Trains a row again, alone, and compares its curves with those of the search.

        The row that was trained again last compiles nothing, with any of its seeds.

        Args:
          row, seed: as for ``network``.

        Raises:
          ValueError: as ``network``.
        """
        trial_id = self.row(_id(self.best if row is None else row))["id"]
        units = self._units(trial_id)
        _, fitted = self._again(trial_id, self._lane(trial_id, seed))
        curves, recorded, gaps = {}, {}, []
        for name, curve in fitted.curve.items():
            done = curve if fitted.diverged is None else curve[:-1]  # what a search doesn't count, either
            again = curves[name] = np.concatenate([done, np.full(units - len(done), np.nan)])
            was = recorded[name] = self.repeated[name][trial_id, seed, :units]
            both = np.isfinite(again) & np.isfinite(was)
            gap = np.abs(again[both] - was[both]).max(initial=0) / np.abs(was[both]).max(initial=1e-30)
            gaps.append(np.inf if (np.isfinite(was) & ~np.isfinite(again)).any() else gap)
        return Reproduction(curves, recorded, float(max(gaps)), fitted.diverged)

    def _lane(self, trial_id: int, seed: int) -> int:
        if not 0 <= seed < self.repeats:
            raise ValueError(f"there is no seed {seed}; they run from 0 to {self.repeats - 1}")
        return trial_id * self.repeats + seed

    def _units(self, trial_id: int) -> int:
        """How far a trial trains again: as far as it did, or, where it diverged, until it does."""
        diverged = self.table["status"][trial_id] == "diverged"
        return self.curves.shape[1] if diverged else int(self.table["units"][trial_id])

    def _again(self, trial_id: int, lane: int) -> tuple[Network, Fitted]:
        if trial_id in self.messages:
            raise ValueError(f"trial {trial_id} failed: {self.messages[trial_id]}")
        if self._retrain is None:
            raise ValueError(
                f"the network of trial {trial_id} isn't at hand, only those of "
                f"{sorted({kept // self.repeats for kept in self._kept})}; search with a larger keep=, or train it: "
                f"jn.fit(trial(result.hyperparameters({trial_id})), ..., key=key, trial_id={lane})"
            )
        return self._retrain(lane, self._units(trial_id))

    def to_pandas(self) -> Any:
        """The table as a pandas ``DataFrame`` (the extra ``report`` installs pandas)."""
        with needs("report"):
            import pandas

        return pandas.DataFrame(self.table)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as CSV with a header; values that aren't numbers as text."""
        with replacing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(self.table)
            writer.writerows([[_text(_python(v)) for v in values] for values in zip(*self.table.values(), strict=True)])
            text.detach()

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes table, histories, scales, groups and rungs as JSON, NaN as null; networks are in ``save``'s file only.

        ``pandas.DataFrame(json.load(file)["table"])`` is the table again.
        """
        from jaxnet.search.export import write_json

        write_json(self, path)

    def to_tensorboard(self, folder: str | os.PathLike[str]) -> None:
        """Writes a run for each trial, with hyperparameters for TensorBoard's HParams view, and its learning curves.

        ``tensorboard --logdir folder`` shows them. The extra ``report`` installs tensorboardX, which writes such files;
        TensorBoard itself is the reader's.

        Args:
          folder: made when it isn't there; must have no trials of another search in it.

        Raises:
          ValueError: when there are such.
        """
        from jaxnet.search.export import write_tensorboard

        write_tensorboard(self, folder)

    def to_optuna(self, storage: Any = None, name: str | None = None) -> Any:
        """The search as an Optuna study, for its analyses and its dashboard (the extra ``report`` installs Optuna).

        A stopped trial is "pruned"; one that diverged or failed is "fail". Scores after each unit are intermediate
        values; units, other measures, the step of divergence and messages are user attributes. Each hyperparameter has
        one distribution, over all that it could be in any trial. Values that aren't numbers, strings, booleans or None
        are known by their names.

        Args:
          storage: as ``optuna.create_study`` takes it, such as ``"sqlite:///search.db"``, which
            ``optuna-dashboard sqlite:///search.db`` opens; None keeps it in memory.
          name: of the study.

        Raises:
          optuna.exceptions.DuplicatedStudyError: when the storage has a study of that name.
        """
        from jaxnet.search.export import make_study

        return make_study(self, storage, name)

    def importances(self) -> dict[str, float]:
        """The share of the score's variation that each hyperparameter accounts for by itself, the largest first.

        It is functional ANOVA over a random forest, as Optuna has it (the extra ``report`` installs Optuna and
        scikit-learn), on each hyperparameter's own scale. Where a schedule stopped trials it is of the scores after as
        many units as all have that didn't diverge or fail; these are left out. Of more than 300 trials a random 300
        are taken, since its time grows with their square. Shares add up to 1.

        Raises:
          ValueError: for fewer than 10 trials with a score, or scores that are all the same.

        Source: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance" (2014).
        """
        from jaxnet.search.analysis import importances

        return importances(self)

    def plot(self, kind: str = "overview", axes: Any = None, **options: Any) -> Figure:
        """A figure for a paper, with matplotlib (the extra ``report`` installs it); its ``savefig`` writes it.

        Args:
          kind: "overview" (scores against each hyperparameter, learning curves, and the best so far, in one figure),
            or one of its parts, "hyperparameters", "curves", "best"; "rungs", "importances", "groups".
          axes: matplotlib's axes to draw on, for one of the parts; an array of them, one for each hyperparameter, for
            "hyperparameters". The default is a figure of its own.
          options: ``names``, the hyperparameters to show; ``best=10``, how many trials to highlight; ``factor=1``,
            which scores are multiplied with, such as 100 for percent; ``labels``, a dict from "score", "units" and
            names of hyperparameters to the words at the axes.

        Raises:
          ValueError, TypeError: for another kind, axes that don't fit, or another option.
        """
        from jaxnet.search.plots import draw

        return draw(self, kind, axes, **options)

    def report(self, path: str | os.PathLike[str], title: str = "Hyperparameter search") -> None:
        """Writes one HTML file to look at the search in a browser; it needs no network and holds its data.

        Learning curves, scores against each hyperparameter, parallel coordinates, importances, rungs and brackets, the
        best of so many trials, time and memory by group, divergences, and a table to sort and filter. A click on a
        trial in any of them highlights it in all. The extra ``report`` installs plotly, whose script is in the file
        (5 MB), and what importances need; without that they are left out, with a word.

        Args:
          path: the file, ``.html``.
          title: the page's heading.
        """
        from jaxnet.search.report import write_report

        write_report(self, path, title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes table, curves and the networks at hand into one file, as ``jn.save`` does; nothing is pickled.

        Values that aren't numbers, strings, booleans, None or tuples of them (functions in a ``choice``) are written as
        their names.
        """
        arrays: dict[str, np.ndarray] = {f"history/{name}": values for name, values in self.history.items()}
        columns = {
            part: _packed(part, table, arrays)
            for part, table in {"table": self.table, "groups": self.groups, "rungs": self.rungs}.items()
        }
        scales = {
            name: [scale.kind, scale.bounds and list(scale.bounds), [_plain(value) for value in scale.values]]
            for name, scale in self.scales.items()
        }
        if self.repeats > 1:
            arrays |= {f"repeated/{name}": values for name, values in self.repeated.items()}
        for lane, made in self._kept.items():
            network = made()
            trees = (network.params, network.state) if isinstance(network, Network) else network
            arrays |= {f"network/{lane}/{name}": leaf for name, leaf in by_path(trees).items()}
        header = {
            "names": self.names, "columns": columns, "scales": scales, "maximize": self.maximize,
            "messages": [[i, why] for i, why in self.messages.items()],
            "kept": list(self._kept), "compile_seconds": self.compile_seconds, "run_seconds": self.run_seconds,
            "devices": self.devices,
        }  # fmt: skip
        write_arrays(path, FORMAT, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        trial: Callable[[Any], Trial] | Program | None = None,
        spec: Spec | tuple[int, ...] | None = None,
    ) -> SearchResult:
        """Reads what ``save`` wrote.

        Args:
          path: the file.
          trial: the trial function, which builds the networks at hand, or the ``Program``, of whose carries it gives
            the structure; without it ``network`` raises.
          spec: of one example, as ``net.init`` takes it; wanted with a trial function.

        Raises:
          ValueError: for a file that isn't such a result, or is truncated; for a trial function without a spec; from
            ``network``, when the trial function makes a network of other shapes.
        """
        if trial is not None and spec is None and not isinstance(trial, Program):
            raise ValueError("load: a trial function wants spec= too, that of one example, such as (28, 28, 1)")
        header, arrays = read_arrays(path, FORMAT)
        columns = {part: _unpacked(part, columns, arrays) for part, columns in header["columns"].items()}
        columns["table"]["status"] = columns["table"]["status"].astype(str)
        scales = {
            name: Scale(kind, bounds and tuple(bounds), tuple(map(_restored, values)))
            for name, (kind, bounds, values) in header["scales"].items()
        }
        history, repeated = (
            {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
            for prefix in ("history/", "repeated/")
        )
        result = cls(
            columns["table"], history, header["names"], maximize=header["maximize"], messages=dict(header["messages"]),
            scales=scales, groups=columns["groups"], rungs=columns["rungs"], repeated=repeated,
            compile_seconds=header["compile_seconds"], run_seconds=header["run_seconds"],
            devices=header["devices"],
        )  # fmt: skip
        if trial is not None:
            for lane in header["kept"]:
                prefix = f"network/{lane}/"
                leaves = {name[len(prefix) :]: leaf for name, leaf in arrays.items() if name.startswith(prefix)}
                row = lane // result.repeats
                result._kept[lane] = functools.partial(_rebuilt, result, trial, spec, row, leaves)
        return result


def kept_network(
    make_trial: Callable[[Any], Trial], hp: Hyperparameters, kinds: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]], spec: Any, trees: Any,
) -> Callable[[], Network]:  # fmt: skip
    """A network out of the padded trees of a lane, cut when it is asked for.

    Args:
      make_trial, hp: the trial function, and the trial's hyperparameters with integers for sizes.
      kinds, sizes: of each hyperparameter its kind, and of each size ``(least, bound)`` in the lane's group.
      spec: of one example. trees: the lane's params and state, as NumPy arrays.
    """

    def make() -> Network:
        narrow = make_trial(hp).net
        sized = concrete(kinds, sizes, hp)
        # A method is known by its object's identity, also where the object, a dataclass say, can't be hashed.
        masks = _masks(make_trial.__call__, *_hashable(spec))(sized)
        return Network(narrow, *unpad(make_trial(sized).net, narrow, spec, *trees, masks=masks))

    return make


def _hashable(spec: Any) -> tuple[Any, Any]:
    leaves, tree = jax.tree.flatten(spec, is_leaf=lambda leaf: isinstance(leaf, Spec))
    return tuple(leaves), tree


@functools.lru_cache(maxsize=16)
def _masks(make_trial: Callable[[Any], Trial], specs: tuple, tree: Any) -> Callable[[Hyperparameters], Any]:
    """Which parameters are active, of hyperparameters; compiled once for all trials of a group."""
    return jax.jit(lambda hp: parameter_masks(make_trial(hp).net, jax.tree.unflatten(tree, specs)))


def measured_groups(plan: Plan, measured: Mapping[Group, Measured]) -> Columns:
    """The columns of ``SearchResult.groups``, of a plan and what its groups took."""
    groups = [(group, measured.get(group, Measured())) for group in plan.groups]
    lanes = [taken.lanes or group.lanes for group, taken in groups]
    columns = {
        "ids": _ragged([np.unique(group.ids // plan.repeats) for group, _ in groups]),
        "lanes": lanes,
        "chunks": [-(-len(group.ids) // width) for (group, _), width in zip(groups, lanes, strict=True)],
        "sizes": _objects([group.sizes_text for group, _ in groups]),
        "compiled_in": _objects([group.static_text for group, _ in groups]),
        "bytes": [taken.bytes for _, taken in groups],
        "padding": [group.waste for group, _ in groups],
        "compile_seconds": [taken.compile_seconds for _, taken in groups],
        "run_seconds": [taken.run_seconds for _, taken in groups],
    }
    return {name: np.asarray(values) for name, values in columns.items()}


def executed_rungs(steps: Sequence[Sequence[Rung]], trials: int) -> Columns:
    """The columns of ``SearchResult.rungs``, of the steps that a schedule took.

    >>> steps = [[Rung(np.arange(4), 1, 2), Rung(np.arange(4, 6), 3)], [Rung(np.array([1, 3]), 3)]]
    >>> columns = executed_rungs(steps, 6)
    >>> columns["bracket"].tolist(), [ids.tolist() for ids in columns["promoted"]]
    ([0, 1, 0], [[1, 3], [], []])
    """
    last = np.full(trials, -1)  # the step in which each trial trained last
    for step, rungs in enumerate(steps):
        for rung in rungs:
            last[rung.ids] = step
    brackets, columns = np.full(trials, -1), {"step": [], "bracket": [], "units": [], "ids": [], "promoted": []}
    for step, rungs in enumerate(steps):
        for rung in rungs:
            ids = np.asarray(rung.ids)
            if not len(ids):
                continue
            bracket = max(brackets[ids])
            bracket = brackets.max() + 1 if bracket < 0 else bracket  # all its trials are new
            brackets[ids[brackets[ids] < 0]] = bracket
            values = (step, bracket, rung.units, ids, ids[last[ids] > step])
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return {
        name: _ragged(values) if name in ("ids", "promoted") else np.array(values, int)
        for name, values in columns.items()
    }


def seen_scale(column: np.ndarray) -> Scale:
    """The scale of a hyperparameter of which only values are known."""
    values = [_python(value) for value in column if value is not None]
    if values and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return Scale("linear", (min(values), max(values)))
    return Scale("category", None, tuple(dict.fromkeys(_python(value) for value in column)))


def _packed(part: str, table: Columns, arrays: Columns) -> list[Any]:
    """Adds a table's columns to ``arrays``; returns what else is to be known of them: ``(name, kind, values)``."""
    columns = []
    for name, column in table.items():
        ragged = column.dtype == object and all(isinstance(value, np.ndarray) for value in column)
        if column.dtype.kind in "biuf":
            arrays[f"{part}/{name}"] = column
            columns.append([name, "array", None])
        elif ragged:
            arrays[f"{part}/{name}"] = np.concatenate([np.zeros(0, int), *column])
            columns.append([name, "ragged", [len(value) for value in column]])
        else:
            columns.append([name, "plain", [_plain(_python(value)) for value in column]])
    return columns


def _unpacked(part: str, columns: list[Any], arrays: Columns) -> Columns:
    table = {}
    for name, kind, values in columns:
        if kind == "plain":
            table[name] = _objects([_restored(value) for value in values])
        else:
            array = arrays[f"{part}/{name}"]
            table[name] = (
                array if kind == "array" else _ragged(np.split(array, np.cumsum(values)[:-1]) if values else [])
            )
    return table


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _ragged(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays as the entries of one column."""
    column = np.empty(len(arrays), object)
    for i, array in enumerate(arrays):
        column[i] = array
    return column


def _rebuilt(result: SearchResult, trial, spec, trial_id: int, leaves: dict[str, np.ndarray]) -> Any:
    source, hp = f"trial {trial_id} of the file", result.hyperparameters(trial_id)
    if not isinstance(trial, Program):
        return Network(net := trial(hp).net, *as_trees(net, spec, leaves, source))
    carry = jax.eval_shape(lambda: trial.init(hp, jax.random.key(0)))  # in a lane its shapes may be larger
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(carry)}
    if names != set(leaves):
        raise ValueError(f"{source} has a carry of {sorted(leaves)}, the program makes one of {sorted(names)}")
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[jax.tree_util.keystr(path)], carry)


def _id(row: Row | int) -> int:
    return int(row["id"]) if isinstance(row, Mapping) else int(row)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) else getattr(value, "__name__", str(value))


def _plain(value: Any) -> Any:
    if type(value) is tuple:  # JSON and msgpack would make it a list
        return {"tuple": [_plain(entry) for entry in value]}
    return value if value is None or isinstance(value, (int, float, str, bool)) else _text(value)


def _restored(value: Any) -> Any:
    """What ``_plain`` was given.

    >>> _restored(_plain((5, ("a", None), ())))
    (5, ('a', None), ())
    """
    return tuple(map(_restored, value["tuple"])) if isinstance(value, dict) else value
