"""Bad input: a table of what the command line refuses, by exit code 2 and one line that names the reason.

Nothing is written, and nothing is compiled. ``test_enough_was_tried`` counts the table; what the library's
functions refuse is in ``test_checks.py``.
"""

import json
import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idx import TRAIN, gzipped, write_idx

import experiments.__main__
from experiments import cli
from experiments.init_comparison import experiment as e1
from lth_jax import initializers
from lth_jax.data import datasets as data
from lth_jax.errors import InputError
from lth_jax.runs import config, folders

EMBEDDED = ["--dataset", "mnist-5k"]
HUGE = "9" * 5000

# Arguments of `python -m experiments init_comparison`, and what the error has to say.
REFUSED = {
    "--levels": ["0", "-1", "1.5", "abc", "", "1e3", HUGE, "1001", "0x10", "∞", "nan", "3,4", "three"],
    "--epochs-per-level": ["0", "-3", "2.5", "x", "10001", "", "1e400"],
    "--batch-size": ["0", "-60", "1e2", "4001", "1000000", "1000001", "60,60", "", "60b"],
    "--learning-rate": [
        "0",
        "-1",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e31",
        "1e-31",
        "abc",
        "1,2e-3",
        "",
        "0x1p3",
    ],
    "--rate": ["0", "1", "-0.2", "1.5", "nan", "inf", "0.00005", "0.99999", "20%", "", "1/5"],
    "--hidden": [
        "0",
        "-1",
        "300,0",
        "a",
        "300;100",
        "",
        ",",
        "300,,100",
        "1e3",
        "100001",
        "30.5",
        "1," * 20 + "1",
    ],
    "--initializers": [
        *["nope", "xavier_uniform,nope", "xavier_uniform,xavier_uniform", "", ",", "XAVIER_UNIFORM"],
    ],
    "--seeds": [
        *["", "a", "42-", "-42", "52-42", "42,42", "42-44,43", "1.5", "2147483648", "0-100000", HUGE],
        *[f"1-{HUGE}", "42--43", "4 2", "+42", "4²", "42;43", ",", "42,"],
    ],
    "--variant": ["unknown", "", "as_described", "as-described,as-run"],
    "--dataset": ["unknown", "MNIST", "", "mnist,cifar10", "../mnist"],
    "--preset": ["unknown", "", "Quick"],
    "--chunk": ["-1", "x", "1.5", ""],
    "--out": ["a\0b", "a\nb", "\udcff", "\x1b[31m", "x" * 300, "file", "file/below", "full"],
    "--data-dir": ["somewhere", "a\0b"],
}
EQUALS = {  # what the error shows instead: the value read, or the entry that is wrong
    "1e400": ["inf"], "1e31": ["1e+31"], "0.00005": ["5e-05"], "300,0": ["--hidden 0"],
    "xavier_uniform,nope": ["--initializers nope"],
}  # fmt: skip
CASES = [(flag, value) for flag, values in REFUSED.items() for value in values]

# Whole command lines.
REFUSED_LINES = {
    "unknown experiment": ["nonsense"],
    "unknown experiment ''": [""],
    "unknown experiment '../init_comparison'": ["../init_comparison"],
    "--foo": ["init_comparison", "--foo", "1"],
    "extra": ["init_comparison", "extra"],
    "--levels: expected one argument": ["init_comparison", "--levels"],
    "--level": ["init_comparison", "--level", "3"],  # no abbreviations: a new flag could change their meaning
    "-x": ["init_comparison", "-x"],
    "output/kernel would have none of its 40 weights left at level 2 of 12": [
        *["init_comparison", "--hidden", "4", "--rate", "0.9", "--levels", "12"]
    ],
    "do not fit into": ["init_comparison", "--hidden", "100000,100000"],
}


def tree_of(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, tally):
    """Call it with a command line: its one line of error, once it is sure that nothing was written."""
    monkeypatch.chdir(tmp_path)

    def call(arguments):
        before = tree_of(tmp_path)
        monkeypatch.setattr(sys, "argv", ["experiments", *arguments])
        with pytest.raises(SystemExit) as stop:
            experiments.__main__.main()
        printed = capsys.readouterr()
        assert stop.value.code == 2
        lines = printed.err.splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in printed.out
        assert tree_of(tmp_path) == before
        tally("malformed inputs refused")
        return lines[0]

    return call


@pytest.mark.parametrize(("flag", "value"), CASES, ids=lambda text: repr(text)[:30])
def test_a_flag_with_a_wrong_value_is_named(refused, tmp_path, flag, value):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("someone's")
    line = refused(["init_comparison", *EMBEDDED, "--out", "new", flag, value])
    if value.isprintable() or flag not in ("--out", "--data-dir"):
        assert flag in line or (flag == "--data-dir" and "data_dir" in line)
    shown = value if value.isprintable() else repr(value)[1:-1]
    assert any(text in line for text in (shown[:40].strip(), *EQUALS.get(value, ()), "expected one argument"))


@pytest.mark.parametrize(("named", "arguments"), REFUSED_LINES.items())
def test_a_wrong_command_line_is_named(refused, named, arguments):
    assert named in refused([*arguments, *(EMBEDDED if "init_comparison" in arguments else [])])


# Data


def header(kind, rank, *shape):
    return lambda content: struct.pack(f">HBB{len(shape)}I", 0, kind, rank, *shape) + content[4 + 4 * rank :]


def patched(position, *values):
    return lambda content: content[:position] + bytes(values) + content[position + len(values) :]


BOMB = gzipped(struct.pack(">HBB3I", 0, 8, 3, TRAIN, 28, 28) + bytes(50_000_000))
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"

# A file's content to a damaged one's, for images and labels alike.
DAMAGE = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half a header": lambda content: content[:6],
    "no payload": lambda content: content[: 4 + 4 * content[3]],
    "a byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "a byte too long": lambda content: content + b"\0",
    "twice": lambda content: content * 2,
    "magic": patched(0, 1),
    "magic's second byte": patched(1, 1),
    "signed bytes": patched(2, 9),
    "int32": patched(2, 12),
    "float32": patched(2, 13),
    "rank 0": patched(3, 0),
    "rank 2": patched(3, 2),
    "rank 255": patched(3, 255),
    "no examples": patched(4, 0, 0, 0, 0),
    "four billion examples": patched(4, 255, 255, 255, 255),
    "an example too many": patched(7, TRAIN + 1),
    "an example too few": patched(7, TRAIN - 1),
    "text": lambda content: b"5,0,0,0\n" * 100,
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + content,
    "gzip, truncated": lambda content: gzipped(content)[:-20],
    "gzip, wrong checksum": lambda content: gzipped(content)[:-8] + b"\0\0\0\0" + gzipped(content)[-4:],
    "gzip, header only": lambda content: gzipped(content)[:10],
    "gzip, rubbish": lambda content: b"\x1f\x8b" + content,
    "gzip, rubbish behind": lambda content: gzipped(content) + b"rubbish",
    "gzip in gzip": lambda content: gzipped(gzipped(content)),
}
REFUSED_DATA = [(file, kind, damage) for file in (IMAGES, LABELS) for kind, damage in DAMAGE.items()]
REFUSED_DATA += [
    (IMAGES, "27 rows", header(8, 3, TRAIN, 27, 28)),
    (IMAGES, "transposed sizes", header(8, 3, 28, 28, TRAIN)),
    (IMAGES, "no columns", header(8, 3, TRAIN, 28, 0)),
    (IMAGES, "an overflowing size", header(8, 3, 2**31, 2**16, 2**17)),
    (IMAGES, "a gzip bomb", lambda content: BOMB),
    (LABELS, "label 10", patched(8, 10)),
    (LABELS, "label 255", patched(37, 255)),
    ("t10k-labels-idx1-ubyte", "label 11", patched(9, 11)),
    ("t10k-images-idx3-ubyte", "a byte short", DAMAGE["a byte short"]),
]


@pytest.mark.parametrize(
    ("file", "kind", "damage"), REFUSED_DATA, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_damaged_data_file_is_named(refused, tmp_path, file, kind, damage):
    write_idx(tmp_path / "digits")
    path = tmp_path / "digits" / file
    path.write_bytes(damage(path.read_bytes()))
    line = refused(["init_comparison", "--dataset", "mnist", "--data-dir", "digits", "--out", "new"])
    assert file in line or file.replace("images", "labels").replace("3", "1") in line


@pytest.mark.parametrize("file", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_data_file_is_named(refused, tmp_path, file):
    write_idx(tmp_path / "digits")
    (tmp_path / "digits" / file).unlink()
    assert file in refused(["init_comparison", "--dataset", "mnist", "--data-dir", "digits"])


@pytest.mark.parametrize(
    ("name", "content"), [("nothing", b""), ("a byte", b"x"), ("label 10", b"\x0a" + bytes(3072))]
)
def test_a_damaged_cifar_batch_is_named(refused, tmp_path, name, content):
    (tmp_path / "colours").mkdir()
    for number in range(1, 6):
        (tmp_path / "colours" / f"data_batch_{number}.bin").write_bytes(bytes(3073))
    (tmp_path / "colours" / "test_batch.bin").write_bytes(content)
    assert "test_batch.bin" in refused(["init_comparison", "--dataset", "cifar10", "--data-dir", "colours"])


# Folders

CONFIGS = {
    "empty": b"",
    "half": b'{"levels": 4',
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "not UTF-8": b"\xff{}",
    "deep": b"[" * 100_000,
    "another": b'{"levels": 7}',
    "nothing": b"{}",
    "no JSON": b"levels = 4",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_folder_with_another_or_a_damaged_configuration_is_refused(refused, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes(content)
    assert "run" in refused(["init_comparison", *EMBEDDED, "--out", "run"])


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": "0123456789abcdef", "source": "elsewhere"}'])
def test_a_run_begun_with_other_data_is_not_continued(refused, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config.to_json(e1.Config(**e1.QUICK)))
    (tmp_path / "run" / "data.json").write_text(content)
    line = refused(["init_comparison", "--out", "run"])
    assert "data.json" in line or "--data-dir: these data have the fingerprint" in line


def test_a_folder_in_use_is_refused(refused, tmp_path):
    (tmp_path / "run").mkdir()
    with folders.hold(tmp_path / "run"):
        assert "--out run: in use by process" in refused(["init_comparison", *EMBEDDED, "--out", "run"])


def test_a_directory_named_by_the_environment_is_checked_too(refused, monkeypatch):
    monkeypatch.setenv("LTH_DATA_DIR", "/nowhere/at/all")
    assert "/nowhere/at/all" in refused(["init_comparison", "--dataset", "mnist"])


def test_enough_was_tried():
    assert len(CASES) + len(REFUSED_LINES) + len(REFUSED_DATA) + 4 + 3 + len(CONFIGS) + 3 >= 200


# Any configuration, any command line

BLANK = data.from_arrays("blank", *[np.zeros(s, "uint8") for s in ((900, 28, 28, 1), 900, (9, 28, 28, 1), 9)])
WIDTHS = st.lists(st.integers(1, 500), min_size=1, max_size=4).map(tuple)
# A configuration is made of them in the tests: the check of its types draws at random what it looks at.
FIELDS = st.fixed_dictionaries({
    "variant": st.sampled_from(e1.VARIANTS),
    "dataset": st.just("mnist-5k"),
    "initializers": st.lists(
        st.sampled_from(list(initializers.SCHEMES)), min_size=1, max_size=5, unique=True
    ).map(tuple),
    "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True).map(tuple),
    "levels": st.integers(1, 1000),
    "epochs_per_level": st.integers(1, 10_000),
    "batch_size": st.integers(1, 4000),
    "learning_rate": st.floats(1e-30, 1e30),
    "rate": st.floats(1e-4, 0.9999),
    "hidden": WIDTHS,
})  # fmt: skip


def as_arguments(configuration):
    """The command line that says a configuration in full."""
    arguments = []
    for name, value in vars(configuration).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        arguments += [config.flag(name), text]
    return arguments


@given(FIELDS)
@settings(max_examples=50, deadline=None)
def test_a_configuration_survives_its_command_line_and_its_file(fields):
    configuration = e1.Config(**fields)
    parsed, _ = cli.parse(cli.find("init_comparison"), as_arguments(configuration))
    assert parsed == configuration
    assert config.differences(configuration, json.loads(config.to_json(configuration))) == []
    assert config.digest(parsed) == config.digest(configuration)


FLAGS = [config.flag(name) for name in (*e1.Config.__dataclass_fields__, *cli.Execution.__dataclass_fields__)]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
    st.sampled_from([value for values in REFUSED.values() for value in values]),
    st.sampled_from(
        [*FLAGS, "--help=1", "--", "-", "@file", "--levels=3", "42-43", "mnist-5k", "xavier_normal"]
    ),
)


@given(st.lists(st.one_of(TEXTS, st.sampled_from(FLAGS)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_command_line_is_a_configuration_or_one_line(arguments):
    try:
        parsed, execution = cli.parse(cli.find("init_comparison"), arguments)
    except (InputError, SystemExit) as refusal:
        message = str(refusal)
    else:
        message = (
            "--" if cli.parse(cli.find("init_comparison"), as_arguments(parsed))[0] == parsed else "lost"
        )
        assert execution.chunk >= 0
    assert message in ("0", "2") or "--" in message or "cannot be printed" in message


@given(FIELDS)
@settings(max_examples=30, deadline=None)
def test_any_configuration_is_checked_before_anything_is_written(fields):
    message = "--"
    try:
        e1.check(e1.Config(**fields), BLANK)
    except InputError as error:
        message = str(error)
    assert "--" in message
