"""Errors that are the user's to mend.

Each carries one sentence that names the file, key or value at fault and the mend. The command line prints the
sentence and exits with code 2; any other exception is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable


class MimError(Exception):
    """Something the user can put right; the message is one plain sentence."""


class ConfigError(MimError):
    """A key, value or combination of values in a config."""


class DataError(MimError):
    """A data source, or a record in it."""


class CheckpointError(MimError):
    """A run directory or a checkpoint in it."""


class VerifyError(MimError):
    """A reference case that cannot be read or mapped."""


def nearest(word: object, choices: Iterable[object], most: int = 12, cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` for the closest of `choices`, a list of at most `most` when none is close, '' for none."""
    names = sorted({str(c) for c in choices})
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(names[:most])}{', ...' if len(names) > most else ''}" if names else ""


def check_choices(settings: object, where: str, **choices: Iterable[object]) -> None:
    """Refuses a field of `settings`, the section `where` of a config, whose value is not among its choices.

    Raises:
        ConfigError: names the key, the value, and what is valid.
    """
    for key, valid in choices.items():
        value, valid = getattr(settings, key), tuple(valid)
        if value not in valid:
            close = nearest(value, valid)
            hint = close if "did you mean" in close else ""
            raise ConfigError(f"{where}.{key} '{value}' is not one of {', '.join(map(str, valid))}{hint}")


def check_keys(cls: type, values: Iterable[str], where: str, what: str = "") -> None:
    """Refuses a key of the section `where` of a config that is no field of dataclass `cls`, the settings of `what`.

    Raises:
        ConfigError: names the key and the nearest that exists.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}.{key} is not a setting of {what or cls.__name__}{nearest(key, names)}")
