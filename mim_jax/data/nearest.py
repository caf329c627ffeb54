"""The word a user most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: object, choices: Iterable[object], most: int = 8) -> str:
    """`; did you mean 'x'?` for the closest of `choices`, a list of at most `most` when none is close, '' for none."""
    names = sorted(str(c) for c in choices)
    if not names:
        return ""
    close = difflib.get_close_matches(str(word), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = ", ..." if len(names) > most else ""
    return f"; valid: {', '.join(names[:most])}{more}"
