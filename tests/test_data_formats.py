"""Data files: formats against literal bytes, damaged files, and the places where files are found."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from idx import TRAIN, digits, gzipped, idx_bytes, write_idx
from PIL import Image

from lth_jax.data import DataError, archives
from lth_jax.data import datasets as data
from lth_jax.data import formats as data_formats

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


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
    assert dataset.title == "files called mnist (60 + 20 examples)"  # not to be taken for the official 60,000


def test_the_folder_of_a_data_sets_name_comes_first(tmp_path):
    write_idx(tmp_path, seed=0)
    write_idx(tmp_path / "fashion-mnist", seed=1)
    fashion = data.load("fashion_mnist", tmp_path)
    np.testing.assert_array_equal(fashion.train_images[..., 0], digits(1).train_images)
    assert fashion.title.startswith("files called fashion_mnist")


def test_another_data_sets_files_are_refused(tmp_path, monkeypatch):
    """MNIST's and Fashion-MNIST's files differ in their bytes only."""
    write_idx(tmp_path)
    known = data._KNOWN["mnist"]._replace(official=data.load("mnist", tmp_path).fingerprint)
    monkeypatch.setitem(data._KNOWN, "mnist", known)
    assert data.load("mnist", tmp_path).name == "mnist"
    with pytest.raises(DataError, match="these files are MNIST, not Fashion-MNIST"):
        data.load("fashion_mnist", tmp_path)


# --- CIFAR-10


def write_cifar(folder: Path, images: np.ndarray | None = None) -> Path:
    """Six batches of 10 records; ``images`` uint8 [60, 32, 32, 3]."""
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    labels = (np.arange(60) % 10).astype(np.uint8)
    records = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(60, -1)], axis=1)
    for i, name in enumerate(archives.CIFAR_BATCHES):
        (folder / name).write_bytes(records[10 * i : 10 * i + 10].tobytes())
    return folder


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


def test_the_cache_is_asked_unless_all_is_read_anew(tmp_path):
    def arrays(value):
        images, labels = np.full((2, 2, 2, 1), value, np.uint8), np.zeros(2, np.int32)
        return data_formats.Arrays(images, labels, images, labels)

    (tmp_path / "source").write_bytes(b"x")
    ask = lambda value, **options: data_formats.cached(  # noqa: E731
        "name", [tmp_path / "source"], tmp_path / "cache", lambda: arrays(value), **options
    ).train_images.max()
    assert [ask(1), ask(2), ask(3, fresh=True), ask(4)] == [1, 1, 3, 3]
