"""``lth-jax completion``: what a shell needs to complete the command's flags and their values."""

import argparse
from collections.abc import Callable
from typing import Any

import shtab

from lth_jax.commands import settings
from lth_jax.data import DATASETS
from lth_jax.initializers import SCHEMES
from lth_jax.runs.job import Execution

HELP = f"print shell completion, for {', '.join(shtab.SUPPORTED_SHELLS)}"
EXAMPLES = """\
examples:
  lth-jax completion bash > ~/.local/share/bash-completion/completions/lth-jax
  lth-jax completion zsh > ~/.zfunc/_lth-jax          with ~/.zfunc in fpath"""

FOLDERS, FILES = ("out", "data_dir", "figures", "folder", "one", "other"), ("config",)


def add(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """The subcommand; ``whole`` makes the parser of all commands, this one too."""
    parser = commands.add_parser("completion", help=HELP, description=HELP, epilog=EXAMPLES)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="which shell")
    parser.set_defaults(run=lambda parsed: print(shtab.complete(with_values(whole()), parsed.shell)))


def with_values(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, its flags knowing what can follow them: choices, files, folders. For completion only."""
    configs = (settings.Config, Execution)
    choices = {
        name: field.metadata["choices"]
        for config in configs
        for name, field in config.__dataclass_fields__.items()
        if field.metadata.get("choices")
    }
    choices |= {"model": tuple(settings.MODELS), "initializer": (settings.OWN, *SCHEMES), "name": DATASETS}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                with_values(below)
        elif action.dest in choices:
            action.choices = choices[action.dest]
        elif action.dest in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.dest in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
