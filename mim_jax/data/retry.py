"""Bounded patience with what lies on other machines: some attempts, longer and longer waits, then one sentence."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from mim_jax.errors import DataError

log = logging.getLogger(__name__)
ATTEMPTS = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds; doubled each time: 15 s in all, time-outs not counted
# Answers of a server that may be others a moment later: time-out, too early, too many, and its own troubles.
PASSING = (408, 425, 429, 500, 502, 503, 504)
_FOR_GOOD = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
pause = time.sleep

T = TypeVar("T")


def retried(work: Callable[[], T], address: str) -> T:
    """What `work` returns, tried up to `ATTEMPTS` times.

    address: what is read, for people.

    Raises:
        DataError: what will not pass ('not found', 'permission denied') at once, all else after the last attempt; the
            sentence names the address, the attempts and the last error.
    """
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except DataError:
            raise
        except Exception as error:
            if not passing(error):
                raise DataError(f"'{address}' cannot be read: {said(error)}; check the name and your access") from error
            if attempt == ATTEMPTS:
                raise DataError(
                    f"'{address}' could not be read in {ATTEMPTS} attempts, the last: {said(error)}; try again later"
                ) from error
            log.warning("'%s', attempt %d of %d: %s; again in %.1f s", address, attempt, ATTEMPTS, said(error), wait)
        pause(wait)
        wait = min(2 * wait, LONGEST_WAIT)
    raise AssertionError("unreachable: the last attempt returns or raises")


def passing(error: BaseException) -> bool:
    """Whether another attempt may go better."""
    status = _status(error)
    if status is not None:
        return status in PASSING
    if isinstance(error, _FOR_GOOD):
        return False
    # Of clients that have their own kinds (gcsfs, s3fs, aiohttp), the name tells a lost connection.
    lost = ("timeout", "connection", "disconnected", "payload", "incompleteread", "httpexception", "retriable")
    return isinstance(error, OSError | http.client.HTTPException | EOFError) or any(
        word in kind.__name__.lower() for kind in type(error).__mro__ for word in lost
    )


def not_found(error: BaseException | None) -> bool:
    """Whether what could not be read is simply not there."""
    while error is not None:
        if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
            return True
        error = error.__cause__
    return False


def _status(error: BaseException) -> int | None:
    """The server's answer, as urllib, aiohttp, gcsfs, requests and botocore keep it."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    candidates = (
        *(getattr(error, key, None) for key in ("status", "code", "status_code")),
        getattr(response, "status_code", None),
        metadata.get("HTTPStatusCode"),
    )
    for found in candidates:
        if isinstance(found, int) or (isinstance(found, str) and found.isdigit()):
            return int(found)
    return None


def said(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__} {error}".split())[:300]
