"""What every command shares: its description, its parser, and the overrides `--config.key=value`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mim_jax.errors import MimError, nearest


class UsageError(MimError):
    """A command line that cannot be understood."""


@dataclass(frozen=True)
class Command:
    """One command of `mim-jax`.

    name: one or two words; summary: one line; examples: command lines without `mim-jax`.
    declare: adds the arguments to a parser; run: carries the command out and returns the exit code (None is 0).
    overrides: whether `--config.key=value` is understood.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    declare: Callable[[argparse.ArgumentParser], Any]
    run: Callable[[argparse.Namespace], int | None]
    overrides: bool = False


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and leaves the exit to the caller."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('mim-jax ')}: {message}; see {self.prog} --help")


def parse(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command.

    Raises:
        UsageError: an unknown flag (the nearest valid one is named), or a missing or wrong value.
    """
    parser = parser_of(command)
    argv, overrides = _split_overrides(argv) if command.overrides else (list(argv), [])
    _refuse_unknown_flags(parser, command, argv)
    args = parser.parse_args(argv)
    args.overrides = tuple(overrides)
    return args


def parser_of(command: Command) -> Parser:
    """The parser of one command, without the overrides, which are no flags of its own."""
    examples = "\n".join(f"  mim-jax {line}" for line in command.examples)
    note = "\n\nAny value of the config can be set: --config.KEY=VALUE" if command.overrides else ""
    parser = Parser(
        prog=f"mim-jax {command.name}",
        description=textwrap.fill(command.summary, 100),
        epilog=f"examples:\n{examples}{note}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.declare(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.key=value` and `--config.key value` out of `argv`."""
    rest: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        if "=" not in word:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise UsageError(f"{word} needs a value: {word}=VALUE")
            word = f"{word}={value}"
        overrides.append(word.removeprefix("--config."))
    return rest, overrides


def _refuse_unknown_flags(parser: Parser, command: Command, argv: Sequence[str]) -> None:
    known = {option for action in parser._actions for option in action.option_strings}
    for word in argv:
        flag = word.partition("=")[0]
        if flag == "--":
            return
        if flag.startswith("--") and flag not in known:
            choices = known | {"--config.KEY"} if command.overrides else known
            raise UsageError(f"'{command.name}' has no option {flag}{nearest(flag, choices - {'-h'})}")


def step(text: str) -> int | str:
    """A checkpoint: the number of its step, or `best`."""
    if text == "best":
        return text
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not a step: give its number, or best")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
