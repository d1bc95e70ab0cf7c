"""Progress: seen on a terminal only, and then the best score so far, whatever comes between."""

import io

import jax.numpy as jnp
import numpy as np
import rich.console

import jaxnet as jn
from jaxnet.search.progress import Progress


def test_it_is_quiet_where_output_is_no_terminal(capsys, key):
    program = jn.search.Program(lambda hp, key: jnp.ones(()), lambda hp, x, key: x, lambda hp, x: {"score": x * hp.a})
    jn.random_search(program, jn.Space(a=jn.uniform(0, 1)), trials=3, epochs=2, key=key)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_it_tells_what_runs_what_is_best_and_how_trials_ended(capsys):
    configurations = [{"rate": 0.1 * i, "act": max} for i in range(8)]
    with Progress(configurations, 8, show=True) as progress:
        progress.on_unit(*unit([0, 1], [np.nan, np.nan]))
        assert progress.best is None
        for ids, scores in (([0, 1], [0.5, np.nan]), ([2, 3], [0.25, 0.125]), ([4, 5], [0.4, 0.3])):
            progress.on_unit(*unit(ids, scores))
        for i in range(6):
            progress.on_trial_end(i, "completed" if i else "diverged")
        progress.now(0.75, [f"2 trials, unit {i} of 9: hidden 10-20" for i in range(6)], 2)
        text = shown(progress)
    assert "75%" in text and "6/8 configurations, 1 diverged" in text
    assert "best     0.125, trial 3: rate 0.3, act max" in text
    assert "running  2 trials, unit 0 of 9: hidden 10-20" in text and "and 2 more" in text
    assert "compiles 2 programs" in text
    assert (
        "6/8 configurations, 1 diverged in 0 s; best score at any time 0.125, trial 3" in capsys.readouterr().err
    )  # what stays


def test_higher_may_be_better():
    with Progress([{}] * 4, 4, show=True, maximize=True) as progress:
        progress.on_unit(*unit([0, 1], [0.5, 0.75]))
        progress.on_unit(*unit([2, 3], [np.nan, 0.7]))
    assert progress.best == (0.75, 1)


def test_a_search_tells_how_its_trials_ended(key, capsys):
    # By hand: 9, 3, 1 of 9 trials go on after 1, 3, 9 units; rates above 1 make x grow from 1 past every bound.
    program = jn.search.Program(
        lambda hp, key: jnp.ones(()), lambda hp, x, key: x * hp.a, lambda hp, x: {"score": jnp.where(x > 1, jnp.nan, x)}
    )
    space = jn.Space(a=jn.choice(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.5, 2.0))
    result = jn.search.run(
        program, space, epochs=9, key=key, sampler=jn.search.grid(9), schedule=jn.search.successive_halving(),
        progress=True,
    )  # fmt: skip
    assert result.counts == {"completed": 1, "diverged": 2, "stopped": 6}
    assert "9/9 configurations, 6 stopped, 2 diverged in" in capsys.readouterr().err


def unit(trials, scores):
    """Arguments of a callback's ``on_unit``."""
    return np.array(trials), np.zeros(len(trials), int), 1, {"score": np.array(scores)}


def shown(progress):
    """What the terminal shows at the moment."""
    console = rich.console.Console(width=120, file=io.StringIO())
    console.print(progress._lines())
    return console.file.getvalue()
