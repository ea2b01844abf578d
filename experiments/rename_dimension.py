"""Brings results of E1 up to date whose dimension ``initializer`` is still called ``method``.

    python -m experiments.rename_dimension FOLDER ...

``method`` is the name of an argument of ``xarray.Dataset.sel``, so that a selection by it chose nothing and
said nothing. In each run's folder this renames the dimension of ``results.nc``, whose digest is renewed, and
the field ``methods`` of the configuration, there and in ``config.json``. Numbers and all else stay as they
are; a folder that is up to date is not written to.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lth_jax.commands import exits
from lth_jax.commands.flags import Parser
from lth_jax.errors import InputError, require
from lth_jax.runs import results
from lth_jax.runs.config import check_printable
from lth_jax.runs.storage import write_text

DIMENSIONS = {"method": "initializer"}
FIELDS = {"methods": "initializers"}


def main(arguments: Sequence[str]) -> None:
    """Rename in every folder that the arguments name; exit codes as in ``exits``."""
    with exits.exit_on_error():
        parser = Parser(
            prog="python -m experiments.rename_dimension",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run of init_comparison")
        check_printable(arguments)
        for folder in map(Path, parser.parse_args(list(arguments)).folders):
            print(f"{folder}: {', '.join(rename(folder)) or 'up to date'}", flush=True)


def rename(folder: Path) -> list[str]:
    """Rename in one run's folder; the names of the files that were written.

    Raises:
      InputError: there are no results of E1, or they or the configuration cannot be read.
    """
    path, place, written = folder / results.RESULTS, folder / results.CONFIG, []
    measured = results.load(path)
    experiment = measured.attrs.get("experiment")
    require(experiment == "init_comparison", f"{path}: results of {experiment}, expected init_comparison")
    try:
        text = place.read_text(encoding="utf-8")
        renewed, config = renamed_fields(text, indent=2), renamed_fields(measured.attrs["config"])
    except (OSError, ValueError) as error:
        raise InputError(f"{place} cannot be read as a configuration: {error}") from None
    if old := {name: new for name, new in DIMENSIONS.items() if name in measured.dims}:
        results.save(measured.rename(old).assign_attrs(config=config), path)
        written.append(path.name)
    if renewed != text:
        write_text(place, renewed)
        written.append(place.name)
    return written


def renamed_fields(text: str, indent: int | None = None) -> str:
    """A configuration's JSON with its fields' present names, in their order; up to date, as it was.

    Args:
      text: a JSON object.
      indent: as of ``json.dumps``.

    Raises:
      ValueError: it is none.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    if not fields.keys() & FIELDS.keys():
        return text
    return json.dumps({FIELDS.get(name, name): value for name, value in fields.items()}, indent=indent)


if __name__ == "__main__":
    main(sys.argv[1:])
