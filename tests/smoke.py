"""Tries jaxnet as it was installed; ``make package`` runs it in clean environments, outside of the source tree.

``python -I tests/smoke.py``: with -I neither the script's folder nor PYTHONPATH is looked at, so that what is tried is
what was installed, with what it says that it needs and nothing else.
"""

import importlib
import importlib.metadata
import pathlib
import pkgutil
import subprocess
import sys
import tempfile

FILES = ("py.typed", "layers/README.md", "search/README.md", "search/report.css", "search/report.js")
EXTRAS = {"typer": "cli", "equinox": "equinox", "haiku": "haiku", "optuna": "optuna", "matplotlib": "report"}


def main():
    import jaxnet

    root = pathlib.Path(jaxnet.__file__).parent
    assert root.is_relative_to(sys.prefix), f"{root} isn't what was installed in {sys.prefix}"
    assert importlib.metadata.version("jaxnet") == jaxnet.__version__
    assert not (missing := [file for file in FILES if not (root / file).is_file()]), missing

    # Every module can be imported, or says which extra it needs.
    for module in pkgutil.walk_packages([str(root)], "jaxnet."):
        try:
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if f'pip install "jaxnet[{EXTRAS.get(error.name)}]"' not in str(error):
                raise
    run = subprocess.run([sys.executable, "-I", "-m", "jaxnet", "doctor"], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and 'pip install "jaxnet[cli]"' in run.stderr, run

    with tempfile.TemporaryDirectory() as folder:
        train_and_search(pathlib.Path(folder))
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax", "flax", "numpy", "scipy"))
    print(f"jaxnet {jaxnet.__version__} works with {', '.join(versions)}")


def train_and_search(folder):
    """Four lanes of different widths in one program; one equals ``fit`` alone; networks go to files and back."""
    import jax
    import numpy as np
    import optax

    import jaxnet as jn

    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    data, key = (x, x**2), jax.random.key(0)

    def trial(hp):
        net = jn.serial(jn.dense(hp.hidden), jax.nn.relu, jn.dense(1))
        return jn.Trial(net, jn.losses.squared_error, optax.adam(hp.rate), batch_size=16)

    space = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.integers(2, 9))
    result = jn.random_search(trial, space, data, data, trials=4, epochs=2, key=key, lanes=4, progress=False)
    assert len(result.groups["lanes"]) == 1 and len(set(result.table["hidden"])) > 1, result.groups
    fitted = jn.fit(trial(result.hyperparameters(2)), data, data, epochs=2, key=key, trial_id=2)
    np.testing.assert_allclose(fitted.curve["validation_loss"], result.curves[2], rtol=1e-4)

    result.save(folder / "search.msgpack")
    again = jn.search.SearchResult.load(folder / "search.msgpack")
    np.testing.assert_array_equal(again.table["score"], result.table["score"])
    net, params, state = result.network(result.best)
    jn.save(folder / "net.msgpack", params, state)
    loaded = jn.load(folder / "net.msgpack", net, (1,))
    np.testing.assert_array_equal(jn.predict(net, *loaded, x), jn.predict(net, params, state, x))


if __name__ == "__main__":
    main()
