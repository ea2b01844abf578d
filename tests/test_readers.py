"""Readers: whatever bytes and whatever arrays a file holds, it is read or refused in a line."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile

import netCDF4
import numpy as np
import pytest
import xarray as xr
from idx import write_idx
from safetensors.numpy import save
from sweeps import TRUNK, make_place

import lth_jax
from lth_jax import commands
from lth_jax.analysis import ticket_files
from lth_jax.commands.flags import from_toml
from lth_jax.commands.settings import Config
from lth_jax.data import DataError
from lth_jax.errors import InputError
from lth_jax.runs import foreign, results

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, a run, and a ticket of it."""
    folder = make_place(tmp_path_factory.mktemp("readers"), ["sweep", *TRUNK, "--out", "run"])
    commands.main(
        ["export", str(folder / "run"), "--seed", "7", "--level", "2", "--out", str(folder / "t.st")]
    )
    return folder


def mutated(whole):
    """The bytes with some flipped, cut out, doubled, zeroed or appended."""
    data = bytearray(whole)
    for _ in range(RNG.integers(1, 4)):
        kind, at = RNG.integers(6), int(RNG.integers(len(data) + 1))
        size = int(RNG.integers(1, 64))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(RNG.integers(8))
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size]
        elif kind == 3:
            data[at : at + size] = bytes(len(data[at : at + size]))
        elif kind == 4:
            data = data[:at]
        else:
            data[at:at] = RNG.bytes(size)
    return bytes(data)


def early(whole):
    """Mutations of the first kilobyte, where headers are."""
    return mutated(whole[:1000]) + whole[1000:]


def said_by(read):
    """The line with which a reader refuses; empty if it does not."""
    try:
        read()
    except (InputError, DataError) as error:
        said = str(error)
    else:
        return ""
    assert said.isprintable(), said
    return said


READERS = {
    "ticket": ("t.st", lambda path: lth_jax.load_ticket(path), 700),
    "tickets": ("run/tickets.npz", lambda path: ticket_files.read_mask(path, 7, 2), 400),
    "results": ("run/results.nc", lambda path: results.load(path), 80),
    "results without a digest": ("run/results.nc", lambda path: results.load(path), 120),
}


@pytest.mark.parametrize("kind", READERS)
def test_mutated_bytes_are_read_or_refused(place, tmp_path, tally, monkeypatch, kind):
    monkeypatch.setattr(foreign, "SECONDS", 4)  # HDF5 never ends with one file in some hundred
    name, read, cases = READERS[kind]
    whole, refused = (place / name).read_bytes(), 0
    path = tmp_path / (place / name).name
    if kind == "results":
        path.with_name("results.nc.sha256").write_bytes((place / "run" / "results.nc.sha256").read_bytes())
    for case in range(cases):
        path.write_bytes((mutated if case % 2 else early)(whole))
        refused += bool(said_by(lambda: read(path)))
    assert refused > cases / 4
    tally("mutated files read or refused", cases)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_mutated_data_are_read_or_refused(tmp_path, tally, kind):
    write_idx(tmp_path / "mnist")
    path = next(path for path in (tmp_path / "mnist").iterdir() if kind in path.name and "train" in path.name)
    whole = path.read_bytes()
    for case in range(250):
        path.write_bytes((mutated if case % 2 else early)(whole))
        said_by(lambda: lth_jax.data.find("mnist", tmp_path / "mnist", True))
    tally("mutated files read or refused", 250)


def test_mutated_toml_is_read_or_refused(tmp_path, tally):
    whole = b'learning_rate = 0.05\nhidden = [100, 50]\nseeds = "42-52"\nlayer_rates = {output = 0.1}\n'
    path = tmp_path / "run.toml"
    for _ in range(500):
        path.write_bytes(mutated(whole))
        said_by(lambda: from_toml(path, Config))
    path.write_bytes(b"\xef\xbb\xbf" + whole)  # a byte-order mark, as some editors write
    expected = {"learning_rate": 0.05, "hidden": (100, 50), "seeds": tuple(range(42, 53))}
    assert from_toml(path, Config) == {**expected, "layer_rates": ("output=0.1",)}
    tally("mutated files read or refused", 500)


W, M, CARD = np.ones((2, 3), np.float32), np.ones((2, 3), bool), json.dumps({"format": "lth_jax ticket 1"})
TENSORS = {
    "no mask": ({"params/a/kernel": W}, CARD),
    "no weights": ({"mask/a/kernel": M}, CARD),
    "a mask of floats": ({"params/a/kernel": W, "mask/a/kernel": W}, CARD),
    "a mask of another shape": ({"params/a/kernel": W, "mask/a/kernel": M.T.copy()}, CARD),
    "clashing names": ({"params/a": W, "mask/a": M, "params/a/b": W, "mask/a/b": M}, CARD),
    "nothing": ({}, CARD),
    "no card": ({"params/a": W, "mask/a": M}, None),
    "a list for a card": ({"params/a": W, "mask/a": M}, "[]"),
    "a deep card": ({"params/a": W, "mask/a": M}, "[" * 100_000),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_no_ticket_are_refused(tmp_path, tally, case):
    tensors, card = TENSORS[case]
    path = tmp_path / "t.safetensors"
    path.write_bytes(save(tensors, None if card is None else {"card": card}))
    with pytest.raises(InputError) as refused:
        lth_jax.load_ticket(path)
    assert "\n" not in str(refused.value)
    tally("mutated files read or refused")


def test_a_ticket_of_other_shapes_and_dtypes_is_read(tmp_path):
    deep = "/".join("abcdefghij" * 5)
    tensors = {f"params/{deep}": np.ones((), np.float16), f"mask/{deep}": np.ones((), bool)}
    tensors |= {"params/e": np.zeros((0, 3), np.float64), "mask/e": np.zeros((0, 3), bool)}
    (tmp_path / "t.safetensors").write_bytes(save(tensors, {"card": CARD}))
    assert set(lth_jax.load_ticket(tmp_path / "t.safetensors").params) == {"a", "e"}


def odd_results():
    """Results files that are none of ours, by what is odd about them."""
    accuracy = ("seed", "level"), np.full((2, 3), 0.5)
    yield "no variables", xr.Dataset(attrs={"experiment": "sweep"})
    yield "no attributes", xr.Dataset({"test_accuracy": accuracy})
    yield "strings", xr.Dataset({"test_accuracy": ("seed", np.asarray(["a", "b"]))})
    yield "strings for labels", xr.Dataset({"test_accuracy": accuracy}, {"level": list("abc")})
    yield "an empty dimension", xr.Dataset({"test_accuracy": (("seed", "level"), np.ones((0, 3)))})
    yield "a scalar", xr.Dataset({"test_accuracy": ((), 0.5)})
    yield "NaN only", xr.Dataset({"test_accuracy": (("seed", "level"), np.full((2, 3), np.nan))})
    yield (
        "times",
        xr.Dataset(
            {"test_accuracy": accuracy}, {"level": np.arange(3).astype("datetime64[D]").astype("M8[ns]")}
        ),
    )
    yield "many dimensions", xr.Dataset({"test_accuracy": (list("abcdefg"), np.ones((2,) * 7))})
    yield "whole numbers", xr.Dataset({"test_accuracy": (("seed", "level"), np.ones((2, 3), np.int64))})
    yield (
        "numbers for attributes",
        xr.Dataset({"test_accuracy": accuracy}, attrs={"experiment": 3, "config": 4, "seeds": 1.5}),
    )
    yield (
        "lists for attributes",
        xr.Dataset({"test_accuracy": accuracy}, attrs={"experiment": [1, 2], "model": ["a", "b"]}),
    )
    yield (
        "no JSON for a config",
        xr.Dataset({"test_accuracy": accuracy}, attrs={"experiment": "sweep", "config": "{"}),
    )
    yield "marks without levels", xr.Dataset({"test_accuracy": accuracy, "diverged": ("seed", [True, False])})
    yield "an experiment's name only", xr.Dataset({"test_accuracy": accuracy}, attrs={"experiment": "xor"})
    for dim in ("replicate", "column"):
        yield f"a dimension {dim}", xr.Dataset({"test_accuracy": ((dim, "level"), np.ones((2, 3)))})
        yield f"rows called {dim}", xr.Dataset({"test_accuracy": ((dim, "seed"), np.ones((2, 3)))})
    yield "16-bit numbers", xr.Dataset({"test_accuracy": (("seed", "level"), np.ones((2, 3), np.int16))})
    kept = {"kept": (("seed", "level"), np.full((2, 3), "a")), "test_accuracy": accuracy}
    yield "strings for sizes", xr.Dataset(kept)
    layers = {"kept_weights": (("seed", "layer"), np.zeros((2, 1))), "test_accuracy": accuracy}
    yield "layers without levels", xr.Dataset(layers, {"layer": ["a"]}, {"experiment": "sweep"})
    labels = {"seed": [0, 0], "level": [1.5, 2.5, 2.5]}
    yield "labels twice", xr.Dataset({"test_accuracy": accuracy, "kept": accuracy}, labels)


def odd_files():
    """Functions that write results which xarray does not write, by what is odd about them."""

    def written(path, kind, dims, **options):
        with netCDF4.Dataset(path, "w", auto_complex=True) as file:
            file.createDimension("level", 3)
            file.createDimension("many", 10**11)
            file.createVariable("test_accuracy", kind, dims, **options)

    yield "one dimension twice", lambda path: written(path, "f8", ("level", "level"))
    yield "complex numbers", lambda path: written(path, "c16", ("level",))
    chunks = {"chunksizes": (1000,), "zlib": True}
    yield "terabytes", lambda path: written(path, "f8", ("many",), **chunks)


ODD = dict(odd_results()) | dict(odd_files())


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("command", ["show", "figures", "csv", "compare", "export", "report"])
def test_results_of_other_arrays_are_shown_or_refused(tmp_path, capsys, tally, case, command):
    from experiments.report import command as report

    folder = tmp_path / "run"
    folder.mkdir()
    made = ODD[case]
    if isinstance(made, xr.Dataset):
        made.to_netcdf(folder / "results.nc", engine="netcdf4")
    else:
        made(folder / "results.nc")
    digest = hashlib.sha256((folder / "results.nc").read_bytes()).hexdigest()
    (folder / "results.nc.sha256").write_text(f"{digest}  results.nc\n")
    line = {
        "show": ["show", str(folder)],
        "figures": ["show", str(folder), "--figures", str(tmp_path / "figures")],
        "csv": ["show", str(folder), "--table", "csv"],
        "compare": ["compare", str(folder), str(folder)],
        "export": ["export", str(folder), "--seed", "0", "--level", "0", "--out", str(tmp_path / "t.npz")],
    }
    code = 0
    try:
        if command == "report":
            report.main(["--results", str(folder), "--out", str(tmp_path / "page")])
        else:
            commands.main(line[command])
    except SystemExit as stop:
        code = stop.code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert code in (0, 2)
    assert len(said) == bool(code), said
    assert all(line.startswith("error: ") for line in said)
    tally("mutated files read or refused")


def odd_tickets():
    """What a sweep's file of tickets may hold instead of one of its arrays, by what is odd about it."""
    mask, shape = "mask/hidden_0/kernel", "shape/hidden_0/kernel"
    yield "masks of floats", {mask: np.ones((2, 3, 784), np.float32)}
    yield "masks with one axis", {mask: np.ones(7, np.uint8)}
    yield "masks that are empty", {mask: np.ones((0, 0, 0), np.uint8)}
    yield "masks that are short", {mask: np.ones((2, 3, 5), np.uint8)}
    yield "masks of a level", {mask: np.ones((2, 1, 784), np.uint8)}
    yield "no masks", {mask: None}
    yield "one seed without an axis", {"seed": np.asarray(7)}
    yield "seeds of strings", {"seed": np.asarray(["42", "7"])}
    yield "more seeds", {"seed": np.asarray([42, 7, 8])}
    yield "no digests", {"digest": np.asarray([], str)}
    yield "negative sizes", {shape: np.asarray([784, -8])}
    yield "huge sizes", {shape: np.asarray([2**40, 2**40])}
    yield "another size", {shape: np.asarray([8, 784])}
    yield "no sizes", {shape: None}
    yield "weights of strings", {"theta0/output/bias": np.asarray(["a", "b"])}
    yield "one bit for ever", {"rewinds": np.asarray([True, False])}
    yield "never rewound, without weights", {"rewinds": np.asarray(False)}
    yield "halves that are none", {"halves": None, "bfloat16": np.asarray([["seed"]])}


TICKETS = dict(odd_tickets())


@pytest.mark.parametrize("case", TICKETS)
@pytest.mark.parametrize("command", ["export", "compare"])
def test_tickets_of_other_arrays_are_taken_or_refused(place, tmp_path, capsys, tally, command, case):
    shutil.copytree(place / "run", tmp_path / "run")
    with np.load(tmp_path / "run" / "tickets.npz") as file:
        arrays = dict(file) | TICKETS[case]
    stored = io.BytesIO()
    np.savez(stored, **{name: leaf for name, leaf in arrays.items() if leaf is not None})
    (tmp_path / "run" / "tickets.npz").write_bytes(stored.getvalue())
    line = {
        "export": ["export", str(tmp_path / "run"), "--seed", "7", "--level", "2"],
        "compare": ["compare", str(tmp_path / "run"), str(place / "run")],
    }
    code = 0
    try:
        commands.main(line[command])
    except SystemExit as stop:
        code = stop.code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert code == 2 or (code == 0 and command == "compare"), code
    assert [str(tmp_path / "run" / "tickets.npz") in line for line in said] == [True] * bool(code), said
    tally("mutated files read or refused")


def test_an_archive_that_would_fill_memory_is_refused(tmp_path):
    """A few bytes that claim to be a huge array: nothing is allocated for what is not there."""
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    header += b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "tickets.npz", "w") as archive:
        archive.writestr("seed.npy", header + bytes(80))
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
    script += "from lth_jax.analysis import ticket_files; from pathlib import Path\n"
    script += "from lth_jax.errors import InputError\n"
    script += (
        "try: ticket_files.read_mask(Path(sys.argv[1]), 1, 1)\nexcept InputError as e: print('refused', e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tickets.npz")], capture_output=True, text=True
    )
    assert done.stdout.startswith("refused"), done.stderr
