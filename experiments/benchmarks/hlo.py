"""What a compiled program does: the kernels that it starts and the bytes that they move, read off its text."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "token": 0}
_SHAPE = re.compile(r"\b(pred|token|bf16|[sufc]\d+)\w*\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NOTHING = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "opt-barrier",
    "after-all",
    "partition-id",
}
_SOME = {"slice", "dynamic-slice", "gather"}  # that read as much of what they are given first as they make


class Instruction(NamedTuple):
    """``%name = shape operation(%operands), attributes``."""

    name: str
    shape: str
    operation: str
    operands: list[str]
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of what it makes; the memory that a library works in isn't counted."""
        made = re.sub(r"s8\[\d+\]", "", self.shape) if self.operation == "custom-call" else self.shape
        return sum(
            _entries(sizes) * (_BYTES[kind] if kind in _BYTES else int(kind[1:]) // 8)
            for kind, sizes in _SHAPE.findall(made)
        )

    @property
    def entries(self) -> int:
        """Numbers of the first array that it makes."""
        found = _SHAPE.search(self.shape)
        return _entries(found[2]) if found else 0

    def called(self, what: str) -> str | None:
        """The computation that is given as ``calls``, ``body``, ..."""
        found = re.search(rf"\b{what}=%([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @property
    def trips(self) -> int | None:
        """How often a loop's body runs, where the compiler knows."""
        found = re.search(r'known_trip_count"?:\{"n":"(\d+)"', self.attributes)
        return int(found[1]) if found else None


class Work(NamedTuple):
    """What runs: how many kernels, and how many bytes they read and write."""

    kernels: float
    bytes: float


class Module:
    """A compiled program by its text (``compiled.as_text()``)."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, inside = "", []
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if head := re.match(r"^(ENTRY )?%([\w.\-]+) \(.*\{$", line):
                inside = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                operands, attributes = _parted(found[5])
                names = re.findall(r"%([\w.\-]+)", operands)
                root, name, shape, operation, _ = found.groups()
                inside.append(Instruction(name, shape, operation, names, attributes, root is not None))

    def step(self, steps: int) -> str:
        """The body of the loop over so many steps, inside of loops that run nobody knows how often."""
        name = self.entry
        while inner := [
            loop.called("body") or "" for loop in self.computations[name]
            if loop.operation == "while" and loop.trips in (None, steps)
        ]:  # fmt: skip
            name = inner[-1]
        return name

    def work(self, name: str, turns: Sequence[float] = ()) -> Work:
        """What a computation does, with the loops in it.

        Every kernel reads what it needs and writes what it makes: nothing stays in a cache from one to the next.

        Args:
          name: of the computation.
          turns: of loops whose turns the compiler doesn't know, from the outermost in; the default is one for each.
        """
        kernels, moved = 0.0, 0.0
        by_name = {one.name: one for one in self.computations[name]}
        for one in by_name.values():
            if one.operation in _NOTHING or one.operation.endswith("-done"):
                continue
            if inside := one.called("to_apply" if one.operation == "call" else "body"):
                unknown = one.operation == "while" and one.trips is None
                found = self.work(inside, turns[1:] if unknown else turns)
                times = one.trips or (turns[0] if unknown and turns else 1)
                kernels, moved = kernels + times * found.kernels, moved + times * found.bytes
            else:
                kernels, moved = kernels + 1, moved + self._moved(one, by_name)
        return Work(kernels, moved)

    def _moved(self, one: Instruction, by_name: dict[str, Instruction]) -> float:
        if one.operation == "dynamic-update-slice":  # in place
            return 2.0 * by_name[one.operands[1]].bytes
        fused = self.computations.get(one.called("calls") or "") if one.operation == "fusion" else None
        if fused is None:
            return one.bytes + sum(by_name[operand].bytes for operand in one.operands if operand in by_name)
        inside = {part.name: part for part in fused}
        written = one.bytes
        for part in fused:
            if part.operation == "dynamic-update-slice" and part.bytes <= written:  # in place, too
                written += inside[part.operands[1]].bytes - part.bytes
        return written + sum(_read(fused))


def _read(fused: list[Instruction]) -> Iterator[float]:
    """Bytes of each parameter that what is made of it needs, from the last instruction back."""
    by_name: dict[str, Instruction] = {one.name: one for one in fused}
    needed: dict[str, float] = collections.defaultdict(float)
    root = next(one for one in fused if one.root)
    for name in root.operands if root.operation == "tuple" else [root.name]:
        needed[name] = by_name[name].bytes
    for one in reversed(fused):
        share = min(needed[one.name] / one.bytes, 1.0) if one.bytes else 0.0
        if one.operation == "parameter":
            yield share * one.bytes
        for place, operand in enumerate(one.operands if one.operation != "tuple" else ()):
            whole = by_name[operand].bytes
            size = whole / max(by_name[operand].entries, 1)  # of an entry
            if one.operation in _SOME and place == 0:
                needed[operand] += share * one.entries * size
            elif one.operation == "dynamic-update-slice":
                needed[operand] += 0 if place == 0 else whole
            elif one.operation in ("concatenate", "reduce", "pad", "dot", "convolution", "reduce-window", "scatter"):
                needed[operand] += share * whole
            else:
                needed[operand] += min(whole, share * one.entries * size)


def _entries(sizes: str) -> int:
    """``"2,3"`` has 6."""
    return math.prod(map(int, filter(None, sizes.split(","))))


def _parted(rest: str) -> tuple[str, str]:
    """What stands before the bracket closes that was opened, and after it."""
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return rest[:place], rest[place + 1 :]
    return rest, ""
