"""What the API pages and links to them are made with: a directive ``api``, and inline code that becomes a link.

``.. api::`` takes public names, one a line. It gives a table of their first lines, then each name's docstring.
Inline code that names something of the API (``jn.fit``, ``result.plot``, ``Trial(loss_limit=)``, and in a docstring
also the bare ``fit``) links to it. ``.. help:: search`` is what that command's ``--help`` prints.
``<!-- benchmarks -->`` in a page stands for all benchmarks, with their committed results.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from typer.testing import CliRunner

import jaxnet
from jaxnet.cli import app
from jaxnet.layer import Layer

ROOT = Path(__file__).parents[1]
PAGES_OF_NAMES = ("layers", "conventions")  # where bare names are jaxnet's, too
OBJECTS = {"jn": "jaxnet", "result": "jaxnet.search.SearchResult", "space": "jaxnet.Space"}  # what pages call things


def found(name: str) -> Any:
    """The object of a dotted name, or None."""
    parts = name.split(".")
    for place in range(1, len(parts) + 1):  # what is an attribute of a package may hide its module of the same name
        try:
            return functools.reduce(getattr, parts[place:], import_module(".".join(parts[:place])))
        except AttributeError:
            continue
        except ImportError:
            return None
    return None


def doc(name: str) -> str:
    """The docstring of a name; of a layer that isn't made by a function the string below it."""
    value = found(name)
    if not isinstance(value, jaxnet.Layer):
        return inspect.getdoc(value) or ""
    attributes = ModuleAnalyzer.for_module(value.init.__module__).find_attr_docs()
    return "\n".join(attributes["", name.rpartition(".")[2]])


class Api(SphinxDirective):
    """Public names, one a line: a table of their first lines where they are several, then what each is."""

    has_content = True

    def run(self):
        names = list(self.content)
        lines = [".. list-table::", "   :widths: auto", "   :class: names", ""] if len(names) > 1 else []
        for name in names if lines else ():
            first = " ".join(doc(name).split("\n\n")[0].split())
            short = name.removeprefix("jaxnet.").removeprefix("interop.")
            lines += [f"   * - :py:obj:`{short} <{name}>`", f"     - {first}"]
        lines.append("")
        for name in names:
            value = found(name)
            if value is None:
                raise self.error(f"there is no {name}")
            if inspect.isclass(value):
                lines += [f".. autoclass:: {name}", "   :members:", f"   :exclude-members: {self.hidden(value)}", ""]
            elif callable(value) and not isinstance(value, Layer):
                lines += [f".. autofunction:: {name}", ""]
            else:
                lines += [f".. py:data:: {name}", f"   :type: {type(value).__name__}", ""]
                lines += [f"   {line}" for line in GoogleDocstring(doc(name), self.config).lines()] + [""]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, node)
        return node.children

    @staticmethod
    def hidden(value: Any) -> str:
        """Members that say nothing beside the class's own text: fields, which it describes, and what pytrees need."""
        fields = {*getattr(value, "_fields", ()), *getattr(value, "__dataclass_fields__", ())}
        return ", ".join(sorted(fields | {"tree_flatten_with_keys", "tree_unflatten"}))


class Links(SphinxPostTransform):
    """Inline code that names something of the API becomes a link to it."""

    default_priority = 9  # before links are resolved

    def run(self, **options: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            parent = literal.parent
            if (
                isinstance(parent, (nodes.reference, addnodes.pending_xref, nodes.title))
                or "xref" in literal["classes"]
            ):
                continue
            target = self.target(literal)
            if target is None:
                continue
            entry = self.env.domains.python_domain.objects[target]
            link = make_refnode(
                self.app.builder, self.env.docname, entry.docname, entry.node_id, literal.deepcopy(), target
            )
            parent.replace(literal, link)

    def target(self, literal: nodes.literal) -> str | None:
        """The documented name that inline code means, or None."""
        match = re.fullmatch(r"([A-Za-z_][\w.]*\w)(\(.*\))?", literal.astext())
        if match is None or str(literal.previous_sibling() or "").endswith("extra "):  # of those that pip installs
            return None
        first, *rest = match[1].split(".")
        if first in OBJECTS and rest:
            names = [".".join([OBJECTS[first], *rest])]
        elif described := list(enclosing(literal)):
            arguments = {node.astext() for node in described[0].findall(addnodes.desc_sig_name)}
            scopes = [f"{signature['module']}.{signature['fullname']}" for signature in described]
            if match[1] in arguments or scopes[0].endswith(f".{match[1]}"):
                return None
            # As Python looks for it: beside it in its class, in its module, then in jaxnet.
            modules = [scope for name in scopes for scope in (name, name.rpartition(".")[0])]
            names = [f"{scope}.{match[1]}" for scope in [*modules, "jaxnet"]]
        else:
            bare = self.env.docname in PAGES_OF_NAMES or (match[2] and first[0].isupper())
            names = [f"jaxnet.{match[1]}"] if bare else []
        known = documented(self.env)
        return next((known[key(value)] for value in map(found, names) if key(value) in known), None)


def enclosing(node: nodes.Node) -> Iterator[addnodes.desc_signature]:
    """The signatures under which a node stands, the innermost first."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, addnodes.desc) and node["domain"] == "py":
            yield next(iter(node.findall(addnodes.desc_signature)))


def one_a_line(sphinx: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings have short entries side by side (``x: an array. key: a PRNG key.``); here each gets its line."""
    try:
        names = [*inspect.signature(value).parameters]
    except (TypeError, ValueError):
        names = []
    entry = rf"(?:{'|'.join(names)}|\w+Error)" if names else r"\w+Error"
    text = "\n".join(lines)
    for section in re.findall(r"^(?:Args|Raises|Attributes):\n(?:  .*(?:\n|$)|\n(?=  ))+", text, re.M):
        text = text.replace(section, re.sub(rf"(?<=[.;])\s+(?={entry}(?:, {entry})*: )", "\n  ", section))
    lines[:] = text.split("\n")
    if what == "property":  # of which napoleon would take what stands before a colon for the type
        lines[:] = ["..", "", *GoogleDocstring(text, sphinx.config, sphinx, "method").lines()]


def legible(sphinx: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None):
    """Of a default that isn't Python, such as ``<factory>``, something that is: else Sphinx wouldn't read any of it.

    Of a constant its value, and of a protocol, which isn't made by calling it, nothing.
    """
    if signature is None or signature == "(*args, **kwargs)":
        return signature and "", returns
    signature = re.sub(r"<class '([\w.]+)'>", r"\1", signature.replace("<factory>", "..."))
    constants = {
        k: v for k, v in vars(inspect.getmodule(value) or object).items() if isinstance(v, (int, float, tuple))
    }
    signature = re.sub(r"= (\w+)", lambda match: f"= {constants.get(match[1], match[1])}", signature)
    return signature.replace("Callable[[...], ", "Callable[..., "), returns


class Help(SphinxDirective):
    """What ``python -m jaxnet COMMAND --help`` prints."""

    has_content = True

    def run(self):
        name = self.content[0].strip()
        says = CliRunner().invoke(app, [name, "--help"], prog_name="python -m jaxnet", catch_exceptions=False).output
        return [nodes.literal_block(says, says, language="none")]


def with_benchmarks(sphinx: Sphinx, page: str, source: list[str]) -> None:
    """Of each benchmark what it asks and how, from its docstring, and what it last said, in place of a comment."""
    found = []
    paths = (ROOT / "experiments" / "benchmarks" / "results").glob("*.md")
    parts = [(*re.fullmatch(r"(.+?)((?:_\d+x\d+)?)_([a-z]+)", path.stem).groups(), path) for path in paths]
    for name, of_name in itertools.groupby(sorted(parts), lambda part: part[0]):
        text = (ROOT / "experiments" / "benchmarks" / f"{name}.py").read_text()
        question, *rest = ast.get_docstring(ast.parse(text)).split("\n")
        found += [f"## {question}", *rest, ""]
        for _, size, device, path in of_name:
            title = f"### {device.upper()}{size.replace('_', ', ').replace('x', ' x ')}"
            found += [title, "", f"```{{include}} {os.path.relpath(path, ROOT / 'docs')}", "```", ""]
    source[0] = source[0].replace("<!-- benchmarks -->", "\n".join(found))


def key(value: Any) -> Any:
    """What is the same for all names of one object."""
    return None if value is None or inspect.ismodule(value) else id(value)


def documented(environment: Any) -> dict[Any, str]:
    """By object the name under which it is documented."""
    known = getattr(environment, "jaxnet_documented", None)
    if known is None:
        known = {key(found(name)): name for name in environment.domains.python_domain.objects}
        known.pop(None, None)
        environment.jaxnet_documented = known
    return known


def setup(sphinx: Sphinx) -> dict[str, Any]:
    sphinx.add_directive("api", Api)
    sphinx.add_directive("help", Help)
    sphinx.add_post_transform(Links)
    sphinx.connect("autodoc-process-docstring", one_a_line, priority=100)  # before napoleon reads them
    sphinx.connect("autodoc-process-signature", legible)
    sphinx.connect("source-read", with_benchmarks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
