"""Progress: seen on a terminal only, and then the best score so far, whatever comes between."""

import math

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.search.progress import Progress


def test_it_is_quiet_where_output_is_no_terminal(capsys, key):
    program = jn.search.Program(lambda hp, key: jnp.ones(()), lambda hp, x, key: x, lambda hp, x: {"score": x * hp.a})
    jn.random_search(program, jn.Space(a=jn.uniform(0, 1)), trials=3, epochs=2, key=key)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_it_tells_what_is_done_and_the_best_so_far():
    with Progress(8, 2, show=True) as progress:
        for share, best in ((0.1, math.inf), (0.25, 0.5), (0.5, 0.125), (0.75, 0.4)):
            progress.unit(share, best)
        progress.chunk(3, 0.75)
        progress.chunk(5, 0.8)
        task = progress._bar.tasks[0]
    assert task.completed == 0.8 and task.total == 1
    assert task.fields == {"doing": "training", "done": 5, "trials": 8, "best": "0.125"}
