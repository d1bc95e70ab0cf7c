"""Every block of the README and of the documentation runs, and prints what the page says that it prints.

A page's blocks run from top to bottom in an empty folder, a page of ``docs/`` with an empty namespace, so that a reader
can copy it from the top; the READMEs take imports and data as given.

- ```` ```python ```` runs in the page's one namespace. One that begins with ``# name.py`` is that file, too, and is it
  alone where a console runs it as a script.
- ```` ```output ```` is what the Python block before it prints.
- ```` ```console ```` has commands, behind ``$``, and what they print. ``^C`` interrupts a search of which something is
  written down. Another host is this one. What ``pip`` would install isn't installed, but must be an extra.

In what is printed ``...`` stands for anything, numbers may differ by one in the last digit that the page shows, and
sizes in bytes by a tenth: what a program holds is its compiler's to say, and each version says it a bit differently. A
comment ``<!-- tested with trials=8 for trials=64 -->``, on a line of its own, makes a page's code smaller for the test.
"""

import contextlib
import doctest
import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _pytest.doctest import _get_checker, _get_number_flag

import jaxnet as jn
from jaxnet.search import planning

ROOT = pathlib.Path(__file__).parents[1]
README, SEARCHING = ROOT / "README.md", ROOT / "jaxnet" / "search" / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CHECKER = _get_checker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_NDIFF | _get_number_flag()
SIZE = re.compile(r"\b(\d+) ([KMG]iB)\b")
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.M | re.S)
MINUTES = 5  # after which a command of a console hangs
IN_A_TERMINAL = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background may have been told to ignore it
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
os.execvp("bash", ["bash", "-c", sys.argv[1]])
"""


def run(page, given=()):
    """Runs a page's blocks and returns the names that they made."""
    text, names = page.read_text(), {"__name__": "__page__", **dict(given)}
    smaller = re.findall(r"^<!-- tested with (.+?) for (.+?) -->$", text, re.M)
    text = re.sub(r"^<!--.*?-->$", "", text, flags=re.M)  # comments leave their lines, which errors then name
    for small, large in smaller:
        assert large in text, f"{page.name} has no {large!r} to be tested with {small!r}"
        text = text.replace(large, small)
    printed = None
    for block in BLOCK.finditer(text):
        kind, body = block.groups()
        if kind == "output":
            assert printed is not None, f"{page.name}: an output without a block that prints it"
            check(body, printed)
            printed = None
        elif kind == "console":
            printed = None
            for command, said in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
                check(said.replace("^C\n", ""), in_a_shell(command, interrupt="^C\n" in said), command)
        else:
            assert kind == "python", f"{page.name}: nothing tests a block of {kind}"
            if name := re.match(r"# (\w+\.py)\n", body):
                pathlib.Path(name[1]).write_text(body)
            code = compile("\n" * text.count("\n", 0, block.start(2)) + body, str(page), "exec")
            if not (name and re.search(rf"^\$ .*python {name[1]}\b", text, re.M)):
                with contextlib.redirect_stdout(io.StringIO()) as stream:
                    exec(code, names)
                printed = stream.getvalue()
    return names


def check(wanted, came, where=""):
    shown = SIZE.finditer(wanted)
    came = SIZE.sub(lambda size: as_shown(size, next(shown, size)), came)
    difference = CHECKER.output_difference(doctest.Example("", wanted), came, FLAGS)
    assert CHECKER.check_output(wanted, came, FLAGS), f"{where}\n{difference}"


def as_shown(size, shown):
    """The size in bytes that a page shows, where it is about that."""
    (came, unit), (wanted, wanted_unit) = size.groups(), shown.groups()
    return (shown if unit == wanted_unit and abs(int(came) - int(wanted)) <= int(wanted) / 10 else size)[0]


def in_a_shell(command, interrupt=False):
    """What a command prints, on both streams, as in a terminal of two cores."""
    if install := re.match(r"pip install .*?\[([\w,]+)\]", command):
        assert set(install[1].split(",")) <= set(EXTRAS)
        return ""
    programs = pathlib.Path("programs").absolute()
    if not programs.exists():
        programs.mkdir()
        (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / "ssh").write_text('#!/bin/sh\nshift\nexec "$@"\n')  # this machine is every host
        for program in programs.iterdir():
            program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        command = command.replace("host0:9876", f"localhost:{free.getsockname()[1]}")
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = [sys.executable, "-c", IN_A_TERMINAL, command]
    begun = {journal.stat().st_size for journal in pathlib.Path().rglob("journal")}
    with subprocess.Popen(
        words, env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            end, sizes = time.monotonic() + 60 * MINUTES, set()  # what it is, its plan, and one chunk
            while interrupt and len(sizes) < 3 and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
                sizes |= {journal.stat().st_size for journal in pathlib.Path().rglob("journal")} - begun - {0}
            if interrupt:
                process.send_signal(signal.SIGINT)
            return process.communicate(timeout=60 * MINUTES)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(autouse=True)
def cache():
    """What a page sets ends with the page."""
    folder = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture
def given():
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(200, 28, 28, 1)).astype(np.uint8)
    data = images, generator.integers(10, size=200).astype(np.int32)
    names = {"jax": jax, "jnp": jnp, "optax": optax, "jn": jn, "train": data, "validation": data}
    return names | {"images": images[:4].astype(np.float32) / 255}


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_the_blocks_of_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "cores", lambda: 2)  # the plans that pages show are for a machine of two
    run(page)


@pytest.mark.parametrize("page", [README, SEARCHING, *PAGES], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_names_that_a_page_speaks_of_exist(page):
    for name in re.findall(r"`jn\.([\w.]+\w)", page.read_text()):
        value = jn
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # mlflow asks SQLAlchemy for it
def test_the_blocks_of_the_page_on_searching_run(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")  # which a block sets too, for longer
    names = run(SEARCHING, given)
    result = names["result"]
    assert result.best["units"] == 3
    for name in re.findall(r"`result\.(\w+)", SEARCHING.read_text()):
        assert hasattr(result, name)

    # What the logger wrote.
    client = names["mlflow"].MlflowClient()
    runs = client.search_runs(["0"], max_results=20)
    (parent,) = (run for run in runs if run.info.run_name == "search")
    assert parent.data.metrics["best score"] == result.best["score"] and parent.info.status == "FINISHED"
    assert sorted(file.path for file in client.list_artifacts(parent.info.run_id)) == [
        "best.safetensors", "plan.txt", "trials.csv",
    ]  # fmt: skip
    children = {run.info.run_name: run for run in runs if run is not parent}
    assert len(children) == len(result)
    for i, row in enumerate(map(result.row, range(len(result)))):
        run_of_trial = children[f"trial {i}"]
        assert run_of_trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run_of_trial.data.params == {name: str(row[name]) for name in ("rate", "hidden")}
        assert run_of_trial.data.tags["status"] == row["status"]
        assert run_of_trial.info.status == {"completed": "FINISHED", "stopped": "KILLED"}[row["status"]]
        history = client.get_metric_history(run_of_trial.info.run_id, "validation_loss")
        curve = result.history["validation_loss"][i]
        assert [(m.step, m.value) for m in history] == [(n + 1, v) for n, v in enumerate(curve[: row["units"]])]


def test_the_blocks_of_the_readme_run(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    names = run(README, given)

    # The recipes do what they say.
    updates, _ = names["head_only"].update(names["fresh"], names["head_only"].init(names["fresh"]), names["fresh"])
    moved = {name: any(np.any(leaf) for leaf in jax.tree.leaves(updates[name])) for name in updates}
    assert moved == {"features": False, "drop": False, "head": True}
    np.testing.assert_array_equal(names["partly"]["features"][1]["w"], names["saved"]["features"][1]["w"])
    assert names["partly"]["head"] is names["fresh"]["head"]
    params, state, _ = names["tied"].init(jax.random.key(0), (28,))
    np.testing.assert_allclose(
        names["tied"].apply(params, state, names["images"][..., 0])[0],
        jnp.tanh(jnp.tanh(names["images"][..., 0] @ params[0]["w"]) @ params[0]["w"]),
        atol=1e-6,
    )


def test_a_page_that_is_wrong_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def page(*blocks):
        path = tmp_path / "page.md"
        path.write_text("# Title\n\n" + "\n".join(f"```{kind}\n{body}\n```\n" for kind, body in blocks))
        return path

    assert run(page(("python", "x = 1"), ("python", "print(x / 3)"), ("output", "0.33")))["x"] == 1
    with pytest.raises(AssertionError, match=r"0\.3333"):
        run(page(("python", "print(1 / 3)"), ("output", "0.36")))
    with pytest.raises(AssertionError, match="without a block"):
        run(page(("python", "print(1)"), ("output", "1"), ("output", "1")))
    with pytest.raises(SyntaxError):
        run(page(("python", "x = ")))
    with pytest.raises(AssertionError, match="nothing tests a block of text"):
        run(page(("text", "x")))
    run(page(("python", "# x.py\nprint(1)"), ("console", "$ python x.py | cat\n1\n$ ssh host0 python x.py\n...")))
    with pytest.raises(AssertionError, match=r"(?s)^cat x.py\n.*\+ # x.py"):
        run(page(("console", "$ cat x.py\nprint(1)")))
    with pytest.raises(ZeroDivisionError) as error:
        run(page(("python", "x = 0\n\n1 / x")))
    assert error.traceback[-1].lineno + 1 == 6  # the page's own line
