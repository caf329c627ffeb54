"""mim-jax completion: a script for the shell, made from the parsers of all commands by shtab."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mim_jax.commands.base import Command, parser_of

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("DIR", "FOLDER", "RUN", "BUNDLE", "CASE_DIR")
FILES = ("FILE", "OUT", "FILE[:ARG]", "SOURCE")
CONFIGS = ("SPEC", "OLD", "NEW")

# What a shell does for the name of a config: the shipped ones, and files.
FUNCTION = {
    "bash": '_mim_jax_configs() {{ compgen -W "{names}" -- "$1"; _shtab_compgen_files "$1"; }}',
    "zsh": "_mim_jax_configs() {{ compadd -- {names}; _files; }}",
    "fish": "function _mim_jax_configs; printf '%s\\n' {names}; __fish_complete_path (commandline -ct); end",
}
CALL = {"bash": "_mim_jax_configs", "zsh": "_mim_jax_configs", "fish": "(_mim_jax_configs)"}


def command(every: Callable[[], Sequence[Command]]) -> Command:
    """The command itself; `every` gives the commands to complete, this one among them."""

    def run(args: argparse.Namespace) -> None:
        print(script(args.shell, every()))

    return Command(
        name="completion",
        summary="Print a script that lets the shell complete commands, options, config keys and names of configs. "
        "bash: source <(mim-jax completion bash) in ~/.bashrc; zsh: a file _mim-jax in $fpath; fish: a file "
        "~/.config/fish/completions/mim-jax.fish.",
        examples=("completion bash", "completion zsh"),
        declare=lambda parser: parser.add_argument("shell", choices=SHELLS, help="which shell"),
        run=run,
    )


def script(shell: str, commands: Sequence[Command]) -> str:
    """The whole script for one of `SHELLS`."""
    import shtab

    from mim_jax import shipped

    names = " ".join(name for path in shipped.config_names() for name in (path, path[len("configs/") : -len(".py")]))
    complete = {
        "SPEC": {shell: CALL[shell]},
        "FOLDER": {shell: shtab.DIRECTORY[shell]},
        "FILE": {shell: shtab.FILE[shell]},
    }
    parser = whole(commands, complete, list(_keys()))
    preamble: Any = {shell: FUNCTION[shell].format(names=names)}  # the annotation leaves out what its text allows
    return shtab.complete(parser, shell, root_prefix="mim_jax", preamble=preamble)


def whole(commands: Sequence[Command], complete: dict[str, Any], keys: Sequence[str]) -> argparse.ArgumentParser:
    """One parser of all commands, those of two words below their first. keys: of a config, for --config.KEY."""
    top = argparse.ArgumentParser(prog="mim-jax", add_help=False)
    top.add_argument("-h", "--help", action="store_true", help="list the commands")
    top.add_argument("-V", "--version", action="store_true", help="print the version")
    below = top.add_subparsers()
    for first, group in itertools.groupby(sorted(commands, key=lambda c: c.name), lambda c: c.name.split()[0]):
        found = list(group)
        alone = found.pop(0) if found[0].name == first else None
        parents = [_annotated(alone, complete, keys)] if alone else []
        says = alone.summary if alone else f"commands of {first}"
        parser = below.add_parser(first, parents=parents, add_help=False, help=says, description=says)
        second = parser.add_subparsers() if found else None
        for command in found:
            parents, says = [_annotated(command, complete, keys)], command.summary
            second.add_parser(  # type: ignore[union-attr]
                command.name.split()[1], parents=parents, add_help=False, help=says, description=says
            )
    return top


def _annotated(command: Command, complete: dict[str, Any], keys: Sequence[str]) -> argparse.ArgumentParser:
    """A command's parser that knows what completes each argument, and the keys of a config where it takes them."""
    parser = parser_of(command)
    for action in parser._actions:
        for kind, metavars in (("SPEC", CONFIGS), ("FOLDER", FOLDERS), ("FILE", FILES)):
            if action.metavar in metavars:
                action.complete = complete[kind]  # type: ignore[attr-defined]
    for key in keys if command.overrides else ():
        parser.add_argument(f"--config.{key}", metavar="VALUE", help="of the config")
    return parser


def _keys() -> Iterator[str]:
    """Every key of the shared recipe; those of `model` and `method` are the methods' own."""
    from mim_jax import config, recipes

    yield from config.flat(recipes.pretrain())
