"""Augmentation: exact against NumPy, distributed as said, off in evaluation, a seed's own bits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import make_digits, one_line
from scipy import stats
from sweeps import TINY, make_place

import lth_jax
from lth_jax import augmentation, training
from lth_jax.augmentation import Fixed, augmented, crop, cutout, flip, normalize
from lth_jax.commands import inputs
from lth_jax.data import datasets as data
from lth_jax.runs import axis
from lth_jax.tasks import classification
from lth_jax.types import Split

RNG = np.random.default_rng(3)
IMAGE = RNG.random((5, 7, 3)).astype(np.float32)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


@pytest.mark.parametrize("offset", [(0, 0), (0, 4), (2, 2), (4, 1), (3, 3)])
def test_a_crop_at_an_offset_is_numpys(offset):
    whole = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)))
    row, column = offset
    found = augmentation.cropped(jnp.asarray(IMAGE), jnp.asarray(offset), 2)
    np.testing.assert_array_equal(found, whole[row : row + 5, column : column + 7])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("center", [(0, 0), (4, 6), (2, 3), (0, 5)])
def test_a_square_at_a_center_is_numpys(center, size):
    expected = IMAGE.copy()
    for row in range(5):
        for column in range(7):
            if 0 <= row - center[0] + size // 2 < size and 0 <= column - center[1] + size // 2 < size:
                expected[row, column] = 0
    np.testing.assert_array_equal(augmentation.cut(jnp.asarray(IMAGE), jnp.asarray(center), size), expected)


def many(step, count=4000, image=IMAGE):
    """A step's images under many keys."""
    keys = jax.random.split(jax.random.key(5), count)
    return np.asarray(jax.jit(jax.vmap(step, (0, None)))(keys, jnp.asarray(image)))


def test_one_image_in_two_is_flipped():
    found = many(flip)
    straight = (found == IMAGE).all((1, 2, 3))
    assert (found[~straight] == IMAGE[:, ::-1]).all()
    assert stats.binomtest(int(straight.sum()), len(found)).pvalue > 0.01


def test_every_offset_of_a_crop_is_as_likely_as_another():
    places = np.arange(1, 37, dtype=np.float32).reshape(6, 6, 1)
    found = many(crop(1), image=places)
    whole = np.pad(places, ((1, 1), (1, 1), (0, 0)))
    windows = {(y, x): whole[y : y + 6, x : x + 6] for y in range(3) for x in range(3)}
    counts = [int((found == window).all((1, 2, 3)).sum()) for window in windows.values()]
    assert sum(counts) == len(found)
    assert stats.chisquare(counts).pvalue > 0.01


def test_every_center_of_a_cutout_is_as_likely_as_another():
    found = many(cutout(1), image=np.ones((3, 4, 2), np.float32))
    assert ((found == 0).sum((1, 2, 3)) == 2).all()
    assert stats.chisquare((found[..., 0] == 0).sum(0).ravel()).pvalue > 0.01


BATCH = Split(jnp.asarray(RNG.integers(0, 256, (6, 5, 7, 3)), jnp.uint8), jnp.arange(6))
SCALED = np.asarray(BATCH.images, np.float32) * np.float32(1 / 255)
STEPS = (flip, crop(2), normalize(MEAN, STD), cutout(3))


def test_evaluation_has_nothing_of_chance_and_the_rest_of_the_task_stays():
    task, plain = augmented(classification(), *STEPS), classification()
    expected = (SCALED - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_allclose(task.inputs(None, BATCH), expected, rtol=1e-5, atol=1e-6)
    still = augmented(plain, flip, crop(2), cutout(3)).inputs(None, BATCH)
    np.testing.assert_array_equal(still, plain.inputs(None, BATCH))
    logits = jax.random.normal(jax.random.key(0), (6, 6))
    np.testing.assert_array_equal(task.loss(logits, BATCH), plain.loss(logits, BATCH))
    assert set(task.metrics) == {"accuracy"}


def test_examples_have_keys_of_their_own_and_a_key_gives_the_same_bits():
    task = augmented(classification(), *STEPS)
    same = Split(jnp.repeat(BATCH.images[:1], 6, 0), BATCH.labels)
    found = np.asarray(task.inputs(jax.random.key(1), same))
    assert len({image.tobytes() for image in found}) == 6
    np.testing.assert_array_equal(found, task.inputs(jax.random.key(1), same))
    assert (found != np.asarray(task.inputs(jax.random.key(2), same))).any()
    keys = jax.random.split(jax.random.key(4), 3)
    for steps, tolerance in (((flip, crop(2), cutout(3)), 0), (STEPS, 1e-5)):  # a division may be fused
        task = augmented(classification(), *steps)
        beside = jax.jit(jax.vmap(lambda key, task=task: task.inputs(key, BATCH)))(keys)
        for key, other in zip(keys, beside, strict=True):
            alone = jax.jit(task.inputs)(key, BATCH)
            np.testing.assert_allclose(alone, other, rtol=tolerance, atol=tolerance)


def test_a_pixel_goes_one_way_through_all_steps():
    """Written out again: each example's own key, each step its own, in their order."""
    key = jax.random.key(9)
    found = augmented(classification(), *STEPS).inputs(key, BATCH)
    own = jax.random.split(key)[0]
    for place, image in enumerate(SCALED):
        keys = [jax.random.fold_in(jax.random.fold_in(own, place), number) for number in range(4)]
        turned = image[:, ::-1] if jax.random.bernoulli(keys[0]) else image
        row, column = np.asarray(jax.random.randint(keys[1], (2,), 0, 5))
        window = np.pad(turned, ((2, 2), (2, 2), (0, 0)))[row : row + 5, column : column + 7]
        whole = (window - np.float32(MEAN)) / np.float32(STD)
        center = np.asarray(jax.random.randint(keys[3], (2,), 0, jnp.asarray([5, 7])))
        whole[max(center[0] - 1, 0) : center[0] + 2, max(center[1] - 1, 0) : center[1] + 2] = 0
        np.testing.assert_allclose(found[place], whole, rtol=1e-5, atol=1e-6)


def test_one_inside_another_draws_anew():
    brighter = augmented(classification(), lambda key, image: image + jax.random.uniform(key))
    back = augmented(brighter, lambda key, image: image - jax.random.uniform(key))
    assert (np.abs(back.inputs(jax.random.key(0), BATCH) - SCALED) > 1e-3).all()


def test_a_function_of_ones_own_is_a_step():
    darker = lambda key, image: image * jax.random.uniform(key)  # noqa: E731
    task = augmented(classification(), darker, Fixed(lambda image: 1 - image))
    np.testing.assert_allclose(task.inputs(None, BATCH), 1 - SCALED, rtol=1e-6)
    found = np.asarray(task.inputs(jax.random.key(0), BATCH))
    assert ((1 - found).max((1, 2, 3)) < SCALED.max((1, 2, 3))).all()


def test_statistics_are_those_of_the_pixels():
    images = RNG.integers(0, 256, (2345, 4, 3, 2)).astype(np.uint8)
    images[..., 1] //= 3
    mean, std = augmentation.statistics(images)
    whole = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, whole.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, whole.std((0, 1, 2)), rtol=1e-9)
    with pytest.raises(ValueError, match="channel 1 has one value everywhere"):
        augmentation.statistics(np.stack([images[..., 0], np.full(images.shape[:3], 7, np.uint8)], -1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: crop(0), "crop: 0: expected at least 1"),
        (lambda: crop(1.5), "expected a whole number"),
        (lambda: cutout(1001), "expected at most 1,000 pixels"),
        (lambda: normalize((0.5,), (0.0,)), "standard deviations above 0"),
        (lambda: normalize((np.nan,), (1.0,)), "expected finite numbers"),
        (lambda: augmentation.named("flop"), "flop: expected flip, crop:PIXELS, cutout:PIXELS"),
        (lambda: augmentation.named("crop:²"), "expected flip"),
        (lambda: augmentation.named("flip:2"), "expected flip"),
    ],
)
def test_what_is_no_step_is_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    one_line(error)


def test_inputs_that_are_no_images_are_refused():
    flat = (jnp.ones((20, 5)), jnp.arange(20) % 4)
    with pytest.raises(ValueError, match=r"float32\[1,5\]: augmentation takes images") as error:
        lth_jax.find_tickets(
            lth_jax.MLP((4,), 4), optax.sgd(0.1), flat, flat, (1,), 1, 1, 10,
            task=augmented(classification(), flip),
        )  # fmt: skip
    one_line(error)


def test_a_seed_alone_sees_the_images_that_it_sees_beside_others():
    """The images are the same bits, however many runs are vectorised."""
    digits, task = make_digits(), augmented(classification(), flip, crop(1), cutout(2))
    batch = jax.tree.map(lambda leaf: leaf[:20], digits)

    def images(seed, batch):
        key = lth_jax.stream(seed, "model", 0)
        keys = jax.vmap(lambda step: jax.random.fold_in(key, step))(jnp.arange(3))
        return jax.lax.map(lambda key: task.inputs(key, batch), keys)

    both = axis.map_runs(images, chunk=2)(jnp.asarray([7, 8, 9, 10]), batch)
    alone = axis.map_runs(images, chunk=1)(jnp.asarray([9]), batch)
    np.testing.assert_array_equal(alone[0], both[2])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits and somebody's functions."""
    folder = make_place(tmp_path_factory.mktemp("augmentation"))
    (folder / "somebodys_steps.py").write_text(
        "def darker(key, image):\n    return image / 2\n\ndef gone(key, image):\n    return image[1:]\n"
    )
    return folder


SWEEP = ["sweep", "--model", "mlp", "--hidden", "4", "--levels", "2", "--seeds", "7", *TINY]


def test_flags_are_the_task_that_they_say(place, call):
    flags = ["--augment", "cutout:5,flip,somebodys_steps:darker,crop:2", "--normalize", "--validation", "20"]
    call(*SWEEP, *flags, "--out", "flags")
    found = xr.load_dataset(place / "flags" / "results.nc")
    held = data.split_validation(data.load("mnist", place / "DIGITS"), 20)
    mean, std = augmentation.statistics(held.train_images)
    assert json.loads(found.attrs["normalization"]) == {"mean": mean.tolist(), "std": std.tolist()}
    steps = [flip, lambda key, image: image / 2, crop(2), normalize(mean, std), cutout(5)]
    train = Split(jnp.asarray(held.train_images), jnp.asarray(held.train_labels))
    test = training.splits(data.load("mnist", place / "DIGITS"))[1]
    expected = lth_jax.find_tickets(
        lth_jax.MLP((4,)), optax.adam(1.2e-3), train, test, (7,), 2, 1, 20,
        task=augmented(classification(), *steps),
    ).results  # fmt: skip
    for name in ("test_loss", "train_loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    call("export", "flags", "--seed", "7", "--level", "1")
    card = json.loads((place / "flags" / "tickets" / "seed-7-level-1.safetensors.json").read_text())
    assert card["normalization"]["mean"] == mean.tolist()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--augment flop", "--augment flop: expected flip, crop:PIXELS, cutout:PIXELS"),
        ("--augment flip,crop:0", "--augment crop: 0: expected at least 1"),
        ("--augment crop:x", "--augment crop:x: expected flip"),
        ("--augment flip,,crop:1", "an entry is empty"),
        ("--augment nothing:here", "--augment nothing:here: cannot be made: ModuleNotFoundError"),
        ("--augment somebodys_steps:gone", "it gives float32[27,28,1] for an image float32[28,28,1]"),
        ("--normalize maybe", "--normalize maybe: expected true or false"),
    ],
)
def test_wrong_flags_are_one_line(refused, flags, told):
    assert told in refused(*SWEEP, *flags.split(), "--out", "never")


def test_images_of_one_colour_cannot_be_normalized():
    black = np.zeros((3, 4, 4, 1), np.uint8)
    with pytest.raises(ValueError, match="--normalize: channel 0 has one value everywhere"):
        inputs.make_task((), True, black)


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [
        ((5, 7, 1), np.float32, "normalize: 3 means and 3 standard deviations, 1 channels"),
        ((5, 7, 4), np.float32, "normalize: 3 means and 3 standard deviations, 4 channels"),
        ((5, 7, 3), np.uint8, "normalize: the image is uint8, expected floating point"),
    ],
)
def test_a_normalization_of_other_images_is_refused(shape, dtype, told):
    with pytest.raises(ValueError, match=told):
        normalize(MEAN, STD).change(np.zeros(shape, dtype))
    assert normalize((0.5,), (0.5,)).change(IMAGE).shape == IMAGE.shape
