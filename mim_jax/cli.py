"""The command line, `mim-jax COMMAND ...`: finds the command, and turns errors of the user's into one sentence.

Nothing heavy is imported here; each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mim_jax import __version__
from mim_jax.commands import (
    completion,
    config,
    data,
    data_convert,
    data_noise,
    doctor,
    evaluate,
    export,
    export_backbone,
    import_weights,
    plan,
    quickstart,
    report,
    reproduce,
    results,
    serve,
    show,
    train,
    verify,
)
from mim_jax.commands.base import Command, UsageError, parse
from mim_jax.errors import MimError, nearest

ALL: tuple[Command, ...] = (
    train.COMMAND,
    plan.COMMAND,
    evaluate.COMMAND,
    show.COMMAND,
    report.COMMAND,
    serve.COMMAND,
    results.COMMAND,
    reproduce.COMMAND,
    data.STATS,
    data.SHOW,
    data.BENCH,
    data_convert.CONVERT,
    data_convert.TFDS,
    data_noise.NOISE,
    config.LIST,
    config.SHOW,
    config.CHECK,
    config.DIFF,
    verify.COMMAND,
    import_weights.COMMAND,
    export.COMMAND,
    export_backbone.COMMAND,
    doctor.COMMAND,
    doctor.NAN,
    quickstart.COMMAND,
    completion.command(lambda: ALL),
)
COMMANDS = {command.name: command for command in ALL}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 (the command's own no), 2 (a mistake of the user's) or 130 (interrupted)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if answer := _general(argv):
            print(answer)
            return 0
        command, rest = _find(argv)
        args = parse(command, rest)
        return command.run(args) or 0
    except SystemExit as end:  # argparse, after --help
        return int(end.code or 0)
    except MimError as error:
        if "--debug" in argv:
            raise
        print(f"mim-jax: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; nothing more can be flushed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("mim-jax: interrupted", file=sys.stderr)
        return 130


def _general(argv: Sequence[str]) -> str:
    """The answer to a command line that names no command to run, or ''."""
    if not argv or argv[0] in ("-h", "--help"):
        return overview()
    if argv[0] in ("-V", "--version"):
        return f"mim-jax {__version__}"
    group = [name for name in COMMANDS if name.startswith(f"{argv[0]} ")]
    if group and argv[0] not in COMMANDS and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        return overview(argv[0])
    return ""


def _find(argv: Sequence[str]) -> tuple[Command, list[str]]:
    for words in (2, 1):
        name = " ".join(argv[:words])
        if len(argv) >= words and name in COMMANDS:
            return COMMANDS[name], list(argv[words:])
    group = {name.split()[1]: name for name in COMMANDS if name.startswith(f"{argv[0]} ")}
    if group:
        raise UsageError(f"there is no command '{argv[0]} {argv[1]}'{nearest(argv[1], group)}")
    raise UsageError(f"there is no command '{argv[0]}'{nearest(argv[0], {n.split()[0] for n in COMMANDS})}")


def overview(group: str = "") -> str:
    """The help of `mim-jax`, or of one group of its commands."""
    shown = [c for c in ALL if not group or c.name.startswith(f"{group} ")]
    width = max(len(c.name) for c in shown)
    lines = [
        f"usage: mim-jax {f'{group} ' if group else ''}COMMAND ...",
        "",
        "Masked image modeling in JAX: hide part of an image, predict what was hidden, keep the encoder.",
        "",
        *(f"  {c.name:{width}}  {c.summary}" for c in shown),
        "",
        "examples:",
        *(f"  mim-jax {c.examples[0]}" for c in (shown if group else (train.COMMAND, evaluate.COMMAND, show.COMMAND))),
        "",
        "mim-jax COMMAND --help says more.",
    ]
    return "\n".join(lines)
