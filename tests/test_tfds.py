"""The real MNIST from its archives, and what TFDS has prepared, read without TensorFlow."""

import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from idx import digits, some_arrays, write_idx
from PIL import Image

from lth_jax.data import DataError
from lth_jax.data import datasets as data
from lth_jax.data import formats as data_formats

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LTH_TEST_DATA", ROOT.parent / "shared" / "data"))
TENSORFLOW = importlib.util.find_spec("tensorflow") is not None

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


@pytest.fixture
def archives(tmp_path) -> Path:
    """The official MNIST archives where this machine has them, else small ones of the same names."""
    if (SHARED / "mnist" / "train-images-idx3-ubyte.gz").is_file():
        return SHARED
    return write_idx(tmp_path, ending=".gz")


def test_mnist(archives):
    mnist = data.load("mnist", archives)
    if mnist.title != "MNIST":  # small archives: the numbers below are the official ones
        assert mnist.title == "files called mnist (60 + 20 examples)"
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


class Prepared:
    """What a builder of TFDS gives, for a folder of these examples."""

    def __init__(self, examples, number):
        self.examples, self.asked, self.info = examples, 0, SimpleNamespace()
        split = SimpleNamespace(num_examples=number)
        shaped = SimpleNamespace(shape=(None, None, 3))
        self.info.splits = {"train": split, "test": split}
        self.info.features = {"image": shaped, "label": None}
        self.info.file_format = SimpleNamespace(value="array_record")

    def as_data_source(self, split):
        return self

    def __len__(self):
        return len(self.examples)

    def __getitems__(self, places):
        self.asked += len(places)
        return [self.examples[place] for place in places]


def example(size, label=0):
    return {"image": np.zeros((size, size, 3), np.uint8), "label": label}


@pytest.mark.parametrize(
    ("examples", "number", "asked", "told"),
    [
        ([example(4), example(5)], 2, 2, r"train images are \(4, 4, 3\) and \(5, 5, 3\)"),
        (
            [example(1000)] * 3,
            1000,
            1,
            "train takes 3,000,000,000 bytes, over",
        ),
    ],
)
def test_images_whose_size_the_folder_does_not_say_are_measured(monkeypatch, examples, number, asked, told):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = Prepared(examples, number)
    monkeypatch.setattr(tfds, "builder_from_directory", lambda _: builder)
    with pytest.raises(DataError, match=told):
        data_formats.read_prepared(Path("folder"))
    assert builder.asked == asked


def test_labels_that_are_no_whole_numbers_are_not_rounded(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = Prepared([example(4, np.float32(0.5)), example(4, np.float32(1.5))], 2)
    monkeypatch.setattr(tfds, "builder_from_directory", lambda _: builder)
    arrays = data_formats.read_prepared(Path("folder"))
    with pytest.raises(DataError, match="train_labels: expected integers, found float32"):
        data.from_arrays("mine", *arrays)
