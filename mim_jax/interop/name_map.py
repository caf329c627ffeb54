"""Name maps: which of their arrays are which of ours, and how the layout changes. Data, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange

from mim_jax.errors import VerifyError
from mim_jax.training.groups import flat, path_name

Tree = Any
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rule:
    """The same numbers under their names and under ours.

    theirs, ours: names in which `{i}` and the like stand for numbers; one of the two tuples has one entry.
    pattern: einops, from their layout to ours, such as 'o i -> i o'; '' where the layouts are equal.
    axis: the axis of our layout along which several parts lie behind each other (q, k, v in a fused matrix).
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    pattern: str = ""
    axis: int = -1


@dataclass(frozen=True)
class NameMap:
    """All of a model's arrays in two namings; what is in no rule is named here with the reason.

    computed: their arrays that we compute instead of storing; a caller compares them.
    ignored: their arrays that hold nothing we use (regular expressions). absent: our leaves that they do not have.
    """

    rules: tuple[Rule, ...]
    computed: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


def to_ours(names: NameMap, weights: Mapping[str, np.ndarray], like: Tree, sizes: Mapping[str, int]) -> Tree:
    """Their arrays in the shape of our tree `like` (arrays or shapes). `sizes`: lengths of axes named in patterns.

    Raises:
        VerifyError: an array that no rule takes, one that is missing, or one of another shape; named in the message.
    """
    expected = flat(like)
    found: Arrays = {}
    used: set[str] = set()
    for rule in _concrete(names.rules, weights, "theirs"):
        lacking = [name for name in rule.theirs if name not in weights]
        if lacking:
            raise VerifyError(f"the weights have '{rule.theirs[0]}' but not '{lacking[0]}'")
        parts = [_rearranged(weights[name], rule.pattern, sizes, name) for name in rule.theirs]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=rule.axis)
        used.update(rule.theirs)
        for path, leaf in zip(rule.ours, _split(whole, len(rule.ours), rule), strict=True):
            _check_leaf(path, leaf, rule.theirs, expected)
            found[path] = leaf
    for name in weights:
        if name not in used and name not in names.computed and not _matching(name, names.ignored):
            raise VerifyError(f"nothing of ours takes the array '{name}' of shape {np.shape(weights[name])}")
    for path, leaf in expected.items():
        if path not in found and not _matching(path, names.absent):
            raise VerifyError(f"the weights hold nothing for '{path}' of shape {tuple(leaf.shape)}")
    leaves = {path: found.get(path, leaf) for path, leaf in expected.items()}
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], like)


def to_theirs(names: NameMap, tree: Tree, sizes: Mapping[str, int]) -> Arrays:
    """Our tree, or a part of it, under their names and in their layout; parameters, gradients, changes alike.

    Raises:
        VerifyError: a leaf that no rule takes, or a part of a fused array without the others.
    """
    leaves = {path: np.asarray(leaf) for path, leaf in flat(tree).items()}
    out: Arrays = {}
    used: set[str] = set()
    for rule in _concrete(names.rules, leaves, "ours"):
        lacking = [path for path in rule.ours if path not in leaves]
        if lacking:
            raise VerifyError(f"'{rule.theirs[0]}' needs '{lacking[0]}' beside '{rule.ours[0]}'")
        parts = [leaves[path] for path in rule.ours]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=rule.axis)
        used.update(rule.ours)
        for name, part in zip(rule.theirs, _split(whole, len(rule.theirs), rule), strict=True):
            out[name] = _rearranged(part, _reversed(rule.pattern), sizes, name)
    for path in leaves:
        if path not in used and not _matching(path, names.absent):
            raise VerifyError(f"no rule names the leaf '{path}'")
    return out


def spread(names: NameMap, like: Tree, value: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """One value per leaf of ours (decay, learning-rate scale) as one value per array of theirs.

    Raises:
        VerifyError: leaves with different values are one array on their side.
    """
    filled = jax.tree_util.tree_map_with_path(lambda p, leaf: np.full(leaf.shape, value[path_name(p)], float), like)
    out = {}
    for name, array in to_theirs(names, filled, sizes).items():
        if np.ptp(array) > 0:
            raise VerifyError(f"parts of '{name}' take the different values {sorted(set(array.ravel()))}")
        out[name] = float(array.flat[0])
    return out


def _concrete(rules: tuple[Rule, ...], present: Mapping[str, Any], side: str) -> Iterator[Rule]:
    """The rules with numbers in place of `{i}`, for every array that is present on one side."""
    for rule in rules:
        parts = re.split(r"\{(\w+)\}", getattr(rule, side)[0])
        # Odd parts are placeholders; one that occurs twice must match the same number.
        seen: set[str] = set()
        pattern = ""
        for k, part in enumerate(parts):
            if k % 2 == 0:
                pattern += re.escape(part)
            else:
                pattern += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
                seen.add(part)
        for name in present:
            match = re.fullmatch(pattern, name)
            if match:
                numbers = match.groupdict()
                theirs = tuple(n.format(**numbers) for n in rule.theirs)
                yield Rule(theirs, tuple(n.format(**numbers) for n in rule.ours), rule.pattern, rule.axis)


def _rearranged(array: np.ndarray, pattern: str, sizes: Mapping[str, int], name: str) -> np.ndarray:
    if not pattern:
        return np.asarray(array)
    known = {axis: size for axis, size in sizes.items() if axis in re.findall(r"\w+", pattern)}
    try:
        return np.ascontiguousarray(rearrange(np.asarray(array), pattern, **known))
    except EinopsError as error:
        lengths = ", ".join(f"{axis} = {size}" for axis, size in known.items())
        message = f"'{name}' of shape {np.shape(array)} is not '{pattern.partition('->')[0].strip()}'"
        raise VerifyError(f"{message} with {lengths}" if lengths else message) from error


def _reversed(pattern: str) -> str:
    return " -> ".join(side.strip() for side in reversed(pattern.split("->"))) if pattern else ""


def _split(whole: np.ndarray, parts: int, rule: Rule) -> list[np.ndarray]:
    if parts == 1:
        return [whole]
    if whole.shape[rule.axis] % parts:
        raise VerifyError(f"axis {rule.axis} of {whole.shape} does not fall into {parts} parts for {rule}")
    return np.split(whole, parts, axis=rule.axis)


def _check_leaf(path: str, leaf: np.ndarray, theirs: tuple[str, ...], expected: Mapping[str, Any]) -> None:
    if path not in expected:
        raise VerifyError(f"the weights have '{theirs[0]}', but a model of this config has no '{path}'")
    shape = tuple(expected[path].shape)
    if leaf.shape != shape:
        raise VerifyError(f"'{' + '.join(theirs)}' gives shape {leaf.shape} for '{path}', which needs {shape}")
    if not np.isfinite(leaf).all():
        raise VerifyError(f"'{' + '.join(theirs)}' holds values that are not finite")


def _matching(name: str, patterns: Mapping[str, str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
