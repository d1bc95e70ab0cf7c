"""A result in other programs' formats: JSON, TensorBoard's logs, an Optuna study."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.checkpoint import replacing
from jaxnet.hints import needs
from jaxnet.search.adaptive import quiet_study
from jaxnet.search.analysis import are_integers, category_places, value_names
from jaxnet.search.space import Scale

if TYPE_CHECKING:
    from jaxnet.search.result import SearchResult

PLAIN = (bool, int, float, str)


def write_json(result: SearchResult, path: str | os.PathLike[str]) -> None:
    """As ``SearchResult.to_json``."""
    content = {
        "trials": len(result), "maximize": result.maximize, "names": result.names,
        "compile_seconds": result.compile_seconds, "run_seconds": result.run_seconds,
        "scales": {name: scale._asdict() for name, scale in result.scales.items()},
        "messages": result.messages, "table": result.table, "history": result.history,
        "groups": result.groups, "rungs": result.rungs,
    }  # fmt: skip
    with replacing(path) as file:
        file.write(json.dumps(json_value(content), ensure_ascii=False, allow_nan=False).encode())


def json_value(value: Any) -> Any:
    """A value as JSON knows it: arrays as lists, what isn't finite as None, what else there is by its name.

    >>> json_value({"a": np.array([1.0, np.nan]), "f": max, 3: (True, "x")})
    {'a': [1.0, None], 'f': 'max', '3': [True, 'x']}
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return json_value(value.tolist())
    if isinstance(value, dict):
        return {str(name): json_value(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(getattr(value, "__name__", value))


def write_tensorboard(result: SearchResult, folder: str | os.PathLike[str]) -> None:
    """As ``SearchResult.to_tensorboard``."""
    # The writer of events without the thread and the queue around it, which cost a tenth of a second a trial.
    with needs("report"):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import hparams, scalar

    folder, now = pathlib.Path(folder), time.time()
    if folder.exists() and any(folder.glob("trial-*")):
        raise ValueError(f"{str(folder)!r} has a search's trials already; give a new folder, or remove them")
    parameters, digits = _named(result), len(str(len(result) - 1))
    for i in range(len(result)):
        own = {name: parameters[name][i] for name in result.names}  # None isn't written
        run = folder / f"trial-{i:0{digits}}"
        run.mkdir(parents=True)
        writer = EventsWriter(str(run / "events"))
        for summary in hparams(own, dict.fromkeys(result.history)):
            writer.write_event(Event(wall_time=now, summary=summary))
        for name, history in result.history.items():
            for unit in np.flatnonzero(np.isfinite(history[i])):
                value = scalar(name, float(history[i, unit]))
                writer.write_event(Event(wall_time=now, step=int(unit) + 1, summary=value))
        writer.close()


def make_study(result: SearchResult, storage: Any, name: str | None) -> Any:
    """As ``SearchResult.to_optuna``."""
    with needs("report"):
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
        from optuna.trial import TrialState, create_trial

    distributions: dict[str, Any] = {}
    for hyperparameter, scale in result.scales.items():
        if scale.bounds is None:
            choices = value_names(scale.values) if _named_values(scale) else scale.values
            distributions[hyperparameter] = CategoricalDistribution(tuple(choices))
        elif are_integers(result.table[hyperparameter]):
            low, high = map(int, scale.bounds)
            distributions[hyperparameter] = IntDistribution(low, high, log=scale.kind == "log")
        else:
            low, high = map(float, scale.bounds)
            distributions[hyperparameter] = FloatDistribution(low, high, log=scale.kind == "log")
    states = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    parameters = _named(result)
    others = [column for column in result.table if column not in (*result.names, "id", "score")]
    trials = []
    for i in range(len(result)):
        state = states.get(str(result.table["status"][i]), TrialState.FAIL)
        score = float(result.table["score"][i])
        curve = result.curves[i]
        # An entry that doesn't exist in a trial's branch of the space isn't a parameter of the trial.
        there = [
            name for name, scale in result.scales.items() if scale.bounds is None or parameters[name][i] is not None
        ]
        trials.append(
            create_trial(
                state=state,
                value=score if state is not TrialState.FAIL and math.isfinite(score) else None,
                params={hyperparameter: parameters[hyperparameter][i] for hyperparameter in there},
                distributions={hyperparameter: distributions[hyperparameter] for hyperparameter in there},
                user_attrs={column: json_value(result.table[column][i]) for column in others}
                | ({"message": result.messages[i]} if i in result.messages else {}),
                intermediate_values={int(unit) + 1: float(curve[unit]) for unit in np.flatnonzero(np.isfinite(curve))},
            )
        )
    study = quiet_study(storage=storage, study_name=name, maximize=result.maximize)
    study.add_trials(trials)
    return study


def _named(result: SearchResult) -> dict[str, list[Any]]:
    """The hyperparameters' columns as plain Python values; a category's values by their names, where any has to."""
    columns = {}
    for name, scale in result.scales.items():
        column = result.table[name]
        if scale.kind == "category" and _named_values(scale):
            names = value_names(scale.values)
            columns[name] = [names[place] for place in category_places(column, scale)]
        else:
            columns[name] = column.tolist()
    return columns


def _named_values(scale: Scale) -> bool:
    return not all(value is None or isinstance(value, PLAIN) for value in scale.values)
