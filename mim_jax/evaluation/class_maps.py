"""Which class of the training images a class of another set is: by name, by number, or by a map in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mim_jax.errors import ConfigError, DataError, nearest

_VALIDATION = re.compile(r"val_(\d{8})")


def read_classes(path: str, key: str) -> tuple[str, ...]:
    """Class names in the order of the labels: a JSON list, or one name a line (what follows a space is ignored).

    Raises:
        ConfigError: the file cannot be read, or names a class twice.
    """
    text = _text(path, key)
    try:
        names = json.loads(text)
    except ValueError:
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{key}: '{path}' is neither a JSON list of class names nor a file of one name a line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{key}: '{path}' names the class '{twice}' twice; labels are the positions of the names")
    return tuple(names)


def read_map(path: str, key: str) -> dict[str, str | int]:
    """A JSON object from a set's class name (or label) to a class name or label of the training images.

    Raises:
        ConfigError: the file cannot be read or is something else.
    """
    try:
        found = json.loads(_text(path, key))
    except ValueError as error:
        raise ConfigError(f"{key}: '{path}' is not JSON: {error}; write an object, names to labels or names") from error
    if not isinstance(found, dict) or not all(type(value) in (str, int) for value in found.values()):
        raise ConfigError(f"{key}: '{path}' must be an object such as {{\"n01440764\": 0}}: names to labels or names")
    return found


def class_map(
    own: Sequence[str] | None,
    count: int,
    classes: Sequence[str] | None,
    mapping: Mapping[str, str | int] | None,
    where: str,
    total: int,
) -> Int[np.ndarray, " L"]:
    """Label of the training images for each label of a set.

    own: class names of the set by label; None where it has numbers alone, of which there are `count`.
    classes: class names of the training images by label, where they are known. mapping: see `read_map`; what it does
    not name goes by its own name. A name that is a number, and no class's name, is the label (ImageNet-V2's folders).
    total: classes of the classifier.

    Raises:
        DataError: a class that no training image can have, in one sentence with what was looked for.
    """
    number = {name: label for label, name in enumerate(classes or ())}
    labels = []
    for label in range(len(own) if own else count):
        name: str | int = own[label] if own else label
        name = (mapping or {}).get(str(name), name)
        if isinstance(name, str) and name in number:
            found = number[name]
        elif isinstance(name, int) or name.isdigit():
            found = int(name)
        else:
            known = nearest(name, number) if number else "; its names are not known: set evaluation.robustness.classes"
            raise DataError(f"{where} has class '{name}', which is none of the training images' classes{known}")
        if not 0 <= found < total:
            raise DataError(f"{where} has class '{name}', but the classifier has {total} classes, from 0 on")
        labels.append(found)
    return np.asarray(labels, np.int64)


def real_labels(path: str, names: Sequence[str], key: str = "evaluation.robustness.real") -> list[list[int]]:
    """The reassessed labels ("Are we done with ImageNet?", Beyer et al. 2020) of images by the names of their files.

    The file holds a list, of which entry i belongs to ILSVRC2012_val_{i + 1:08d}.JPEG, or an object by file name.
    An image without any label has an empty list.

    Raises:
        ConfigError: the file cannot be read or has another layout. DataError: an image whose labels it does not have.
    """
    try:
        content: Any = json.loads(_text(path, key))
    except ValueError as error:
        raise ConfigError(f"{key}: '{path}' is not JSON: {error}; give ReaL's real.json") from error
    rows = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ConfigError(f"{key}: '{path}' is not ReaL's layout: a list with a list of labels for each image")
    found = []
    for name in names:
        file = name.rpartition("/")[2]
        match = _VALIDATION.search(file)
        if isinstance(content, dict) and file in content:
            found.append(content[file])
        elif isinstance(content, list) and match and 1 <= int(match[1]) <= len(content):
            found.append(content[int(match[1]) - 1])
        else:
            raise DataError(
                f"{key}: '{path}' has no labels for the held-out image '{name}'; evaluate on the images that it is of"
            )
    return found


def _text(path: str, key: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "") or "it is not text"
        raise ConfigError(f"{key}: '{path}' cannot be read: {reason}; name a text file that is there") from error
