"""The command line: the same tables as the library's, what users are told, and exit codes."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxnet as jn
from jaxnet import __main__, cli, diagnosis
from jaxnet.search import lanes as lanes_module

ROOT = os.path.dirname(os.path.dirname(jn.__file__))
MINE = '''
"""Trials, spaces, data."""
import os, signal
import jax, jax.numpy as jnp, numpy as np, optax, jaxnet as jn
print("the file says something")
space = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.integers(2, 6))
START = jn.Space(start=jn.uniform(1, 2))
a_dict = {"rate": 1}
pair = (np.linspace(-1, 1, 32, dtype=np.float32)[:, None],) * 2

def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), jnp.tanh, jn.dense(1))
    return jn.Trial(net, jn.losses.squared_error, optax.sgd(hp.rate), batch_size=16)

def misspelt(hp):
    return jn.Trial(jn.dense(hp.hiden), jn.losses.squared_error, optax.sgd(hp.rate), batch_size=16)

def diverging(hp):
    return jn.Trial(jn.dense(1), jn.losses.squared_error, optax.sgd(1e30 * (1 + hp.rate)), batch_size=16)

def train():
    x = np.load("inputs.npy")  # relative to where the search is called
    return x, x**2

def validation():
    return train()

def broken():
    raise OSError("no data today")

# Scores that are known: start * (1 - unit / 8).
falling = jn.search.Program(
    lambda hp, key: jnp.zeros(()), lambda hp, unit, key: unit + 1, lambda hp, unit: {"score": hp.start * (1 - unit / 8)}
)

if "KILL_AFTER" in os.environ:
    from jaxnet.search.journal import Journal
    append, left = Journal.append, [int(os.environ["KILL_AFTER"])]

    def killing(self, record):
        append(self, record)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.append = killing
'''
SEARCH = ("search", "mine.py:trial", "--trials", "5", "--epochs", "3", "--lanes", "2", "--keep", "1")
PROGRAM = ("search", "mine.py:falling", "--space", "START")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a user's file in it."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "syntax.py").write_text("x = 1\ndef trial(hp:\n")
    (tmp_path / "imports.py").write_text("import nump\n")
    np.save(tmp_path / "inputs.npy", np.linspace(-1, 1, 32, dtype=np.float32)[:, None])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop(cli.MODULE, None)


def call(*arguments, code=0):
    """Standard output and standard error of a command that exits with a code."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), prog_name="python -m jaxnet")
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result.stdout, result.stderr


def document(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code)[0])


def same(told, table):
    """Whether a command's table is a result's."""
    assert list(told) == list(table)
    for name, column in table.items():
        values = np.array([np.nan if value is None else value for value in told[name]])
        np.testing.assert_array_equal(values, column, err_msg=name)


def falling_search(**options):
    """As the library has it, of a program that is the file's."""
    program = jn.search.Program(
        lambda hp, key: jnp.zeros(()),
        lambda hp, unit, key: unit + 1,
        lambda hp, unit: {"score": hp.start * (1 - unit / 8)},
    )
    return jn.search.run(program, jn.Space(start=jn.uniform(1, 2)), **{"key": jax.random.key(0)} | options)


@pytest.mark.parametrize(
    "arguments, options",
    [
        ((), {"trials": 4, "epochs": 4}),
        (("--seed", 3, "--sampler", "sobol", "--maximize"), {"sampler": "sobol", "key": 3, "maximize": True}),
        (("--schedule", "successive-halving", "--eta", 2, "--repeats", 2), {"schedule": {"eta": 2}, "repeats": 2}),
        (("--sampler", "grid", "--points", 3), {"sampler": 3, "trials": None}),
    ],
)
def test_options_reach_the_search(arguments, options):
    options = {"trials": 4, "epochs": 4} | options
    options["key"] = jax.random.key(options.get("key", 0))
    if options["trials"]:
        arguments = (*arguments, "--trials", options["trials"])
    options["sampler"] = {"sobol": jn.search.sobol(), 3: jn.search.grid(3)}.get(options.get("sampler"))
    if "schedule" in options:
        options["schedule"] = jn.search.successive_halving(eta=2)
    told = document(*PROGRAM, "--epochs", 4, *arguments)
    same(told["table"], falling_search(**options).table)
    table = {name: np.array(column) for name, column in told["table"].items()}
    np.testing.assert_allclose(table["score"], table["start"] * (1 - table["units"] / 8), rtol=1e-6)
    longest = table["units"] == table["units"].max()
    assert told["best"]["score"] == (max if options.get("maximize") else min)(table["score"][longest])


def test_hyperband_knows_how_many_trials_it_wants():
    told = document(*PROGRAM, "--epochs", 4, "--schedule", "hyperband", "--eta", 2)
    assert told["trials"] == jn.search.hyperband(2).trials(4) and told["counts"]["stopped"] > 0


def test_a_trial_function_with_data_gives_the_numbers_of_a_fit():
    told = document(*SEARCH)
    import optax

    best, x = told["best"], np.load("inputs.npy")
    net = jn.serial(jn.dense(best["hidden"]), jnp.tanh, jn.dense(1))
    alone = jn.Trial(net, jn.losses.squared_error, optax.sgd(best["rate"]), batch_size=16)
    fitted = jn.fit(alone, (x, x**2), (x, x**2), epochs=3, key=jax.random.key(0), trial_id=best["id"])
    np.testing.assert_allclose(fitted.curve["validation_loss"][-1], best["score"], rtol=1e-5)


def test_people_see_the_plan_and_the_best_and_programs_see_json_alone():
    seen, errors = call(*PROGRAM, "--trials", 3, "--epochs", 2)
    assert "the file says something" in seen and "3 trials of 2 units: 1 compiled program," in seen and not errors
    rows = [line.split() for line in seen[seen.index("rank") :].splitlines()[:4]]
    table = falling_search(trials=3, epochs=2).ranked()
    assert rows[0] == ["rank", "id", "units", "score", "start"]
    assert rows[1:] == [[str(i + 1), str(r["id"]), "2", f"{r['score']:.4g}", f"{r['start']:.4g}"]
                        for i, r in enumerate(table)]  # fmt: skip
    out, errors = call(*PROGRAM, "--trials", 3, "--epochs", 2, "--json")
    assert json.loads(out)["counts"] == {"completed": 3} and out.count("\n") == 1
    assert "the file says something" in errors and "The 3 best of 3" in errors


def test_the_plan_is_the_library_s_and_other_names_of_data_are_taken():
    options = ("plan", "mine.py:trial", "--trials", 6, "--epochs", 3, "--lanes", 2, "--train", "pair")
    told = document(*options)
    assert (told["trials"], told["units"], told["padding"] > 0) == (6, 3, True)
    assert sorted(i for group in told["groups"] for i in group["ids"]) == list(range(6))
    assert sum(group["cost"] for group in told["groups"]) == pytest.approx(1)
    assert "6 trials of 3 units" in call(*options)[0]


RIGHT = ("--trials", "3", "--epochs", "1")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("mine.py", *RIGHT), "expected FILE.py:NAME, a file and a trial function in it, got 'mine.py'; try mine.py:t"),
        (("mien.py:trial", *RIGHT), "there is no file 'mien.py'; did you mean 'mine.py'"),
        (("no/mine.py:trial", *RIGHT), "there is no file 'no/mine.py', nor a folder"),
        (("mine.py:trail", *RIGHT), r"mine.py has no 'trail' \(a function from .*\); did you mean 'trial'\?"),
        (("mine.py:space", *RIGHT), "'space' in mine.py is of type Space, not a function from hyperparameters"),
        (("mine.py:trial", *RIGHT, "--space", "strat"), r"no 'strat' \(a jn.Space\); did you mean 'START'\?"),
        (("mine.py:trial", *RIGHT, "--space", "a_dict"), "'a_dict' in mine.py is of type dict, not a jn.Space; there"),
        (("mine.py:trial", *RIGHT, "--train", "pairs"), r"no 'pairs' .*; did you mean 'pair'\? \(with --train\)"),
        (("mine.py:trial", *RIGHT, "--train", "broken"), r"mine.py, line \d+, in broken: OSError: no data today"),
        (("mine.py:falling", *RIGHT, "--space", "START", "--train", "pair"), "brings its own data; leave --train out"),
        (("mine.py:misspelt", *RIGHT), r"mine.py, line \d+, in misspelt: AttributeError: .*'hiden'; the space has"),
        (("syntax.py:trial", *RIGHT), r"syntax.py, line 2: SyntaxError: '\(' was never closed"),
        (("imports.py:trial", *RIGHT), "imports.py, line 1: ModuleNotFoundError: No module named 'nump'"),
        (("mine.py:trial", "--epochs", "1"), "--trials is missing: .*, such as --trials 64"),
        (("mine.py:trial", *RIGHT, "--sampler", "bayes"), "there is no sampler 'bayes'; did you mean 'bayesian'"),
        (("mine.py:trial", *RIGHT, "--schedule", "hyper"), "there is no schedule 'hyper'; did you mean 'hyperband'"),
        (("mine.py:trial", *RIGHT, "--schedule", "hyperband"), "follows from --epochs and --eta; leave --trials out"),
        (("mine.py:trial", *RIGHT, "--eta", "3"), "--eta goes with --schedule successive_halving or hyperband"),
        (("mine.py:trial", *RIGHT, "--points", "3"), "--points goes with --sampler grid, not with random"),
        (("mine.py:trial", "--trials", "99", "--epochs", "1", "--sampler", "grid"), "the grid has only 25; try more"),
        (("mine.py:trial", *RIGHT, "--directory", "mine.py"), "--directory 'mine.py' is a file; give a folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_a_line_before_anything_is_made(arguments, message, folder):
    before = sorted(folder.iterdir())
    out, errors = call("search", *arguments, code=2)
    said = errors.splitlines()
    assert len(said) == 1 and re.match(f"Error: .*{message}", said[0]), errors
    assert "Traceback" not in out + errors and sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("search", "mine.py:trial", "--trials", "0", "--epochs", "1"), "--trials"),
        (("search", "mine.py:trial", "--trails", "3", "--epochs", "1"), "--trials"),
        (("search", "mine.py:trial", "--trials", "3"), "--epochs"),
        (("serch", "mine.py:trial"), "search"),
        (("resume",), "DIR"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    _, errors = call(*arguments, code=2)
    assert message in errors.splitlines()[-1] and "Traceback" not in errors


def test_a_traceback_is_shown_when_it_is_asked_for():
    _, errors = call("plan", "mine.py:misspelt", *RIGHT, "--traceback", code=2)
    assert "Traceback" in errors and "hp.hiden" in errors


def test_a_search_in_which_nothing_has_a_score_fails_and_says_so():
    out, errors = call("search", "mine.py:diverging", *RIGHT, "--json", code=1)
    told = json.loads(out)
    assert told["best"] is None and told["counts"] == {"diverged": 3}
    assert errors.splitlines()[-1].startswith("Error: no trial has a score: 3 diverged. Try lower learning rates")


def test_a_finished_search_is_loaded_and_reported_without_its_file(folder):
    told = document(*SEARCH, "--directory", "runs/one")
    assert jn.search.SearchResult.load("runs/one/result.msgpack").table["score"].tolist() == told["table"]["score"]
    again = document(*SEARCH, "--directory", "runs/one")  # the same call goes on, and has nothing left to do
    assert again["table"] == told["table"]
    best = document("export", "runs/one")
    assert best == {"export": str(folder / "runs/one/best.jaxexport"), "row": told["best"]}
    program = jax.export.deserialize(bytearray((folder / "runs/one/best.jaxexport").read_bytes()))
    x = np.load("inputs.npy")
    assert abs(float(((program.call(x) - x**2) ** 2).mean()) - best["row"]["score"]) < 1e-6
    other = next(i for i in told["table"]["id"] if i != best["row"]["id"])  # --keep 1
    assert f"trial {other} isn't at hand" in call("export", "runs/one", "--row", other, code=2)[1]
    (folder / "mine.py").unlink()
    assert document("resume", "runs/one")["table"] == told["table"]
    assert document("report", "runs/one") == {"report": "runs/one/report.html"}
    assert "<title>mine.py:trial</title>" in (folder / "runs/one/report.html").read_text()
    call("report", "runs/one", "--output", "other.html")
    assert (folder / "other.html").exists()


def test_a_folder_of_another_search_is_refused_with_what_differs(folder):
    call(*SEARCH, "--directory", "one")
    before = (folder / "one" / "call.json").read_bytes()
    _, errors = call(*SEARCH, "--seed", 1, "--space", "START", "--directory", "one", code=2)
    assert "'one' holds another search: seed was 0, is 1; space was 'space', is 'START'. Give another" in errors
    assert (folder / "one" / "call.json").read_bytes() == before
    (folder / "one" / "call.json").unlink()
    assert "a search that a script began" in call(*SEARCH, "--directory", "one", code=2)[1]
    assert "is no folder of a search" in call("resume", "one", code=2)[1]
    (folder / "one" / "call.json").write_text('{"call": {"size": 3}}')
    assert "isn't as search writes it" in call("report", "one", code=2)[1]


def test_a_folder_that_is_not_there_gets_the_names_of_those_that_are(folder):
    call(*PROGRAM, "--trials", 2, "--epochs", 2, "--directory", "runs/first")
    assert "'runs/frist' isn't there; did you mean 'first'?" in call("report", "runs/frist", code=2)[1]


def test_a_changed_trial_function_is_refused_and_the_journal_stays(folder, monkeypatch):
    interrupted(monkeypatch, "one")
    (folder / "mine.py").write_text(MINE.replace("optax.sgd(hp.rate), batch_size=16", "optax.adam(hp.rate)"))
    _, errors = call("resume", "one", code=2)
    assert "trial function was" in errors and "Traceback" not in errors


def test_a_search_that_another_process_runs_is_left_to_it(folder, monkeypatch):
    interrupted(monkeypatch, "one")
    with open(folder / "one" / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, errors = call("resume", "one", code=1)
    assert re.match("Error: another process is searching into .*one'; wait for it, or end it\n$", errors)


def interrupted(monkeypatch, directory):
    """A search of ``SEARCH`` with Ctrl-C after its first chunk; what it said."""
    unit, calls = lanes_module._unit, 0

    def interrupt(chunk, number, *rest):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return unit(chunk, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(lanes_module, "_unit", interrupt)
        patch.setattr(lanes_module, "concurrent_chunks", lambda *_: 1)
        return call(*SEARCH, "--directory", directory, code=130)[1]


def test_an_interrupted_search_says_how_to_go_on_and_does_from_anywhere(folder, monkeypatch):
    whole = document(*SEARCH)
    said = interrupted(monkeypatch, "one")
    assert "trials have results in 'one'" in said and said.splitlines()[-1].endswith("python -m jaxnet resume one")
    _, errors = call("report", "one", code=3)
    assert re.match(r"Error: .* isn't finished: [1-4] of 5 trials have results so far. .*resume one", errors)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert document("resume", "../one")["table"] == whole["table"]
    assert os.getcwd() == str(folder / "elsewhere")
    call("report", "../one")


def test_a_search_that_was_killed_is_resumed_to_the_same_table(folder):
    """SIGKILL to a process of its own, right after the third record: what the search is, its plan, the first chunk."""
    command = [sys.executable, "-m", "jaxnet"]
    environment = os.environ | {
        "PYTHONPATH": ROOT,
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    killed = subprocess.run(
        [*command, *SEARCH, "--directory", "one"], env=environment | {"KILL_AFTER": "3"}, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL and not (folder / "one" / "result.msgpack").exists()
    assert re.search("[12] of 5 trials have results", call("report", "one", code=3)[1])
    assert "isn't finished" in call("export", "one", code=3)[1]
    resumed = subprocess.run([*command, "resume", "one", "--json"], env=environment, capture_output=True, check=True)
    assert json.loads(resumed.stdout)["table"] == document(*SEARCH)["table"]


def test_a_report_without_plotly_says_what_to_install(monkeypatch):
    call(*PROGRAM, "--trials", 2, "--epochs", 2, "--directory", "one")
    assert "is a jn.search.Program, whose carry isn't a network" in call("export", "one", code=2)[1]
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert 'pip install "jaxnet[report]"' in call("report", "one", code=2)[1]


def test_without_typer_the_command_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "jaxnet.cli", raising=False)
    with pytest.raises(SystemExit) as exit:
        __main__.main()
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("\n") == 1 and 'pip install "jaxnet[cli]"' in said


def test_help_shows_examples_and_exit_codes_and_loads_no_search():
    assert "python -m jaxnet resume runs/mine" in call("--help")[0] and "130  interrupted" in call("--help")[0]
    for command in ("search", "plan", "resume", "report", "export", "doctor"):
        assert f"python -m jaxnet {command}" in call(command, "--help")[0].split("Example")[1]
    assert call("--version")[0] == f"jaxnet {jn.__version__}\n"
    code = "import sys, jaxnet.cli; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "typer" in loaded and not {"jaxnet.search", "flax", "rich"} & set(loaded)


def test_the_file_in_the_help_of_search_runs(folder):
    text = call("search", "--help")[0]
    lines = text[text.index("mine.py, whole:") :].splitlines()[1:]
    (folder / "of_help.py").write_text("\n".join(line[4:] for line in lines))
    told = document("search", "of_help.py:trial", "--trials", 2, "--epochs", 1)
    assert told["counts"] == {"completed": 2}


def test_the_doctor_finds_this_process_well(monkeypatch):
    told = document("doctor")
    assert told["versions"]["jax"] == jax.__version__ and len(told["devices"]) == jax.device_count()
    assert told["cache"]["folder"] == jax.config.jax_compilation_cache_dir and told["cache"]["writable"]
    assert (
        told["self_test"]["passed"] and max(told["self_test"][k] for k in ("from_least_squares", "from_alone")) < 1e-4
    )
    monkeypatch.setattr(diagnosis, "CLOSE", 1e-12)
    out, errors = call("doctor", code=1)
    assert "self-test  FAILED: 8 trials" in out and errors == "Error: the self-test failed\n"


def raising(error):
    def call(*_, **__):
        raise error

    return call


def test_the_doctor_survives_what_is_broken(monkeypatch):
    monkeypatch.setattr(jn.search, "run", raising(RuntimeError("INTERNAL:\nno kernel")))
    told = document("doctor", code=1)
    assert told["self_test"] == {"passed": False, "error": "RuntimeError: INTERNAL: no kernel"}


def test_the_doctor_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(jax, "devices", raising(RuntimeError("Unable to initialize backend\n'tpux'")))
    monkeypatch.setattr(diagnosis, "_version", lambda name: None if name == "plotly" else "1.0")
    out, errors = call("doctor", code=1)
    assert "missing    plotly (extra report)" in out
    assert errors == "Error: JAX finds no device: Unable to initialize backend 'tpux'\n"
