"""Callbacks: each trial's start, units and end are told once, in order, and again as a whole after a kill."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

KEY = jax.random.key(0)


class Story(jn.Callback):
    """What was told; raises in the place of one event, where it is told to."""

    def __init__(self, stop_at=None):
        self.told, self.stop_at = [], stop_at

    def _add(self, *event):
        if event[: len(self.stop_at or "-")] == self.stop_at:
            raise RuntimeError("enough")
        self.told.append(event)

    def on_start(self, plan):
        self._add("start", plan and plan.trials)

    def on_trial_start(self, trial, hyperparameters):
        self._add("trial", trial, dict(hyperparameters))

    def on_unit(self, trials, seeds, units, measures):
        for trial, seed, score in zip(trials.tolist(), seeds.tolist(), measures["score"].tolist(), strict=True):
            self._add("unit", trial, seed, units, score)

    def on_trial_end(self, trial, status):
        self._add("end", trial, status)

    def on_end(self, result):
        self._add("result", result)

    def of(self, trial):
        return [
            event[:1] + event[2:] for event in self.told if event[0] in ("trial", "unit", "end") and event[1] == trial
        ]


# By hand: x is 1, and is multiplied by the factor in every unit; above 10 it counts as lost.
SPACE = jn.Space(factor=jn.uniform(0.0, 20.0))
FACTORS = (0.5, 0.25, 20.0, 0.75)
PROGRAM = jn.search.Program(
    lambda hp, key: jnp.ones(()),
    lambda hp, x, key: x * hp.factor,
    lambda hp, x: {"score": jnp.where(x > 10, jnp.nan, x)},
)


def searched(callback=None, **options):
    options = {"trials": 4, "epochs": 4, "key": KEY, "include": [{"factor": f} for f in FACTORS]} | options
    return jn.search.run(PROGRAM, SPACE, callbacks=[callback] * (callback is not None), **options)


def assert_whole(story, statuses, units):
    """Each trial starts once, has its units in order, and ends once; all of it between start and result."""
    assert story.told[0] == ("start", 4) and story.told[-1][0] == "result"
    for trial, factor in enumerate(FACTORS):
        first, *middle, last = story.of(trial)
        assert first == ("trial", {"factor": factor}) and last == ("end", statuses[trial])
        expected = [("unit", 0, n, factor**n if factor < 1 else np.nan) for n in range(1, units[trial] + 1)]
        np.testing.assert_equal(middle, expected)


HALVED = ["stopped", "completed", "diverged", "stopped"]


def test_every_trial_starts_has_its_units_and_ends_once():
    story = Story()
    result = searched(story)
    assert_whole(story, ["completed", "completed", "diverged", "completed"], [4, 4, 1, 4])
    assert story.told[-1][1] is result


def test_who_a_schedule_leaves_out_ends_there_and_with_one_that_pauses_at_the_end():
    halving = jn.search.successive_halving(eta=2)
    story = Story()
    searched(story, schedule=halving)
    assert_whole(story, HALVED, [2, 4, 1, 1])
    kinds = [event[:2] for event in story.told]
    assert kinds.index(("end", 3)) < kinds.index(("end", 0)) < kinds.index(("end", 1))

    story = Story()
    searched(story, schedule=halving._replace(pauses=True))
    assert_whole(story, HALVED, [2, 4, 1, 1])
    assert [event[1] for event in story.told if event[0] == "end"] == [2, 1, 0, 3]


def test_a_trial_of_several_seeds_and_one_that_cannot_be_built():
    def build(hp):
        return jn.Trial(
            jn.serial(jn.conv(2, (hp.side,)), jn.flatten, jn.dense(1)),
            jn.losses.squared_error,
            optax.sgd(0.1),
            batch_size=4,
        )

    story, x = Story(), np.ones((4, 3, 1), np.float32)
    data = x, x[:, 0]
    result = jn.search.run(
        build, jn.Space(side=jn.choice(2, 5)), data, data, epochs=1, key=KEY, sampler=jn.search.grid(), repeats=2,
        callbacks=[story],
    )  # fmt: skip
    assert result.counts == {"completed": 1, "failed": 1}
    assert story.of(1) == [("trial", {"side": 5}), ("end", "failed")]
    first, *middle, last = story.of(0)
    assert first == ("trial", {"side": 2}) and last == ("end", "completed")
    assert sorted(middle) == [("unit", seed, 1, result.repeated["score"][0, seed, 0]) for seed in (0, 1)]


@pytest.mark.parametrize("stop_at", [("unit", 1, 0, 2), ("end", 3)], ids=["unit", "end"])
def test_what_a_callback_raises_comes_out_and_the_same_call_tells_all_from_the_beginning(stop_at, tmp_path):
    options = {"schedule": jn.search.successive_halving(eta=2), "directory": tmp_path, "lanes": 2}
    with pytest.raises(RuntimeError, match="enough"):
        searched(Story(stop_at), **options)
    story = Story()
    result = searched(story, **options)
    assert_whole(story, HALVED, [2, 4, 1, 1])
    assert result.best["factor"] == 0.25
    story = Story()
    searched(story, **options)  # nothing is left to train
    assert_whole(story, HALVED, [2, 4, 1, 1])


def test_fit_tells_what_a_search_of_one_would():
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    trial = jn.Trial(jn.dense(1), jn.losses.squared_error, optax.sgd(0.5), batch_size=8)
    story = Story()
    fitted = jn.fit(
        trial, (x, x), (x, x), epochs=3, key=KEY, trial_id=7, stop=lambda curve: len(curve["train_loss"]) == 2,
        callbacks=[story],
    )  # fmt: skip
    losses = fitted.curve["validation_loss"].tolist()
    units = [("unit", 7, 0, i + 1, loss) for i, loss in enumerate(losses)]
    assert story.told == [("start", None), ("trial", 7, {}), *units, ("end", 7, "stopped"), ("result", fitted)]


def test_what_is_no_callback_is_refused():
    class Half:
        def on_start(self, plan):
            pass

    for wrong, message in (([Half()], "without on_trial_start, "), ([Story], "a class"), (Story(), "one alone")):
        with pytest.raises(TypeError, match=f"callbacks: .*{message}"):
            jn.search.run(PROGRAM, SPACE, trials=1, epochs=1, key=KEY, callbacks=wrong)
