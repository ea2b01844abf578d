"""Tasks: losses and metrics by hand, what is refused, tickets of other problems than labelled pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import one_line

import lth_jax
from lth_jax import tasks, training
from lth_jax.tasks import Task

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(200, 8)).astype(np.float32)
TARGETS = (2 * TABLE[:, 0] - TABLE[:, 1]).astype(np.float32)
CLASSES = (TABLE[:, 0] > 0).astype(np.int32)
LABELS = (TABLE[:, :3] > 0).astype(np.int32)
TOKENS = RNG.integers(1, 30, (200, 6)).astype(np.int32)
SMALL = {"seeds": (1, 2), "levels": 2, "epochs": 8, "batch_size": 20}


class Table(nn.Module):
    outputs: int = 1

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(16)(x)))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(nn.RNN(nn.OptimizedLSTMCell(12))(nn.Embed(30, 8)(tokens)))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens, train: bool = False):
        x = nn.Embed(30, 8)(tokens)
        x = nn.LayerNorm()(x + nn.MultiHeadDotProductAttention(2)(x, x, deterministic=not train))
        return nn.Dense(2)(x)


def find(module, data, task=None, **changes):
    return lth_jax.find_tickets(module, optax.adam(0.02), data, data, task=task, **{**SMALL, **changes})


def test_regression_learns_a_table_of_floats():
    found = find(Table(), (TABLE, TARGETS), tasks.regression(), controls=("reinit",))
    variance = float(np.var(TARGETS))
    assert float(found.results["test_loss"].sel(network="ticket").max()) < 0.1 * variance
    assert set(found.results.data_vars) >= {"test_absolute_error", "train_loss", "kept"}


def test_several_labels_at_once_are_learned():
    found = find(Table(3), (TABLE, LABELS), tasks.multilabel())
    assert float(found.results["test_accuracy"].min()) > 0.85
    assert (found.results["test_exact_match"] <= found.results["test_accuracy"]).all()


@pytest.mark.parametrize("module", [Recurrent(), Transformer()], ids=["LSTM", "Transformer"])
def test_tokens_get_a_label_each_and_padding_counts_nowhere(module):
    labels = np.where(TOKENS < 15, 0, 1).astype(np.int32)
    labels[:, -2:] = -1
    found = find(module, (TOKENS, labels))
    assert float(found.results["test_accuracy"].min()) > 0.9
    names = [str(name) for name in found.results["layer"].values]
    assert not any("embedding" in name for name in names), "embeddings are not pruned by default"


def test_a_task_of_ones_own_is_three_functions():
    data = {"age": TABLE[:, :1], "height": TABLE[:, 0] + 1}
    apart = lambda outputs, batch: jnp.abs(outputs[:, 0] - batch["height"])  # noqa: E731
    own = Task(lambda key, batch: batch["age"], apart, {"far": lambda o, b: apart(o, b) > 0.5})
    found = find(Table(), data, own)
    assert float(found.results["test_loss"].max()) < 0.3
    assert float(found.results["test_far"].max()) < 0.2


def test_augmentation_has_a_key_while_training_only():
    def inputs(key, batch):
        return batch[0] if key is None else batch[0] + jax.random.normal(key, batch[0].shape)

    noisy = tasks.classification()._replace(inputs=inputs)
    quiet, loud = (find(Table(2), (TABLE, CLASSES), task, epochs=1) for task in (None, noisy))
    assert not np.array_equal(quiet.results["test_loss"], loud.results["test_loss"])
    again = find(Table(2), (TABLE, CLASSES), noisy, epochs=1)
    np.testing.assert_array_equal(again.results["test_loss"], loud.results["test_loss"])


def test_classification_by_hand():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    batch = (jnp.zeros((2, 1)), jnp.array([0, 0]))
    chances = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(1, keepdims=True)
    expected = -np.log(chances[:, 0])
    plain = tasks.classification()
    np.testing.assert_allclose(plain.loss(logits, batch), expected, rtol=1e-6)
    np.testing.assert_array_equal(plain.metrics["accuracy"](logits, batch), [True, False])
    weighted = tasks.classification(class_weights=(3.0, 1.0))
    np.testing.assert_allclose(weighted.loss(logits, batch), 3 * expected, rtol=1e-6)
    smooth = -(0.9 * np.log(chances[:, 0]) + 0.05 * np.log(chances).sum(1))
    found = tasks.classification(label_smoothing=0.1).loss(logits, batch)
    np.testing.assert_allclose(found, smooth, rtol=1e-6)


def test_regression_and_multilabel_by_hand():
    batch = (jnp.zeros((2, 1)), jnp.array([[1.0, 2.0], [0.0, 0.0]]))
    outputs = jnp.array([[1.0, 0.0], [3.0, 1.0]])
    found = tasks.regression()
    np.testing.assert_allclose(found.loss(outputs, batch), [2.0, 5.0])
    np.testing.assert_allclose(found.metrics["absolute_error"](outputs, batch), [1.0, 2.0])
    several, batch = tasks.multilabel(), (jnp.zeros((2, 1)), jnp.array([[1, 0], [1, 1]]))
    losses = np.log1p(np.exp([[-1.0, 0.0], [-3.0, -1.0]])).mean(1)
    np.testing.assert_allclose(several.loss(outputs, batch), losses, rtol=1e-6)
    np.testing.assert_array_equal(several.metrics["exact_match"](outputs, batch), [True, True])


def test_half_precision_losses_are_summed_in_float32():
    big = jnp.full((40_000, 1), 3.0, jnp.float16)
    network = lth_jax.Network(lambda key, x: ({"w": jnp.ones(1)}, {}), lambda p, c, x, key: (x, c))
    state = lth_jax.TrainState({"w": jnp.ones(1)}, {}, ())
    zeros = jnp.zeros((40_000, 1), jnp.float16)
    found = training.evaluate(state, (big, zeros), network, tasks.regression())
    np.testing.assert_allclose(found["loss"], 9.0)


REFUSED = [
    ("three leaves", (TABLE, CLASSES, CLASSES), None, "expected a pair: inputs and targets"),
    ("lengths", (TABLE, CLASSES[:-1]), None, "expected arrays of one length"),
    ("raw pixels", (np.full((200, 2, 2, 1), 255, np.float32), CLASSES), None, "scale them, or give uint8"),
    ("NaN", (TABLE * np.nan, CLASSES), None, "NaN or infinite"),
    ("labels from 1", (TABLE, CLASSES + 1), None, "labels that start at 1 want one taken off"),
    ("negative labels", (TABLE, CLASSES - 1), None, "labels are -1 … 0"),
    ("float labels", (TABLE, TARGETS), None, "expected integers"),
    ("class weights", (TABLE, CLASSES), tasks.classification(class_weights=(1, 2, 3)), "3 class weights"),
    ("int targets", (TABLE, CLASSES), tasks.regression(), "expected floats"),
    ("targets' shape", (TABLE, TABLE), tasks.regression(), "its targets are"),
    ("labels of 2", (TABLE, LABELS + 1), tasks.multilabel(), "expected 0 or 1"),
    ("another number of labels", (TABLE, LABELS), tasks.multilabel(), "3 labels, but the network gives"),
]


@pytest.mark.parametrize(("name", "data", "task", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_a_task_cannot_be_learned_from_is_one_line(name, data, task, message):
    with pytest.raises(ValueError, match=message) as error:
        find(Table(2), data, task)
    one_line(error)


def test_a_loss_that_is_no_number_an_example_is_refused():
    mean = Task(lambda key, batch: batch[0], lambda outputs, batch: jnp.mean(outputs), {})
    with pytest.raises(ValueError, match=r"the task's loss gives float32\[\] for 1 example"):
        find(Table(2), (TABLE, CLASSES), mean)


def test_label_smoothing_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="label_smoothing 1"):
        tasks.classification(label_smoothing=1.0)
