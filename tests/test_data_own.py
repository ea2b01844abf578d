"""Archives, arrays and pictures of one's own, each written by its format's own writer."""

import io
import zipfile

import numpy as np
import pytest
from archive_files import write_cifar10, write_svhn
from array_record.python.array_record_module import ArrayRecordWriter
from conftest import one_line
from idx import idx_bytes, write_idx
from PIL import Image
from test_readers import early, mutated, said_by
from test_tfds import write_prepared

from lth_jax import data, training
from lth_jax.commands import settings, sweep
from lth_jax.data import DataError, formats, known, own
from lth_jax.data import datasets as loading

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")
RNG = np.random.default_rng(11)


def arrays(count=(6, 4), shape=(5, 4, 3), classes=3):
    """Four arrays of one's own."""
    parts = [RNG.integers(0, 256, (count[0], *shape)).astype(np.uint8), np.arange(count[0]) % classes]
    parts += [RNG.integers(0, 256, (count[1], *shape)).astype(np.uint8), np.arange(count[1]) % classes]
    return formats.Arrays(*parts)


def same(found, expected):
    for part, values in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, part), values)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_of_ones_own(tmp_path, save):
    expected = arrays()
    save(tmp_path / "mine.npz", **expected._asdict())
    found = data.load(f"npz:{tmp_path / 'mine.npz'}")
    same(found, expected)
    assert (found.name, found.title, found.source, found.classes) == (
        "mine.npz",
        "mine.npz",
        "an npz file",
        3,
    )
    same(data.load("npz:mine.npz", tmp_path), expected)


def test_kerass_names_and_shapes(tmp_path):
    expected = arrays(shape=(5, 4))
    names = ("x_train", "y_train", "x_test", "y_test")
    columns = {
        n: v[:, None].astype(np.uint8) if n[0] == "y" else v for n, v in zip(names, expected, strict=True)
    }
    np.savez(tmp_path / "keras.npz", **columns)
    found = data.load("npz:keras.npz", tmp_path)
    same(found, expected._replace(train_images=expected[0][..., None], test_images=expected[2][..., None]))


def test_a_folder_of_npy_pairs(tmp_path):
    expected = arrays()
    for part, values in expected._asdict().items():
        np.save(tmp_path / f"{part}.npy", np.asfortranarray(values))
    found = data.load(f"npy:{tmp_path}")
    same(found, expected)
    assert found.source == "npy files"
    (tmp_path / "test_labels.npy").unlink()
    with pytest.raises(DataError, match=r"test_labels.npy: cannot be read: No such file"):
        data.load(f"npy:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"train_labels": np.arange(1, 7), "test_labels": np.arange(1, 5)},
            "they start at 1; store labels - 1",
        ),
        ({"train_labels": np.arange(7)}, "6 train images, but 7 labels"),
        ({"train_labels": np.asarray(["a"] * 6)}, "train_labels: cannot be read: ValueError: holds <U1"),
        ({"train_labels": np.asarray([{}] * 6)}, "holds object, expected numbers"),
        ({"train_images": np.zeros((6, 5, 4, 3), np.int64)}, "found int64"),
        ({"train_images": np.zeros((6, 5), np.uint8)}, r"expected [n, height, width, channels]"),
        ({"test_images": np.zeros((4, 5, 5, 3), np.uint8)}, "test images"),
        ({"test_images": None}, "holds test_labels, train_images, train_labels, expected"),
    ],
)
def test_an_npz_that_is_no_data_set_is_named(tmp_path, change, told):
    parts = {name: each for name, each in {**arrays()._asdict(), **change}.items() if each is not None}
    np.savez(tmp_path / "mine.npz", **parts)
    with pytest.raises(DataError) as error:
        data.load("npz:mine.npz", tmp_path)
    assert told in one_line(error)
    assert "mine.npz" in str(error.value)


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays()._asdict())
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
    header += b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for part in formats.Arrays._fields:
            archive.writestr(f"{part}.npy", header + bytes(80))
    with pytest.raises(DataError, match="the header promises 99,999,999,999 bytes, the file has 80"):
        data.load("npz:huge.npz", tmp_path)


def write_pictures(folder, ending=".png", size=(6, 5), mode="RGB"):
    """Three classes in train, two of them in test; the pictures by class."""
    found = {}
    for part, classes in {"train": ("cat", "dog", "owl"), "test": ("dog", "owl")}.items():
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for number in range(2):
                shape = (*size, 3) if mode == "RGB" else size
                picture = RNG.integers(0, 256, shape).astype(np.uint8)
                found.setdefault((part, name), []).append(picture)
                Image.fromarray(picture).save(folder / part / name / f"{number}{ending}")
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_pictures(tmp_path, mode):
    pictures = write_pictures(tmp_path / "zoo", mode=mode)
    found = data.load(f"folder:{tmp_path / 'zoo'}")
    assert found.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.test_labels.tolist() == [1, 1, 2, 2]
    np.testing.assert_array_equal(
        found.test_images.reshape(4, 6, 5, -1)[3], pictures["test", "owl"][1].reshape(6, 5, -1)
    )
    assert (found.title, found.source, found.classes) == ("zoo", "a folder of pictures", 3)
    same(
        data.load("folder:zoo", tmp_path),
        formats.Arrays(*(getattr(found, p) for p in formats.Arrays._fields)),
    )


def test_jpegs_are_read_as_pillow_reads_them(tmp_path):
    write_pictures(tmp_path, ".JPEG")
    found = data.load(f"folder:{tmp_path}")
    with Image.open(tmp_path / "train" / "owl" / "1.JPEG") as picture:
        np.testing.assert_array_equal(found.train_images[5], np.asarray(picture))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "test").rename(f / "tests"), "has no folder test; expected train/CLASS/*.png"),
        (lambda f: (f / "train/cat").rename(f / "test/eel"), "class eel has no pictures to train on"),
        (
            lambda f: [p.unlink() for p in f.glob("train/*/*")],
            "holds no class folders with PNG or JPEG files",
        ),
        (lambda f: (f / "train/owl/1.png").write_bytes(b"no picture"), "train/owl/1.png: cannot identify"),
        (
            lambda f: Image.new("RGB", (5, 7)).save(f / "train/owl/1.png"),
            "is (7, 5, 3), the first picture (6, 5, 3)",
        ),
        (
            lambda f: Image.new("RGBA", (5, 6)).save(f / "train/owl/1.png"),
            "is of mode RGBA, expected L or RGB: convert",
        ),
        (
            lambda f: Image.new("RGB", (5, 6)).save(f / "train/owl/1.png", "GIF"),
            "train/owl/1.png: cannot identify",
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_named(tmp_path, change, told):
    write_pictures(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError) as error:
        data.load(f"folder:{tmp_path}")
    assert told in one_line(error)


def test_pictures_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    write_pictures(tmp_path)
    monkeypatch.setattr("lth_jax.data.own.MAX_BYTES", 899)
    with pytest.raises(DataError, match=r"10 pictures of \(6, 5, 3\) take over 899 bytes"):
        data.load(f"folder:{tmp_path}")


def test_anything_that_tfds_has_prepared(tmp_path):
    """Under a name that this library does not know; written as TFDS writes it."""
    root = write_prepared(tmp_path / "root", "array_record")
    (root / "mnist").rename(root / "my_digits")
    info = root / "my_digits" / "3.0.1"
    for file in info.iterdir():
        file.rename(info / file.name.replace("mnist-", "my_digits-"))
    described = (info / "dataset_info.json").read_text()
    (info / "dataset_info.json").write_text(described.replace('"name": "mnist"', '"name": "my_digits"'))
    found = data.load("tfds:my_digits", root)
    assert (found.title, found.source) == ("my_digits", "TFDS my_digits/3.0.1")
    assert found.train_images.shape == (60, 28, 28, 1)
    assert ArrayRecordWriter  # which wrote it
    with pytest.raises(DataError, match="holds no tfds:other: expected what TFDS prepares in other/VERSION"):
        data.load("tfds:other", root)
    for name in ("tfds:../up", "tfds:A", "tfds:a/b/c"):
        with pytest.raises(DataError, match="expected a name of TFDS as tfds:mnist"):
            data.load(name, root)
    with pytest.raises(DataError, match=r"tfds:other was not found\. Four ways"):
        data.load("tfds:other")


def test_a_title_says_mnist_of_mnists_bytes_alone(tmp_path, monkeypatch):
    """In whatever order, as TFDS has them; not of others under its files' names."""
    write_idx(tmp_path)
    assert data.load("mnist", tmp_path).title == "files called mnist (60 + 20 examples)"
    small = formats.read_idx_folder(tmp_path, (28, 28), 10)
    facts = known.KNOWN["mnist"]._replace(unordered=formats.unordered(small), counts=(60, 20))
    monkeypatch.setitem(loading._KNOWN, "mnist", facts)
    order = RNG.permutation(60)
    turned = small._replace(train_images=small.train_images[order], train_labels=small.train_labels[order])
    for part, values in turned._asdict().items():
        stem = formats.IDX_STEMS[part]
        (tmp_path / stem).write_bytes(idx_bytes(values[..., 0] if values.ndim == 4 else values))
    assert data.load("mnist", tmp_path).title == "MNIST"
    swapped = small.train_labels.copy()
    swapped[:2] = swapped[1::-1]
    (tmp_path / formats.IDX_STEMS["train_labels"]).write_bytes(idx_bytes(swapped))
    assert data.load("mnist", tmp_path).title == "files called mnist"


def test_a_flag_takes_data_of_ones_own(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays()._asdict())
    chosen = settings.Config(dataset=f"npz:{tmp_path / 'mine.npz'}", batch_size=3, levels=2)
    found = data.load(chosen.dataset)
    sweep.check(chosen, found)
    assert training.splits(found)[0].images.shape == (6, 5, 4, 3)
    for name in ("npz:", "csv:x", "cifar"):
        with pytest.raises(ValueError, match=f"--dataset {name}: unknown; expected one of mnist"):
            settings.Config(dataset=name)


def places(folder, kind):
    """A data set in a folder, the file of it that is damaged, and its name."""
    if kind == "pickle":
        write_cifar10(folder)
        return folder / "data_batch_2", "cifar10"
    if kind == "mat":
        write_svhn(folder)
        return folder / "train_32x32.mat", "svhn"
    if kind == "npz":
        np.savez_compressed(folder / "mine.npz", **arrays()._asdict())
        return folder / "mine.npz", "npz:mine.npz"
    if kind == "npy":
        for part, values in arrays()._asdict().items():
            np.save(folder / f"{part}.npy", values)
        return folder / "train_images.npy", "npy:."
    write_pictures(folder, f".{kind}")
    return folder / "train" / "cat" / f"0.{kind}", "folder:."


@pytest.mark.parametrize("kind", ["pickle", "mat", "npz", "npy", "png", "jpg"])
@pytest.mark.filterwarnings("default")
def test_mutated_files_of_every_format_are_read_or_refused(tmp_path, tally, kind):
    path, name = places(tmp_path, kind)
    whole, cases, refused = path.read_bytes(), 60 if kind == "mat" else 150, 0
    for case in range(cases):
        path.write_bytes((mutated if case % 2 else early)(whole))
        refused += bool(said_by(lambda: data.find(name, tmp_path, True)))
    assert refused > cases / 10
    tally("mutated files read or refused", cases)


def test_a_header_that_says_it_is_long_is_not_read(tmp_path):
    """NumPy would read all of it, up to 4 GiB, before it looks at its own limit."""
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }".ljust(20_000) + b"\n"
    content = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
    for part in formats.Arrays._fields:
        (tmp_path / f"{part}.npy").write_bytes(content)
    with pytest.raises(DataError, match="the header has 20,001 bytes, over 10,000"):
        data.load(f"npy:{tmp_path}")


def test_members_that_say_they_are_large_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "mine.npz", **arrays()._asdict())
    monkeypatch.setattr("lth_jax.data.own.MAX_DEFLATE_RATIO", -10)
    with pytest.raises(DataError, match=r"mine.npz/train_images: \d+ bytes cannot hold the 488 that are"):
        data.load("npz:mine.npz", tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has 3,000,000,000 bytes, over"):
        own.read_array(io.BytesIO(), 3_000_000_000)


def test_folders_that_are_no_classes_change_nothing(tmp_path):
    """Empty ones and hidden ones, in either part, before the cache is written and after."""
    write_pictures(tmp_path)
    first = data.load(f"folder:{tmp_path}")
    for name in ("train/a", "test/a", "train/.ipynb_checkpoints", "test/.hidden"):
        (tmp_path / name).mkdir()
    for name in ("train/.ipynb_checkpoints/0.png", "test/.hidden/0.png", "train/cat/._0.png"):
        (tmp_path / name).write_bytes((tmp_path / "train/cat/0.png").read_bytes())
    for fresh in (False, True):
        found = loading.find(f"folder:{tmp_path}", fresh=fresh)
        assert (found.classes, found.fingerprint) == (3, first.fingerprint)


def test_a_cache_is_of_its_classes(tmp_path):
    """Links to the same files, in the same order, but of other classes."""
    write_pictures(tmp_path / "zoo")
    for part, name in (("train", "a"), ("train", "b"), ("test", "b")):
        (tmp_path / "linked" / part / name).mkdir(parents=True)
    for name, into in (("train/cat/0", "a"), ("train/cat/1", "a"), ("train/dog/0", "b"), ("test/dog/0", "b")):
        part, _, file = name.split("/")
        link = tmp_path / "linked" / part / into / f"{file}.png"
        link.symlink_to(tmp_path / "zoo" / f"{name}.png")
    name = f"folder:{tmp_path / 'linked'}"
    assert data.load(name).train_labels.tolist() == [0, 0, 1]
    folder = tmp_path / "linked" / "train"
    (folder / "a" / "1.png").rename(folder / "b" / "-1.png")
    assert data.load(name).train_labels.tolist() == [0, 1, 1]


def test_what_the_system_refuses_is_named(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "train" / "cat" / "9.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read: No such file or directory") as error:
        data.load(f"folder:{tmp_path}")
    assert "train/cat/9.png" in one_line(error)
    for kind in ("npy", "npz", "folder"):
        with pytest.raises(DataError, match=r"a{300}"):
            data.load(f"{kind}:{'a' * 300}")
    with pytest.raises(DataError, match=r"a{300}: cannot be read: File name too long"):
        data.load(f"npz:{'a' * 300}")


def test_an_error_of_the_system_without_a_name_is_said(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError("no more of this")

    monkeypatch.setattr("lth_jax.data.own.picture_files", refuse)
    with pytest.raises(DataError, match=r"folder:.*: cannot be read: no more of this"):
        data.load(f"folder:{tmp_path}")
