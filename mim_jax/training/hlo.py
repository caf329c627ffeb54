"""What an optimised HLO program moves: bytes to and from memory, and between chips.

XLA's own count of bytes accessed adds on-chip traffic: a buffer that the compiler placed in a TPU's vector memory is
counted at every use. The text of a compiled TPU program says where each buffer lies, by the memory space of its layout
(`S(1)` is vector memory; none is HBM), so the traffic to HBM can be told apart. On other platforms no space is named,
and everything outside a fusion counts as memory.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from functools import cached_property

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "optimization-barrier", "add-dependency",
}  # fmt: skip
FREE_CALLS = ("ConcatBitcast", "AllocateBuffer", "Sharding", "AssumeGatherIndicesInBound")
PARTIAL = ("dynamic-slice", "slice", "gather")  # these read what they return, not all of their first operand
MOVES = ("copy", "transpose", "reshape")  # change where numbers lie and nothing else
HOST = 5  # memory space of the host, which is not HBM either but not on the chip

_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{\s*"?n"?[:=]\s*"?(\d+)')
_CALLED = re.compile(r"\b(?:calls|body|condition|\w+_computations?)=\{?(%[^,}\s]+(?:, %[^,}\s]+)*)")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array of a program. bytes: as stored, with the padding of its tiles; logical: without. space: see above."""

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def width(self) -> float:
        if self.dtype in ("pred", "token", "opaque"):
            return 1.0 if self.dtype == "pred" else 0.0
        digits = re.match(r"[a-z]+(\d+)", self.dtype)
        return max(int(digits.group(1)) / 8, 0.5) if digits else 0.0

    @property
    def logical(self) -> float:
        return math.prod(self.dims) * self.width

    @property
    def space(self) -> int:
        found = re.search(r"S\((\d+)\)", self.layout)
        return int(found.group(1)) if found else 0

    @property
    def bytes(self) -> float:
        order, tile = re.match(r"([\d,]*)", self.layout), re.search(r"T\(([\d,]+)\)", self.layout)
        dims = list(self.dims)
        if tile and order and order.group(1):
            minor_first = [int(d) for d in order.group(1).split(",")]
            for dim, size in zip(minor_first, reversed([int(t) for t in tile.group(1).split(",")]), strict=False):
                dims[dim] = -(-dims[dim] // size) * size
        return math.prod(dims) * self.width

    @property
    def in_memory(self) -> float:
        """Bytes, 0 where the buffer is on the chip."""
        return self.bytes if self.space in (0, HOST) else 0.0


@dataclasses.dataclass
class Instruction:
    """name = shape op(operands), attributes."""

    name: str
    op: str
    outputs: tuple[Buffer, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    @cached_property
    def called(self) -> tuple[str, ...]:
        # `to_apply` is the whole of a call, but only the sum or comparison of a reduction or a sort.
        rest = self.rest.replace("to_apply=", "calls=") if self.op == "call" else self.rest
        return tuple(name.strip().lstrip("%") for group in _CALLED.findall(rest) for name in group.split(","))

    @property
    def trips(self) -> int:
        found = _TRIPS.search(self.rest)
        return int(found.group(1)) if found else 1


@dataclasses.dataclass
class Traffic:
    """Of one run of a program on one chip. collectives: {kind: (count, bytes)}; cycles: XLA's own estimate, 0 where
    it gives none; copied: of memory_bytes, those of copies, transposes and reshapes that stand alone; loops_unknown:
    loops whose number of rounds is not in the text, counted once. Of branches, the costliest counts."""

    memory_bytes: float = 0.0
    copied: float = 0.0
    counts: Counter = dataclasses.field(default_factory=Counter)
    sizes: dict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    cycles: float = 0.0
    loops_unknown: int = 0

    @property
    def collectives(self) -> dict[str, tuple[int, float]]:
        return {kind: (self.counts[kind], self.sizes[kind]) for kind in COLLECTIVES if self.counts[kind]}

    def add(self, other: Traffic, times: int = 1) -> None:
        self.memory_bytes += times * other.memory_bytes
        self.copied += times * other.copied
        self.cycles += times * other.cycles
        self.loops_unknown += other.loops_unknown
        for kind in other.counts:
            self.counts[kind] += times * other.counts[kind]
            self.sizes[kind] += times * other.sizes[kind]


class Program:
    """An HLO module, read from its text."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        self._kept: dict[str, Traffic] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if line and not line[0].isspace():
                head = _COMPUTATION.match(line)
                if head:
                    current = self.computations.setdefault(head.group(2), {})
                    self.entry = head.group(2) if head.group(1) else self.entry
                continue
            instruction = _parse(line)
            if instruction:
                current[instruction.name] = instruction

    def traffic(self) -> Traffic:
        """Of one run of the program."""
        return self._of(self.entry)

    def _of(self, name: str) -> Traffic:
        if name not in self._kept:
            total, computation = Traffic(), self.computations.get(name, {})
            for instruction in computation.values():
                self._add(total, instruction, computation)
            self._kept[name] = total
        return self._kept[name]

    def _add(self, total: Traffic, one: Instruction, within: dict[str, Instruction]) -> None:
        kind = one.op.removesuffix("-start")
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
        total.cycles += float(cycles.group(1)) if cycles else 0.0
        inputs = [b for name in one.operands if name in within for b in within[name].outputs]
        if one.op == "while":
            total.loops_unknown += "known_trip_count" not in one.rest
            for called in one.called:
                total.add(self._of(called), one.trips)
        elif one.op in ("call", "async-start"):
            for called in one.called:
                total.add(self._of(called))
        elif one.op == "conditional":
            branches = [self._of(called) for called in one.called]
            total.add(max(branches, key=lambda branch: branch.memory_bytes, default=Traffic()))
        elif one.op in FREE or one.op.endswith("-done") or one.op.endswith("-update"):
            return
        elif kind in COLLECTIVES:
            sent, got = sum(b.logical for b in inputs), sum(b.logical for b in one.outputs)
            total.counts[kind] += 1
            total.sizes[kind] += max(sent, got - sent if one.op.endswith("-start") and got > sent else got)
            total.memory_bytes += sum(b.in_memory for b in (*inputs, *one.outputs))
        elif one.op == "fusion":
            for called in one.called:
                inside = self._of(called)  # its collectives count; what else is inside stays on the chip
                total.add(dataclasses.replace(inside, memory_bytes=0.0, copied=0.0, cycles=0.0))
                total.memory_bytes += self._fusion(one, within, called)
        elif one.op == "custom-call" and any(f'"{target}"' in one.rest for target in FREE_CALLS):
            return
        else:
            moved = _plain(one, kind, inputs)
            total.memory_bytes += moved
            total.copied += moved if one.op in MOVES else 0.0

    def _fusion(self, one: Instruction, within: dict[str, Instruction], called: str) -> float:
        """Operands and outputs of a fusion; of an operand that is only sliced, the slices; of one updated in place,
        the update."""
        inside = self.computations.get(called, {})
        parameters = {int(_number(i.rest)): i.name for i in inside.values() if i.op == "parameter"}
        users: dict[str, list[Instruction]] = {}
        for instruction in inside.values():
            for name in instruction.operands:
                users.setdefault(name, []).append(instruction)
        total = 0.0
        for number, name in enumerate(one.operands):
            buffers = within[name].outputs if name in within else ()
            if not any(b.in_memory for b in buffers):
                continue
            total += min(_read(parameters.get(number, ""), users, inside), sum(b.in_memory for b in buffers))
        roots = [i for i in inside.values() if i.root]
        if roots and roots[0].op == "tuple":
            roots = [inside[name] for name in roots[0].operands if name in inside]
        for number, buffer in enumerate(one.outputs):
            written = buffer.in_memory
            if written and number < len(roots) and roots[number].op == "dynamic-update-slice":
                update = inside.get(roots[number].operands[1])
                written = min(written, sum(b.bytes for b in update.outputs)) if update else written
            total += written
        return total


def _read(name: str, users: dict[str, list[Instruction]], inside: dict[str, Instruction]) -> float:
    """Bytes that a fusion reads of its parameter `name`; infinity for all of it."""
    total = 0.0
    for user in users.get(name, []):
        if user.op == "bitcast":
            total += _read(user.name, users, inside)
        elif user.op in PARTIAL and user.operands[0] == name:
            total += sum(b.bytes for b in user.outputs)
        elif user.op == "dynamic-update-slice" and user.operands[0] == name:
            continue
        else:
            return math.inf
    return total


def _plain(one: Instruction, kind: str, inputs: list[Buffer]) -> float:
    """Bytes to and from memory of an instruction that is no fusion."""
    if kind in ("copy", "slice", "dynamic-slice") and one.op.endswith("-start"):
        # (destination, source, ...) of a copy, ((source), destination, ...) of a slice: what moves is the smaller.
        moved = min((b.bytes for b in one.outputs[:2]), default=0.0)
        return moved * sum(b.in_memory > 0 for b in one.outputs[:2])
    if kind in PARTIAL:
        moved = float(sum(b.bytes for b in one.outputs))
        return moved * (any(b.in_memory for b in inputs[:1]) + any(b.in_memory for b in one.outputs))
    if kind == "dynamic-update-slice":
        return 2.0 * sum(b.in_memory for b in inputs[1:2])
    return float(sum(b.in_memory for b in (*inputs, *one.outputs)))


def _parse(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    text = line[head.end() :]
    end = _balanced(text, 0) if text.startswith("(") else text.find(" ")
    op, _, _ = text[end:].lstrip().partition("(")
    start = end + text[end:].find("(")
    stop = _balanced(text, start)
    outputs = tuple(Buffer(d, tuple(int(n) for n in dims.split(",") if n), layout or "")
                    for d, dims, layout in _SHAPE.findall(text[:end]))  # fmt: skip
    inner = text[start + 1 : stop - 1]
    operands = tuple(re.findall(r"%([\w.-]+)", inner))
    rest = inner + text[stop:] if op == "parameter" else text[stop:]
    return Instruction(head.group(2), op.strip(), outputs, operands, rest, bool(head.group(1)))


def _balanced(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position + 1
    return len(text)


def _number(rest: str) -> str:
    found = re.match(r"\s*(\d+)", rest)
    return found.group(1) if found else "-1"
