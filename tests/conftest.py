"""A strict world for every test: no silent rank promotion; pyproject.toml makes warnings errors.

What is set here is set when this file is imported, so doctests that are collected together with tests run under it too.

Where the time goes: nearly all of it to compiling, so count programs before steps. ``rm -r .jax_cache``, then
``pytest FILE --durations=30`` names the tests that are slow on a clean clone, and ``JAX_LOG_COMPILES=1 pytest FILE -k
TEST -s`` what they compile. An operation outside ``jit`` is a program for each shape that it meets: draw inputs with
NumPy, slice and compare as NumPy arrays, and let one jitted function return all that a test looks at.
"""

import gc
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

# Half the time to compile. XLA ends the process at a flag that it doesn't know, so they are tried in another one first.
# Workers find them set. Set to nothing, XLA_FLAGS= pytest, the tests run under what users have, twice as long.
QUICKLY_COMPILED = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = QUICKLY_COMPILED
    if subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], capture_output=True).returncode:
        os.environ["XLA_FLAGS"] = ""

collect_ignore_glob = ["reference/make_torch*.py"]  # run by hand; the tests do without PyTorch

jax.config.update("jax_numpy_rank_promotion", "raise")

# Traces are many objects that live long, and to look through all of them every few thousand took a tenth of the time.
gc.set_threshold(20_000, 20, 10)

# Tests compile many small programs and compute little; a second run finds them all compiled.
jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_configure(config):
    # JAX writes entries in place, so a process may read one that another is writing; it then compiles by itself.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry:UserWarning")
    # Orbax closes its event loop at the first array that it can't read, while others are still on their way, and these
    # say so whenever they arrive, in whatever test runs by then.
    late = r"ignore:(?s)Exception ignored in. None.*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
    config.addinivalue_line("filterwarnings", late)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a screen."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        message = f"this test needs a browser, one of {', '.join(BROWSERS)}; none is on the path"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """float64 inside the test, where numbers are compared more closely than float32 holds them."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def torch_reference():
    """``torch_reference("linear/matrix")``: the arrays below that name, computed by PyTorch, float64 on the host.

    They stand in ``torch_linear.npz`` where a topic has a file of its own, else in ``torch.npz``.
    """
    folder, files = pathlib.Path(__file__).parent / "reference", {}

    def below(prefix):
        topic = folder / f"torch_{prefix.split('/')[0]}.npz"
        path = topic if topic.exists() else folder / "torch.npz"
        if path not in files:
            with np.load(path) as file:
                files[path] = dict(file)
        arrays = files[path]
        return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}

    return below
