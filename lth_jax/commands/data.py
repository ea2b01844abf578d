"""``lth-jax data``: which data sets are here, prepared and whole."""

import argparse
from typing import Any

from lth_jax import data
from lth_jax.analysis import tables
from lth_jax.errors import InputError, fail

HELP = "data sets: list what is here, prepare one, verify it"
EXAMPLES = """\
examples:
  lth-jax data list
  lth-jax data list --data-dir DIR         what is in a folder of downloads, torchvision's or TFDS's
  lth-jax data prepare mnist               TFDS downloads it and prepares it (needs lth_jax[tfds])
  lth-jax data verify mnist --data-dir DIR
  lth-jax data verify npz:FILE.npz         your own; likewise npy:FOLDER, folder:FOLDER of pictures, tfds:NAME

Without --data-dir (or LTH_DATA_DIR): what TFDS has prepared, what the system ships, the embedded digits.
verify reads every file anew, downloads nothing; exit code 2 says that a data set is missing or damaged."""
ACTIONS = {
    "list": "names, whether they are here, sizes and fingerprints",
    "prepare": "have TFDS download and prepare one",
    "verify": "read and check one, or all; print its fingerprint",
}


def add(commands: Any) -> None:
    """The subcommand and its own subcommands."""
    parser = commands.add_parser("data", help=HELP, description=HELP, epilog=EXAMPLES)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, what in ACTIONS.items():
        own = actions.add_parser(action, help=what, description=what, epilog=EXAMPLES)
        names = ", ".join(data.DATASETS)
        own.add_argument("name", metavar="NAME", nargs=None if action == "prepare" else "?", help=names)
        own.add_argument("--data-dir", metavar="DIR", help="folder with the data; LTH_DATA_DIR serves too")
        own.set_defaults(run={"list": list_all, "prepare": prepare, "verify": verify}[action])


def chosen(parsed: argparse.Namespace) -> tuple[str, ...]:
    """The data sets that are asked for."""
    if parsed.name is not None and parsed.name not in data.DATASETS:
        raise InputError(f"data set {parsed.name!r}: unknown; expected one of {', '.join(data.DATASETS)}")
    return data.DATASETS if parsed.name is None else (parsed.name,)


def find(name: str, directory: str | None, fresh: bool = False) -> data.Dataset | None:
    """A data set that is here; the embedded one needs no folder."""
    return data.find(name, None if name == data.EMBEDDED else directory, fresh)


def list_all(parsed: argparse.Namespace) -> None:
    """A table of the data sets."""
    header = ["data set", "source", "training", "test", "image", "classes", "fingerprint"]
    rows = []
    for name in chosen(parsed):
        try:
            found = find(name, parsed.data_dir)
        except data.DataError as error:  # not in the folder that was named, or damaged
            rows.append([name, f"no: {str(error)[:200]}", *[""] * 5])
            continue
        if found is None:
            rows.append([name, "not here", *[""] * 5])
            continue
        shape = "×".join(map(str, found.train_images.shape[1:]))
        sizes = [f"{len(labels):,}" for labels in (found.train_labels, found.test_labels)]
        rows.append([name, found.source, *sizes, shape, str(found.classes), found.fingerprint])
    console = tables.console()
    tables.print_table(console, "Data sets", header, rows)
    if any(row[1] == "not here" for row in rows):
        tables.print_line(console, "to have one: lth-jax data prepare NAME, or --data-dir DIR with its files")


def prepare(parsed: argparse.Namespace) -> None:
    """Have TFDS prepare a data set, and say what it is."""
    (name,) = chosen(parsed)
    print_found(data.prepare(name, parsed.data_dir))


def verify(parsed: argparse.Namespace) -> None:
    """Read and check data sets; what is wrong with the first that is not whole is the error."""
    wrong = []
    for name in chosen(parsed):
        try:
            found = find(name, parsed.data_dir, fresh=True)
            if found is None:
                raise data.missing(name)
            print_found(found)
        except data.DataError as error:
            wrong.append(str(error))
    if wrong:
        fail(" | ".join(wrong))


def print_found(found: data.Dataset) -> None:
    """A data set in a line, and whether these are the official files."""
    remark = {True: "; the official files", False: "; not the official files' bytes or order", None: ""}
    line = f"{found.name}: {tables.origin_of(found)}{remark[data.official(found)]}"
    tables.print_line(tables.console(), line)
