"""The command line: searches over a trial function in a file, without a script around it.

``FILE.py:NAME`` names a function from hyperparameters to a ``jn.Trial``, or a ``jn.search.Program``. The same file has
``space``, a ``jn.Space``, and (for a trial) ``train`` and ``validation``: pairs ``(inputs, targets)``, a ``jn.Stream``,
or functions without arguments that return them. ``--space``, ``--train`` and ``--validation`` take other names. With
``--directory`` the call is written down before anything is trained, each chunk as it is finished, and the result at the
end::

    python -m jaxnet plan mine.py:trial --trials 64 --epochs 9
    python -m jaxnet search mine.py:trial --trials 64 --epochs 9 --directory runs/mine
    python -m jaxnet search mine.py:trial --epochs 27 --schedule hyperband --json > result.json
    python -m jaxnet resume runs/mine
    python -m jaxnet report runs/mine
    python -m jaxnet export runs/mine
    python -m jaxnet doctor

Exit codes: 0 all is well; 1 the search or the self-test failed, or no trial has a score; 2 wrong usage, or something
that is missing, found before anything was trained; 3 the search to report on, or export from, isn't finished; 130
interrupted (Ctrl-C). With ``--json`` standard output is one JSON document, and all that is for people goes to standard
error.

What is slow to import is imported by the command that needs it. The extra ``cli`` installs typer, which this is built
on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from jaxnet.hints import did_you_mean, needs

with needs("cli"):
    import typer

if TYPE_CHECKING:
    from jaxnet.search import SearchResult

FAILED, WRONG, UNFINISHED, INTERRUPTED = 1, 2, 3, 130
SAMPLERS = ("random", "sobol", "grid", "bayesian")
SCHEDULES = ("full", "successive_halving", "hyperband", "median_stopping", "curve_extrapolation", "freeze_thaw")
CALL, RESULT, REPORT, EXPORT = "call.json", "result.msgpack", "report.html", "best.jaxexport"  # beside the journal
MODULE = "jaxnet_searched"  # what the user's file is imported as
BEST = 10  # rows of the table that is printed

EPILOG = """\b
Examples:
  python -m jaxnet plan mine.py:trial --trials 64 --epochs 9
  python -m jaxnet search mine.py:trial --trials 64 --epochs 9 --directory runs/mine
  python -m jaxnet resume runs/mine
  python -m jaxnet report runs/mine
  python -m jaxnet export runs/mine
  python -m jaxnet doctor

\b
Exit codes:
  0    all is well
  1    the search or the self-test failed, or no trial has a score
  2    wrong usage, or something that is missing; nothing was trained
  3    report, export: the search isn't finished
  130  interrupted (Ctrl-C)"""
SEARCH_EPILOG = """\b
Examples:
  python -m jaxnet search mine.py:trial --trials 64 --epochs 9
  python -m jaxnet search mine.py:trial --trials 64 --epochs 27 --schedule successive_halving --eta 3
  python -m jaxnet search mine.py:trial --epochs 81 --schedule hyperband --sampler bayesian --directory runs/mine
  python -m jaxnet search mine.py:trial --epochs 9 --sampler grid --points 4 --repeats 3 --json > result.json

\b
mine.py, whole:
  import jax, numpy, optax, jaxnet as jn
  space = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.log_integers(8, 64))
  def trial(hp):
      net = jn.serial(jn.dense(hp.hidden), jax.nn.relu, jn.dense(1))
      return jn.Trial(net, jn.losses.squared_error, optax.adam(hp.rate))
  def train():
      x = numpy.linspace(-1, 1, 256, dtype="float32")[:, None]
      return x, x**2
  validation = train"""

app: typer.Typer = typer.Typer(
    name="jaxnet", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True,
    epilog=EPILOG, help="Hyperparameter search over a trial function in a file, all trials fused into few programs.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


class Refused(Exception):
    """What a user is told in a line, with the exit code."""

    def __init__(self, message: str, code: int = WRONG):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Call:
    """How a search was called, which ``resume`` reads back.

    ``target`` is ``FILE.py:NAME``, its file relative to ``folder``, the absolute one in which it was called; the others
    are the options. ``train`` and ``validation`` are None where they weren't given: a ``Program`` has no data.
    """

    target: str
    folder: str
    epochs: int
    trials: int | None = None
    seed: int = 0
    sampler: str = "random"
    points: int | None = None
    schedule: str = "full"
    eta: int | None = None
    maximize: bool = False
    repeats: int = 1
    lanes: int | None = None
    keep: int = 10
    space: str = "space"
    train: str | None = None
    validation: str | None = None

    @property
    def file(self) -> Path:
        """The user's file, absolute."""
        return Path(self.folder, self.target.rpartition(":")[0])

    def checked(self) -> Call:
        """The same with names as they are known; raises ``Refused`` for what can be known without the file to be wrong.

        >>> Call("mine.py:trial", "/", epochs=9, schedule="hyper-band").checked()
        Traceback (most recent call last):
        jaxnet.cli.Refused: there is no schedule 'hyper-band'; did you mean 'hyperband'?
        """
        sampler, schedule = (_known(*given) for given in (("sampler", self.sampler, SAMPLERS),
                                                          ("schedule", self.schedule, SCHEDULES)))  # fmt: skip
        if self.eta is not None and schedule not in ("successive_halving", "hyperband"):
            raise Refused(f"--eta goes with --schedule successive_halving or hyperband, not with {schedule}")
        if self.points is not None and sampler != "grid":
            raise Refused(f"--points goes with --sampler grid, not with {sampler}")
        if schedule == "hyperband" and self.trials is not None:
            raise Refused("hyperband's number of trials follows from --epochs and --eta; leave --trials out")
        if self.trials is None and sampler != "grid" and schedule != "hyperband":
            raise Refused(
                "--trials is missing: how many configurations to try, such as --trials 64 (--sampler grid and "
                "--schedule hyperband know without it)"
            )
        file, colon, name = self.target.rpartition(":")
        if not colon or not file or not name.isidentifier():
            guess = f"{self.target.rstrip(':')}:trial"
            raise Refused(f"expected FILE.py:NAME, a file and a trial function in it, got {self.target!r}; try {guess}")
        if not self.file.is_file():
            beside = [path.name for path in self.file.parent.glob("*.py")] if self.file.parent.is_dir() else []
            place = "" if self.file.parent.is_dir() else f", nor a folder {str(self.file.parent)!r}"
            raise Refused(f"there is no file {file!r}{place}{did_you_mean(self.file.name, beside, some=True)}")
        return dataclasses.replace(self, sampler=sampler, schedule=schedule)

    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """What ``search.plan`` is called with; ``search.run`` takes a few more options."""
        import jax

        from jaxnet import search
        from jaxnet.search.space import Space

        module, name = _module(self.file), self.target.rpartition(":")[2]
        trial = _named(
            module, name, "FILE.py:NAME", "a function from hyperparameters to a jn.Trial, or a jn.search.Program",
            lambda value: callable(value) or isinstance(value, search.Program),
            lambda value: getattr(value, "__module__", "") == MODULE or isinstance(value, search.Program),
        )  # fmt: skip
        space = _named(module, self.space, "--space", "a jn.Space", lambda value: isinstance(value, Space))
        data: list[Any] = []
        given = {"--train": self.train, "--validation": self.validation}
        if not isinstance(trial, search.Program):
            for flag, name in given.items():
                wanted = "a pair (inputs, targets), a jn.Stream, or a function that returns one"
                value = _named(module, name or flag[2:], flag, wanted, _is_data, _is_own_data)
                with _blaming(self.file):
                    data.append(value() if callable(value) else value)
        elif flags := [flag for flag, name in given.items() if name]:
            raise Refused(f"{name!r} is a jn.search.Program, which brings its own data; leave {flags[0]} out")
        sampler, schedule = getattr(search, self.sampler), getattr(search, self.schedule)
        return [trial, space, *data], {
            "trials": self.trials, "epochs": self.epochs, "key": jax.random.key(self.seed),
            "sampler": sampler() if self.points is None else sampler(self.points),
            "schedule": schedule() if self.eta is None else schedule(eta=self.eta),
            "repeats": self.repeats, "lanes": self.lanes,
        }  # fmt: skip


# Options that several commands have.
WHAT = "A trial function or a jn.search.Program in a file."
Target = Annotated[str, typer.Argument(metavar="FILE.py:NAME", help=WHAT, show_default=False)]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data for each trial, at most.", show_default=False)]
Trials = Annotated[
    int | None, typer.Option(min=1, help="Configurations to try; all of a grid and hyperband's own number if left out.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides everything that is drawn.")]
Sampler = Annotated[str, typer.Option(help=f"Which configurations are tried: {', '.join(SAMPLERS)}.")]
Points = Annotated[int | None, typer.Option(min=1, help="Values of each hyperparameter, for --sampler grid (5).")]
Schedule = Annotated[str, typer.Option(help=f"Who trains on, and how far: {', '.join(SCHEDULES)}.")]
Eta = Annotated[
    int | None, typer.Option(min=2, help="One in so many goes on, for successive_halving and hyperband (3).")
]
Repeats = Annotated[int, typer.Option(min=1, help="Seeds for each configuration; the score is their mean.")]
Lanes = Annotated[int | None, typer.Option(min=1, help="Trials that run at once (what memory or cache holds).")]
SpaceName = Annotated[str, typer.Option(metavar="NAME", help="Name of the jn.Space in the file.")]
TrainName = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the data to train on (train).")]
ValidationName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the data to choose by (validation).")
]  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show Python's traceback of an error, too.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What was --directory of the search.", show_default=False)]


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and exit.")] = False,
) -> None:
    if version:
        from jaxnet import __version__

        print(f"jaxnet {__version__}")
        raise typer.Exit


@app.command(short_help="Train every configuration, many at once, and print the best.", epilog=SEARCH_EPILOG)
def search(
    target: Target,
    epochs: Epochs,
    trials: Trials = None,
    seed: Seed = 0,
    sampler: Sampler = "random",
    points: Points = None,
    schedule: Schedule = "full",
    eta: Eta = None,
    maximize: Annotated[bool, typer.Option("--maximize", help="A higher score is better, as of an accuracy.")] = False,
    repeats: Repeats = 1,
    lanes: Lanes = None,
    keep: Annotated[int, typer.Option(min=0, help="How many of the best networks are in the result.")] = 10,
    directory: Annotated[
        Path | None, typer.Option(help="Folder for the search: it can be resumed, and reported on.", show_default=False)
    ] = None,
    space: SpaceName = "space",
    train: TrainName = None,
    validation: ValidationName = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Train every configuration that the sampler proposes, many at once, and print the best."""
    call = Call(
        target, os.getcwd(), epochs, trials, seed, sampler, points, schedule, eta, maximize, repeats, lanes, keep,
        space, train, validation,
    )  # fmt: skip
    with _speaking(json, traceback) as out:
        call = call.checked()
        begun = directory is not None and _begun(directory, call)
        with _blaming(call.file):
            arguments, options = call.arguments()
            if not begun:
                from jaxnet.search import plan

                plan(*arguments, **options)  # refuses what is wrong before the folder is made
                print(flush=True)
        if directory is not None and not begun:
            _write_call(directory, call)
        _tell(_search(call, arguments, options, directory), directory, out)


@app.command(
    short_help="Print what such a search would do.",
    epilog="\b\nExample:\n  python -m jaxnet plan mine.py:trial --trials 256 --epochs 10 --repeats 3",
)
def plan(
    target: Target,
    epochs: Epochs,
    trials: Trials = None,
    seed: Seed = 0,
    sampler: Sampler = "random",
    points: Points = None,
    schedule: Schedule = "full",
    eta: Eta = None,
    repeats: Repeats = 1,
    lanes: Lanes = None,
    space: SpaceName = "space",
    train: TrainName = None,
    validation: ValidationName = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Print what such a search would do: groups, lanes, padding, bytes. Nothing is compiled."""
    call = Call(
        target, os.getcwd(), epochs, trials, seed, sampler, points, schedule, eta, repeats=repeats, lanes=lanes,
        space=space, train=train, validation=validation,
    )  # fmt: skip
    with _speaking(json, traceback) as out:
        call = call.checked()
        with _blaming(call.file):
            from jaxnet import search

            arguments, options = call.arguments()
            made = search.plan(*arguments, **options)
        _emit(out, {
            "trials": made.trials, "repeats": made.repeats, "units": made.units, "units_on_average": made.expected,
            "padding": made.waste, "devices": made.devices, "failed": made.failed, "groups": [{
                "ids": group.ids, "sizes": group.sizes, "compiled_in": group.static_text, "lanes": group.lanes,
                "chunks": group.chunks, "padding": group.waste, "bytes": group.bytes, "cost": group.total / made.work,
            } for group in made.groups],
        })  # fmt: skip


@app.command(
    short_help="Go on with a search that was interrupted or killed.",
    epilog="\b\nExample:\n  python -m jaxnet resume runs/mine",
)
def resume(directory: Folder, json: Json = False, traceback: Traceback = False) -> None:
    """Go on with a search that was interrupted or killed; it ends in the table of one that wasn't."""
    with _speaking(json, traceback) as out:
        call = _read_call(directory)
        if (directory / RESULT).is_file():
            print(f"The search in {str(directory)!r} is finished.", file=sys.stderr)
            _tell(_load(directory), directory, out)
            return
        at = directory.absolute()
        if not os.path.isdir(call.folder):
            raise Refused(f"{call.target!r} was called in {call.folder!r}, which isn't there any more")
        with contextlib.chdir(call.folder), _blaming(call.file):  # the file may name its data relative to it
            result = _search(call.checked(), *call.arguments(), at)
        _tell(result, directory, out)


@app.command(
    short_help="Write an HTML page of a finished search.",
    epilog="\b\nExample:\n  python -m jaxnet report runs/mine --output mine.html",
)
def report(
    directory: Folder,
    output: Annotated[Path | None, typer.Option(help=f"The file to write (DIR/{REPORT}).", show_default=False)] = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write an HTML page to look at a finished search with; it works offline."""
    with _speaking(json, traceback) as out:
        call = _read_call(directory)
        path = output or directory / REPORT
        result = _load(_finished(directory, call))
        with _writing(path, "report"):
            result.report(path, title=call.target)
        print(f"Wrote {path}")
        _emit(out, {"report": str(path)})


@app.command(
    short_help="Write a network of a finished search as a program.",
    epilog="\b\nExample:\n  python -m jaxnet export runs/mine --row 3 --output mine.jaxexport",
)
def export(
    directory: Folder,
    row: Annotated[int | None, typer.Option(min=0, help="Id of the trial; the best.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help=f"The file to write (DIR/{EXPORT}).", show_default=False)] = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a network of a finished search as a program that JAX runs without jaxnet, on data as the search had them.

    The networks of the best trials are there (--keep of the search).
    """
    with _speaking(json, traceback) as out:
        path = output or directory / EXPORT
        directory, at = _finished(directory, call := _read_call(directory)).absolute(), path.absolute()
        with contextlib.chdir(call.folder), _blaming(call.file):
            import jax

            from jaxnet import Spec, export
            from jaxnet.data import input_spec
            from jaxnet.search import Program, SearchResult
            from jaxnet.stream import as_source, shapes_of

            (trial, _, *data), _ = call.checked().arguments()
            if isinstance(trial, Program):
                raise Refused(
                    f"{call.target!r} is a jn.search.Program, whose carry isn't a network that could be written"
                )
            inputs = shapes_of(as_source(data[0], "train"))[0]
            result = SearchResult.load(directory / RESULT, trial, input_spec(inputs))
            found = result.best if row is None else result.row(row)
            net, params, state = result.network(found)
            spec = jax.tree.map(lambda a: Spec(a.shape[1:], a.dtype), inputs)
            with _writing(path, "export"):
                export(at, net, params, state, spec)
        print(f"Wrote trial {found['id']}, score {found['score']:.4g}, to {path}")
        _emit(out, {"export": str(at), "row": found})


@app.command(
    short_help="Show devices, versions, memory, cache; check numbers.",
    epilog="\b\nExample:\n  python -m jaxnet doctor --json",
)
def doctor(json: Json = False, traceback: Traceback = False) -> None:
    """Show devices, versions, memory and the compilation cache, and check a tiny search's numbers."""
    from jaxnet import diagnosis

    with _speaking(json, traceback) as out:
        found = diagnosis.examine()
        print(diagnosis.text(found), flush=True)
        if found["devices"]:
            try:
                found["self_test"] = diagnosis.self_test()
            except Exception as error:  # whatever it is, it is what the doctor is asked about
                found["self_test"] = {"passed": False, "error": " ".join(f"{type(error).__name__}: {error}".split())}
            print(diagnosis.self_test_text(found["self_test"]))
        _emit(out, found)
        if not found["devices"] or not found["self_test"]["passed"]:
            raise Refused("the self-test failed" if found["devices"] else found["problems"][0], FAILED)


def _finished(directory: Path, call: Call) -> Path:
    """The folder of a search that is finished; refuses others."""
    if not (directory / RESULT).is_file():
        from jaxnet.search.journal import trials_with_results

        done = trials_with_results(directory, call.repeats)
        of = f" of {call.trials}" if call.trials else ""
        raise Refused(
            f"the search in {str(directory)!r} isn't finished: {done}{of} trials have results so far. Wait for it, "
            f"or go on with: python -m jaxnet resume {directory}",
            UNFINISHED,
        )
    return directory


@contextlib.contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    """Refuses, in here, where a library that writes isn't there, or a file can't be written."""
    try:
        yield
    except ImportError as error:
        raise Refused(f"{what}: {error}") from error
    except OSError as error:
        raise Refused(f"{str(path)!r} can't be written: {error.strerror}") from error


@contextlib.contextmanager
def _speaking(as_json: bool, show_traceback: bool) -> Iterator[TextIO | None]:
    """Where a command's JSON goes, or None; in here print is for people. Ends what goes wrong in a line and a code."""
    out = sys.stdout if as_json else None
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield out
    except (KeyboardInterrupt, Refused) as error:
        if show_traceback:
            traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(INTERRUPTED) from None
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(error.code) from None


@contextlib.contextmanager
def _blaming(file: Path, otherwise: int = WRONG) -> Iterator[None]:
    """Refuses what is raised in here, and tells the last line of the user's file that led there.

    The code is ``WRONG`` for a ``ValueError`` or ``TypeError``, and for all others ``otherwise``.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, (Refused, typer.Exit)):
            raise
        place = ""
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{_short(error.filename)}, line {error.lineno}: "
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == str(file):
                where = "" if frame.name == "<module>" else f", in {frame.name}"
                place = f"{_short(file)}, line {frame.lineno}{where}: "
        said = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
        if not place:  # the library's own word on its arguments, which are options here
            said = re.sub(r"\b(trials|epochs|repeats|lanes|keep|directory|train|validation)=", r"--\1 ", said)
        known = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and not place
        more = "--traceback shows more" if place else "--traceback shows more; python -m jaxnet doctor looks at JAX"
        message = said if known and said else f"{place}{type(error).__name__}{said and ': '}{said} ({more})"
        code = WRONG if isinstance(error, (ValueError, TypeError)) else otherwise
        raise Refused(message, code) from error


def _search(call: Call, arguments: Sequence[Any], options: Mapping[str, Any], directory: Path | None) -> SearchResult:
    """Runs a search, and writes its result."""
    import jax

    from jaxnet.search import run

    try:
        with _blaming(call.file, FAILED):
            result = run(*arguments, **options, maximize=call.maximize, keep=call.keep, directory=directory)
            if directory is not None and jax.process_index() == 0:
                result.save(directory / RESULT)
    except KeyboardInterrupt:
        if directory is None:
            print("Interrupted. With --directory it could be resumed.", file=sys.stderr)
        else:
            print(f"On the command line: python -m jaxnet resume {directory}", file=sys.stderr)
        raise
    return result


def _tell(result: SearchResult, directory: Path | None, out: TextIO | None) -> None:
    """Prints a result, of several processes the first; refuses one without any score."""
    import jax

    if jax.process_index() > 0:
        return
    best = result.ranked(BEST)
    if best:
        names = ["id", "units", "score", *(["score_error"] if result.repeats > 1 else []), *result.names]
        rows = [["rank", *names]]
        rows += [[str(i), *(_cell(row[name]) for name in names)] for i, row in enumerate(best, 1)]
        print(f"The {len(best)} best of {len(result)}" if len(best) > 1 else f"The best of {len(result)}")
        print(_aligned(rows))
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items())
    print(f"{counts}; trained in {result.run_seconds:.0f} s after {result.compile_seconds:.0f} s of compiling")
    if directory is not None:
        print(f"The result is {directory / RESULT}; for a page to look at it: python -m jaxnet report {directory}")
    _emit(out, {
        "directory": directory and str(directory), "trials": len(result), "counts": result.counts,
        "maximize": result.maximize, "best": best[0] if best else None, "table": result.table,
        "messages": result.messages, "compile_seconds": result.compile_seconds, "run_seconds": result.run_seconds,
        "devices": result.devices,
    })  # fmt: skip
    if not best:
        why = f", the first failure: {next(iter(result.messages.values()))}" if result.messages else ""
        raise Refused(f"no trial has a score: {counts}{why}. Try lower learning rates, or another space", FAILED)


def _emit(out: TextIO | None, content: Mapping[str, Any]) -> None:
    """Writes a JSON document, NaN as null, where there is a place for it."""
    if out is not None:
        from jaxnet.search.export import json_value

        print(json.dumps(json_value(dict(content)), ensure_ascii=False, allow_nan=False), file=out)


def _begun(directory: Path, call: Call) -> bool:
    """Whether the folder holds this very search, begun; refuses another one's."""
    journal = directory / "journal"
    if directory.exists() and not directory.is_dir():
        raise Refused(f"--directory {str(directory)!r} is a file; give a folder")
    if not journal.is_file() or not journal.stat().st_size:
        return False
    if not (directory / CALL).is_file():
        raise Refused(f"{str(directory)!r} holds a search that a script began; go on with it there, or give another")
    kept = _read_call(directory)
    was, now = (dataclasses.asdict(c) | {"target": f"{c.file.resolve()}:{c.target.rpartition(':')[2]}", "folder": ""}
                for c in (kept, call))  # fmt: skip
    if differing := [f"{name} was {was[name]!r}, is {now[name]!r}" for name in was if was[name] != now[name]]:
        raise Refused(
            f"{str(directory)!r} holds another search: {'; '.join(differing)}. Give another --directory, or go on with "
            f"that one: python -m jaxnet resume {directory}"
        )
    return True


def _write_call(directory: Path, call: Call) -> None:
    import jax

    from jaxnet import __version__
    from jaxnet.checkpoint import replacing

    if jax.process_index():
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / RESULT).unlink(missing_ok=True)  # of a search whose journal is gone
        with replacing(directory / CALL) as file:
            file.write(json.dumps({"jaxnet": __version__, "call": dataclasses.asdict(call)}, indent=1).encode())
    except OSError as error:
        raise Refused(f"--directory {str(directory)!r} can't be written: {error.strerror}") from error


def _read_call(directory: Path) -> Call:
    path = directory / CALL
    if not path.is_file():
        above = directory.absolute().parent
        beside = [found.parent.name for found in above.glob(f"*/{CALL}")] if above.is_dir() else []
        what = "is no folder of a search that had --directory" if directory.is_dir() else "isn't there"
        raise Refused(f"{str(directory)!r} {what}{did_you_mean(directory.name, beside, some=True)}")
    try:
        return Call(**json.loads(path.read_bytes())["call"])
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{str(path)!r} isn't as search writes it ({error}); begin anew in another folder") from error


def _load(directory: Path) -> SearchResult:
    from jaxnet.search import SearchResult

    try:
        return SearchResult.load(directory / RESULT)
    except ValueError as error:
        raise Refused(f"{error}. Remove it; then resume writes it anew from the journal") from error


def _module(file: Path) -> Any:
    """The user's file as a module, with its folder on the path, as ``python FILE.py`` has it."""
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise Refused(f"{_short(file)!r} isn't a Python file; expected FILE.py:NAME")
    sys.modules[MODULE] = module = importlib.util.module_from_spec(spec)
    with _blaming(file):
        spec.loader.exec_module(module)
    return module


def _named(
    module: Any,
    name: str,
    flag: str,
    wanted: str,
    fits: Callable[[Any], bool],
    own: Callable[[Any], bool] | None = None,
) -> Any:
    """What a module has by a name; refuses a name that isn't there, or isn't what is wanted, with those that are.

    ``own`` tells what is proposed instead, where ``fits`` would let too much through.
    """
    file = _short(module.__file__)
    others = [key for key, value in vars(module).items() if not key.startswith("_") and (own or fits)(value)]
    hint = did_you_mean(name, others, some=True) + (f" (with {flag})" if others and flag.startswith("-") else "")
    if not hasattr(module, name):
        raise Refused(f"{file} has no {name!r} ({wanted}){hint}")
    value = getattr(module, name)
    if not fits(value):
        raise Refused(f"{name!r} in {file} is of type {type(value).__name__}, not {wanted}{hint}")
    return value


def _is_data(value: Any) -> bool:
    """Whether it may be data: a pair, or a function; the search looks at what is in it."""
    from jaxnet import Stream

    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair or isinstance(value, Stream) or (callable(value) and not isinstance(value, type))


def _is_own_data(value: Any) -> bool:
    """Whether it is likely that the user's file means it as data."""
    if not callable(value):
        return _is_data(value)
    own = inspect.isfunction(value) and value.__module__ == MODULE
    return own and all(p.default is not p.empty for p in inspect.signature(value).parameters.values())


def _known(what: str, given: str, names: Sequence[str]) -> str:
    name = given.lower().replace("-", "_")
    if name not in names:
        raise Refused(f"there is no {what} {given!r}{did_you_mean(given, names, some=True)}")
    return name


def _short(path: str | os.PathLike[str]) -> str:
    """A path relative to the current folder, where it is below it."""
    relative = os.path.relpath(path)
    return os.fspath(path) if relative.startswith("..") else relative


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(getattr(value, "__name__", value))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows)
