"""What a search returns: a table, learning curves, and the best networks ready to use."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnet.checkpoint import as_trees, by_path, read_arrays, replacing, write_arrays
from jaxnet.layer import Layer, Spec
from jaxnet.ops.parameters import unpad
from jaxnet.search.lanes import concrete
from jaxnet.search.planning import Plan
from jaxnet.search.space import Hyperparameters
from jaxnet.training import Trial

FORMAT = "result of a search"

Row = dict[str, Any]


class Network(NamedTuple):
    """A trained network without padding: ``net.apply(params, state, x)``."""

    net: Layer
    params: Any
    state: Any


class Reproduction(NamedTuple):
    """A trial trained again alone: the curves by measure, those of the search, and how far apart they are at most, as a
    share of the largest value of the measure."""

    curves: dict[str, np.ndarray]
    recorded: dict[str, np.ndarray]
    difference: float


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
      plan: how the trials were grouped; None for a result that was loaded.
      compile_seconds, run_seconds: time spent waiting for compilation, and running, in seconds.
      devices: how many shared the lanes, on all hosts.
    """

    def __init__(
        self,
        table: dict[str, np.ndarray],
        history: dict[str, np.ndarray],
        names: list[str],
        *,
        plan: Plan | None = None,
        compile_seconds: float = 0.0,
        run_seconds: float = 0.0,
        kept: Mapping[int, Callable[[], Any]] | None = None,
        retrain: Callable[[int, int], tuple[Network, dict[str, np.ndarray]]] | None = None,
        maximize: bool = False,
        messages: Mapping[int, str] | None = None,
        repeated: Mapping[str, np.ndarray] | None = None,
        devices: int = 1,
    ):
        self.table, self.history, self.names = table, history, names
        self.maximize, self.messages = maximize, dict(messages or {})
        self.repeated = dict(repeated or {name: values[:, None] for name, values in history.items()})
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

    def row(self, trial_id: int) -> Row:
        """One trial's row of the table, as Python values by column."""
        if not 0 <= trial_id < len(self):
            raise ValueError(f"there is no trial {trial_id}; ids run from 0 to {len(self) - 1}")
        return {name: _python(column[trial_id]) for name, column in self.table.items()}

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
        """A row's trained network, ``(net, params, state)``, unpadded, with NumPy arrays; for a ``Program`` its carry.

        The best trials' are at hand (``keep=`` of the search). Another row is trained again, alone, which takes as long
        as ``fit`` and gives the row's numbers to rounding.

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

        Args:
          row, seed: as for ``network``.

        Raises:
          ValueError: as ``network``.
        """
        trial_id = self.row(_id(self.best if row is None else row))["id"]
        _, curves = self._again(trial_id, self._lane(trial_id, seed))
        units = len(next(iter(curves.values())))
        recorded = {name: self.repeated[name][trial_id, seed, :units] for name in curves}
        gaps = [np.nanmax(np.abs(curves[n] - was)) / max(np.nanmax(np.abs(was)), 1e-30) for n, was in recorded.items()]
        return Reproduction(curves, recorded, float(max(gaps)))

    def _lane(self, trial_id: int, seed: int) -> int:
        if not 0 <= seed < self.repeats:
            raise ValueError(f"there is no seed {seed}; they run from 0 to {self.repeats - 1}")
        return trial_id * self.repeats + seed

    def _again(self, trial_id: int, lane: int) -> tuple[Network, dict[str, np.ndarray]]:
        if trial_id in self.messages:
            raise ValueError(f"trial {trial_id} failed: {self.messages[trial_id]}")
        if self._retrain is None:
            raise ValueError(
                f"the network of trial {trial_id} isn't at hand, only those of "
                f"{sorted({kept // self.repeats for kept in self._kept})}; search with a larger keep=, or train it: "
                f"jn.fit(trial(result.hyperparameters({trial_id})), ..., key=key, trial_id={lane})"
            )
        return self._retrain(lane, int(self.table["units"][trial_id]) or self.curves.shape[1])

    def to_pandas(self) -> Any:
        """The table as a pandas ``DataFrame`` (the extra ``report`` installs pandas)."""
        import pandas

        return pandas.DataFrame(self.table)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the table as CSV with a header; values that aren't numbers as text."""
        with replacing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text)
            writer.writerow(self.table)
            writer.writerows([[_text(_python(v)) for v in values] for values in zip(*self.table.values(), strict=True)])
            text.detach()

    def save(self, path: str | os.PathLike) -> None:
        """Writes table, curves and the networks at hand into one file, as ``jn.save`` does; nothing is pickled.

        Values that aren't numbers, strings, booleans or None (functions in a ``choice``) are written as their names.
        """
        arrays: dict[str, np.ndarray] = {}
        objects = {}
        for name, column in self.table.items():
            if column.dtype.kind in "biuf":
                arrays[f"table/{name}"] = column
            else:
                objects[name] = [_plain(_python(value)) for value in column]
        arrays |= {f"history/{name}": values for name, values in self.history.items()}
        if self.repeats > 1:
            arrays |= {f"repeated/{name}": values for name, values in self.repeated.items()}
        for lane, made in self._kept.items():
            network = made()
            trees = (network.params, network.state) if isinstance(network, Network) else network
            arrays |= {f"network/{lane}/{name}": leaf for name, leaf in by_path(trees).items()}
        header = {
            "names": self.names, "columns": list(self.table), "objects": objects, "maximize": self.maximize,
            "messages": [[i, why] for i, why in self.messages.items()],
            "kept": list(self._kept), "compile_seconds": self.compile_seconds, "run_seconds": self.run_seconds,
            "devices": self.devices,
        }  # fmt: skip
        write_arrays(path, FORMAT, header, arrays)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        trial: Callable[[Any], Trial] | None = None,
        spec: Spec | tuple[int, ...] | None = None,
    ) -> SearchResult:
        """Reads what ``save`` wrote.

        Args:
          path: the file.
          trial: the trial function, which builds the networks at hand; without it ``network`` raises.
          spec: of one example, as ``net.init`` takes it; wanted with ``trial``.

        Raises:
          ValueError: for a file that isn't such a result, or is truncated; from ``network``, when the trial function
            makes a network of other shapes.
        """
        header, arrays = read_arrays(path, FORMAT)
        objects = {name: np.array(values, object) for name, values in header["objects"].items()}
        objects["status"] = objects["status"].astype(str)
        table = {name: objects[name] if name in objects else arrays[f"table/{name}"] for name in header["columns"]}
        history, repeated = (
            {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
            for prefix in ("history/", "repeated/")
        )
        result = cls(
            table, history, header["names"], maximize=header["maximize"], messages=dict(header["messages"]),
            repeated=repeated, compile_seconds=header["compile_seconds"], run_seconds=header["run_seconds"],
            devices=header["devices"],
        )  # fmt: skip
        if trial is not None and spec is not None:
            for lane in header["kept"]:
                prefix = f"network/{lane}/"
                leaves = {name[len(prefix) :]: leaf for name, leaf in arrays.items() if name.startswith(prefix)}
                row = lane // result.repeats
                result._kept[lane] = functools.partial(_rebuilt, result, trial, spec, row, leaves)
        return result


def kept_network(make_trial, hp: Hyperparameters, kinds, sizes, spec, trees) -> Callable[[], Network]:
    """A network out of the padded trees of a lane, cut when it is asked for.

    Args:
      make_trial, hp: the trial function, and the trial's hyperparameters with integers for sizes.
      kinds, sizes: of each hyperparameter its kind, and of each size ``(least, bound)`` in the lane's group.
      spec: of one example. trees: the lane's params and state, as NumPy arrays.
    """

    def make() -> Network:
        narrow = make_trial(hp).net
        padded = make_trial(concrete(kinds, sizes, hp)).net
        return Network(narrow, *unpad(padded, narrow, spec, *trees))

    return make


def _rebuilt(result: SearchResult, trial, spec, trial_id: int, leaves: dict[str, np.ndarray]) -> Network:
    net = trial(result.hyperparameters(trial_id)).net
    return Network(net, *as_trees(net, spec, leaves, f"trial {trial_id} of the file"))


def _id(row: Row | int) -> int:
    return int(row["id"]) if isinstance(row, Mapping) else int(row)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _text(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) else getattr(value, "__name__", str(value))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, float, str, bool)) else _text(value)
