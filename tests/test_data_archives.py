"""Torchvision's layouts, CIFAR's pickles and binary files, SVHN, EMNIST."""

import collections
import io
import pickle

import numpy as np
import pytest
from archive_files import RNG, WRITERS, batch, colours, planes, write_cifar10, write_svhn
from conftest import one_line
from idx import gzipped, idx_bytes, write_idx
from scipy.io import savemat

from lth_jax import data
from lth_jax.data import DataError, known
from lth_jax.data import datasets as loading

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", ["", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_torchvisions_cifar10(tmp_path, writer, place):
    images, labels = write_cifar10(tmp_path / place, WRITERS[writer])
    found = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(found.train_images, images[:10])
    np.testing.assert_array_equal(found.test_images, images[10:])
    np.testing.assert_array_equal([*found.train_labels, *found.test_labels], labels)
    assert (found.source, found.title, found.classes) == ("Python batches", "CIFAR-10 (10 + 2 examples)", 10)


@pytest.mark.parametrize("kind", ["Python files", "binary files"])
def test_cifar100_in_both_its_layouts(tmp_path, kind):
    images, labels = colours(30, 100)
    labels[0] = 99
    folder = tmp_path / {"Python files": "cifar-100-python", "binary files": "cifar-100-binary"}[kind]
    folder.mkdir()
    for name, part in (("train", slice(20)), ("test", slice(20, None))):
        if kind == "Python files":
            entries = batch(images[part], labels[part], b"fine_labels") | {b"coarse_labels": [3] * 20}
            (folder / name).write_bytes(pickle.dumps(entries, 2))
        else:
            two = np.stack([np.full(30, 3), labels], 1)[part].astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([two, planes(images[part])], 1).tobytes())
    found = data.load("cifar100", tmp_path)
    np.testing.assert_array_equal(found.train_images, images[:20])
    np.testing.assert_array_equal([*found.train_labels, *found.test_labels], labels)
    assert (found.source, found.title, found.classes) == (kind, "CIFAR-100 (20 + 10 examples)", 100)


class Harmful:
    """A pickle that would write a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickles_code_is_not_run(tmp_path):
    write_cifar10(tmp_path)
    for name, entry in (("data", Harmful(tmp_path / "harm")), ("labels", [Harmful(tmp_path / "harm")])):
        entries = batch(*colours(2)) | {name.encode(): entry}
        (tmp_path / "data_batch_3").write_bytes(pickle.dumps(entries, 2))
        with pytest.raises(
            DataError, match=r"data_batch_3: .* asks for \w+\.open, which no batch needs"
        ) as error:
            data.load("cifar10", tmp_path)
        one_line(error)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("opcode", "told"),
    [(b"r\xff\xff\xff\xff", "LONG_BINPUT"), (b"p4000000000\n", "PUT"), (b"\x96" + b"\xff" * 7 + b"\x00", "")],
)
def test_a_pickle_that_asks_for_a_huge_memo_is_refused(tmp_path, opcode, told):
    """A reader would fill 64 GiB with nothing."""
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(b"\x80\x05}" + opcode + b".")
    with pytest.raises(DataError, match=f"test_batch: .*{told}"):
        data.load("cifar10", tmp_path)


IMAGES, LABELS = colours(2)
WRONG = {
    "KeyError": {b"labels": [1, 2]},
    "data is no array": {b"labels": [1, 2], b"data": [1, 2]},
    "no array of uint8": batch(IMAGES, LABELS) | {b"data": planes(IMAGES).astype(np.float32)},
    "data is (2, 100), labels are 2": batch(IMAGES, LABELS) | {b"data": planes(IMAGES)[:, :100].copy()},
    "data is (2, 3072), labels are 3": batch(IMAGES, [1, 2, 3]),
    "labels is no list of whole numbers": batch(IMAGES, LABELS) | {b"labels": ["one", "two"]},
    "expected labels 0 … 9, found 10; they start at 1": batch(IMAGES, [1, 10]),
    "expected labels 0 … 9, found -1": batch(IMAGES, [-1, 3]),
    "asks for collections.OrderedDict": batch(IMAGES, LABELS) | {b"x": collections.OrderedDict()},
}


@pytest.mark.parametrize("told", WRONG)
def test_a_malformed_pickle_is_named(tmp_path, told):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(WRONG[told], 2))
    with pytest.raises(DataError) as error:
        data.load("cifar10", tmp_path)
    assert told in one_line(error)
    assert "test_batch" in str(error.value)


def test_svhns_ten_is_the_digit_zero(tmp_path):
    images = write_svhn(tmp_path)
    found = data.load("svhn", tmp_path)
    np.testing.assert_array_equal(found.train_images, images[:12])
    assert [*found.train_labels, *found.test_labels] == [*range(10)] * 2
    assert (found.source, found.title) == ("MATLAB files", "SVHN (12 + 8 examples)")
    write_svhn(tmp_path, np.arange(20) % 10)
    with pytest.raises(DataError, match=r"train_32x32.mat: expected labels 1 … 10"):
        data.load("svhn", tmp_path)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_torchvisions_idx_folders(tmp_path, name):
    write_idx(tmp_path / name / "raw")
    own = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}[name]
    assert data.load(own, tmp_path).train_images.shape == (60, 28, 28, 1)


@pytest.mark.parametrize(
    ("part", "first", "classes"), [("balanced", 0, 47), ("letters", 1, 26), ("digits", 0, 10)]
)
def test_emnists_parts(tmp_path, part, first, classes):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    labels = np.arange(classes) + first
    for split, count in (("train", classes), ("test", 5)):
        pictures = RNG.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        stem = f"emnist-{part}-{split}"
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzipped(idx_bytes(pictures)))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:count].astype(np.uint8)))
    found = data.load(f"emnist/{part}", tmp_path)
    assert found.train_labels.tolist() == list(range(classes))
    assert (found.name, found.classes) == (f"emnist/{part}", classes)
    assert found.title == f"EMNIST {part} ({classes} + 5 examples)"
    (folder / f"emnist-{part}-train-labels-idx1-ubyte").write_bytes(idx_bytes((labels + 1).astype(np.uint8)))
    with pytest.raises(DataError, match=f"expected labels 0 … {classes - 1}, found {classes}"):
        data.load(f"emnist/{part}", tmp_path)


def test_a_pickle_that_encodes_one_text_again_and_again_is_refused(tmp_path):
    """A megabyte of file would take 400 of memory."""
    write_cifar10(tmp_path)
    text = b"c_codecs\nencode\nq\x00X" + (10_000).to_bytes(4, "little") + b"a" * 10_000
    again = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"
    (tmp_path / "test_batch").write_bytes(b"\x80\x02" + text + b"q\x01" + again * 3 + b".")
    with pytest.raises(DataError, match=r"test_batch: .* encodes more bytes than the file has"):
        data.load("cifar10", tmp_path)


def mat_header(name, shape, kind):
    """A MATLAB file's one variable of so many values, of which it has not one."""
    whole = savemat(file := io.BytesIO(), {name: np.zeros((1,) * (len(shape) - 1) + (2,), np.uint8)}) or file
    content = bytearray(whole.getvalue())
    content[128 + 16] = kind
    sizes = b"".join(size.to_bytes(4, "little") for size in shape)
    return bytes(content[: 128 + 32]) + sizes + bytes(content[128 + 32 + len(sizes) :])


@pytest.mark.parametrize(
    ("shape", "kind", "told"),
    [
        ((1, 100_000_000), 4, r"expected X uint8 \[32, 32, 3, n\] and y \[n\], found X char"),
        ((32, 32, 3, 100_000), 9, "the header promises 307,200,000 bytes, more than the file can hold"),
    ],
)
def test_a_mat_files_header_is_looked_at_first(tmp_path, monkeypatch, shape, kind, told):
    """Filling a character's missing values takes half a gigabyte."""
    write_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(mat_header("X", shape, kind))
    if kind == 9:
        savemat(rest := io.BytesIO(), {"y": np.zeros((1, shape[3]), np.uint8)}, do_compression=True)
        path.write_bytes(path.read_bytes() + rest.getvalue()[128:])
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(DataError, match=f"train_32x32.mat: {told}"):
        data.load("svhn", tmp_path)


@pytest.mark.parametrize("change", [{"y": None}, {"y": np.ones((3, 1), np.uint8)}, {"y": "a" * 12}])
def test_a_mat_file_without_its_labels_is_named(tmp_path, change):
    images = write_svhn(tmp_path)
    entries = {"X": images[:12].transpose(1, 2, 3, 0), **change}
    savemat(tmp_path / "train_32x32.mat", {name: each for name, each in entries.items() if each is not None})
    with pytest.raises(DataError, match=r"train_32x32.mat: expected X uint8 \[32, 32, 3, n\] and y"):
        data.load("svhn", tmp_path)


def test_fashion_mnists_title_is_of_its_own_bytes_alone(tmp_path, monkeypatch):
    write_idx(tmp_path)
    found = data.load("fashion_mnist", tmp_path)
    assert found.title == "files called fashion_mnist (60 + 20 examples)"
    facts = known.KNOWN["fashion_mnist"]._replace(official=found.fingerprint, counts=(60, 20))
    monkeypatch.setitem(loading._KNOWN, "fashion_mnist", facts)
    assert data.load("fashion_mnist", tmp_path).title == "Fashion-MNIST"
