"""The installed command, ``lth-jax``: sweep | data | show | compare | export | completion."""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence

from lth_jax.commands import compare, completion, data, exits, export, show, sweep
from lth_jax.commands.flags import Parser
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.runs.config import check_printable

DESCRIPTION = "Lottery tickets: find them in any model, look at them, take them out."
EPILOG = f"""\
examples:
  lth-jax sweep --levels 5 --out runs/first     tickets of LeNet-300-100 on embedded digits
  lth-jax show runs/first
  lth-jax export runs/first --seed 42 --level 4
`lth-jax COMMAND --help` has every flag of a command, and examples. The experiments are not installed: they
are run from a checkout of the repository, with `python -m experiments`.

{exits.CODES}"""


class _Command(Parser):
    """A subcommand's parser: its examples as they were written, and nothing abbreviated."""

    def __init__(self, *arguments, **options):
        epilog = options.pop("epilog", "")
        if exits.CODES not in epilog:
            epilog = f"{epilog}\n\n{exits.CODES}"
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        fixed = {"epilog": epilog, "formatter_class": layout, "allow_abbrev": False}
        super().__init__(*arguments, **fixed, **options)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Command(prog="lth-jax", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"lth_jax {results.version('lth_jax')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Command)
    for module in (sweep, data, show, compare, export):
        module.add(commands)
    completion.add(commands, build_parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; what goes wrong is one line on standard error, see ``exits``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    again = f"to go on: {shlex.join(['lth-jax', *given])}" if given[:1] == ["sweep"] else ""
    with exits.exit_on_error(again, leave=arguments is None):
        check_printable(given)
        require(
            given[:1] != ["experiments"],
            "experiments: are not installed; in a checkout of the repository run python -m experiments",
        )
        parser = build_parser()
        parsed = parser.parse_args(given)
        if parsed.command is None:
            parser.print_help()
        else:
            parsed.run(parsed)
