"""Writes jaxnet/layers/README.md, the table of all layers, from their signatures and docstrings.

Run by hand after a layer was added: ``python tests/make_layer_table.py``; a test tells when that was forgotten.
"""

import inspect
import pathlib
import re
import sys

import jaxnet as jn

PAGE = pathlib.Path(jn.__file__).parent / "layers" / "README.md"


def table() -> str:
    """The page: a heading for each module, a line for each public name in the order of ``jaxnet/__init__.py``."""
    lines = [
        "# All layers",
        "",
        "Made from the code by `python tests/make_layer_table.py`. Features are on the last axis; widths are integers",
        "or, in a search, a `Size`. Plain functions such as `jax.nn.relu` are elementwise layers as they stand.",
        "All run under `jit`, `vmap` and `shard_map`, with derivatives backward and forward: the laws of",
        "`tests/test_laws.py`.",
    ]
    source = pathlib.Path(jn.__file__).read_text()
    modules: dict[str, list[str]] = {}
    for module, name in re.findall(r"^ *from (jaxnet\.(?:layers\.\w+|combinators)) import (\w+) as", source, re.M):
        modules.setdefault(module, []).append(name)
    for module, names in modules.items():
        heading = (inspect.getdoc(sys.modules[module]) or "").split("\n")[0]
        lines += ["", f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}", "", heading, ""]
        lines += ["| layer | |", "| --- | --- |"]
        for name in names:
            value = getattr(jn, name)
            text = (_attribute_doc(module, name) if isinstance(value, jn.Layer) else value.__doc__) or ""
            first = " ".join(text.strip().split("\n\n")[0].split()).replace("|", "\\|")
            lines.append(f"| `{_call(name)}` | {first} |")
    return "\n".join(lines) + "\n"


def _call(name: str) -> str:
    value = getattr(jn, name)
    if isinstance(value, jn.Layer):
        return name
    arguments = []
    for parameter in inspect.signature(value).parameters.values():
        default = "" if parameter.default is parameter.empty else "=..."
        if parameter.default is not parameter.empty and isinstance(
            parameter.default, (int, float, str, bool, type(None))
        ):
            default = f"={parameter.default!r}"
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        arguments.append(f"{star}{parameter.name}{default}")
    return f"{name}({', '.join(arguments)})"


def _attribute_doc(module: str, name: str) -> str:
    """The string below ``name = ...``, as layers that aren't factories are documented."""
    source = inspect.getsource(sys.modules[module])
    found = re.search(rf'^{name}\b[^\n]*=.*?\n"""(.*?)"""', source, re.M | re.S)
    return found.group(1) if found else ""


if __name__ == "__main__":
    PAGE.write_text(table())
