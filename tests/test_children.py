"""Copies of a ticket in other orders of the examples, and the lines between them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import make_digits
from test_find import Theirs

import lth_jax
from lth_jax import models, training
from lth_jax.analysis import connectivity
from lth_jax.errors import InputError
from lth_jax.keys import stream
from lth_jax.tasks import classification
from lth_jax.tickets import masks

DIGITS = make_digits()


def find(model=None, **options):
    options = {"seeds": (3, 4), "levels": 2, "epochs": 2, "batch_size": 20, "keep_weights": True} | options
    return lth_jax.find_tickets(
        model or lth_jax.MLP((6,), classes=4), optax.adam(0.02), DIGITS, DIGITS, **options
    )


@pytest.fixture(scope="module")
def found():
    return find(controls=("random_mask",), children=3, path_points=4)


def states(tickets, seed, level, *names):
    return [tickets.trained(seed, level, name) for name in names]


def test_every_network_has_its_copies(found):
    names = ["ticket", "random_mask", "ticket/2", "random_mask/2", "ticket/3", "random_mask/3"]
    assert found.results["network"].values.tolist() == names
    assert found.results["parent"].values.tolist() == ["ticket", "random_mask"]
    assert found.results["pair"].values.tolist() == ["1-2", "1-3", "2-3"]
    assert found.results["test_loss_path"].dims == ("seed", "level", "parent", "pair", "share")
    np.testing.assert_array_equal(found.results["share"], [0, 0.25, 0.5, 0.75, 1])


def test_copies_change_nothing_of_the_ticket(found):
    alone = find(controls=("random_mask",))
    for name in ("test_loss", "train_loss", "kept"):
        ours = found.results[name].sel(network=["ticket", "random_mask"])
        np.testing.assert_array_equal(ours, alone.results[name])
    jax.tree.map(np.testing.assert_array_equal, found.masks, alone.masks)


def test_a_copy_is_trained_in_its_own_order(found):
    """By hand: the ticket's start and mask, the order and the noise of the stream ``child``."""
    start, mask = found.ticket(4, 1)
    network = models.from_linen(lth_jax.MLP((6,), classes=4))
    recipe = training.Recipe(network, optax.adam(0.02), 20, 2 * (len(DIGITS.labels) // 20))
    data = jax.tree.map(jnp.asarray, DIGITS)
    state = training.init_state(recipe, start, {}, mask)
    theirs = stream(4, "child", 1, 2)
    order, noise = jax.random.fold_in(theirs, 0), jax.random.fold_in(theirs, 1)
    trained, _ = jax.jit(lambda: training.train(order, state, mask, data, recipe, model_key=noise))()
    (copy,) = states(found, 4, 1, "ticket/3")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained.params, copy.params)


def test_copies_differ_by_their_order_alone(found):
    one, other, third = states(found, 3, 1, "ticket", "ticket/2", "ticket/3")
    apart = [float(connectivity.distance(a.params, b.params, masks.ones_like(a.params))[0])
             for a, b in ((one, other), (one, third), (other, third))]  # fmt: skip
    assert min(apart) > 0.01


def test_the_line_is_the_one_between_the_kept_weights(found):
    network, task = models.from_linen(lth_jax.MLP((6,), classes=4)), classification()
    data = jax.tree.map(jnp.asarray, DIGITS)
    for parent, first, second, pair in (
        ("ticket", "ticket", "ticket/3", "1-3"),
        ("random_mask", "random_mask/2", "random_mask/3", "2-3"),
    ):
        one, other = states(found, 4, 1, first, second)
        at = found.results.sel(seed=4, level=1, parent=parent, pair=pair)
        middle = jax.tree.map(lambda a, b: (a + b) / 2, one.params, other.params)
        middle = training.evaluate(training.TrainState(middle, {}, ()), data, network, task)
        ends = [training.evaluate(each, data, network, task)["loss"] for each in (one, other)]
        line = at["test_loss_path"].values
        np.testing.assert_allclose(line[[0, 2, 4]], [ends[0], middle["loss"], ends[1]], rtol=1e-5)
        assert float(at["test_loss_barrier"]) == pytest.approx(line.max() - (line[0] + line[-1]) / 2)
        errors = 1 - at["test_accuracy_path"].values
        assert float(at["test_error_barrier"]) == pytest.approx(errors.max() - (errors[0] + errors[-1]) / 2)
        flat = [np.concatenate([np.ravel(s.params[layer]["kernel"]) for layer in ("hidden_0", "output")])
                for s in (one, other)]  # fmt: skip
        assert float(at["distance"]) == pytest.approx(np.linalg.norm(flat[0] - flat[1]), rel=1e-5)
        cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
        assert float(at["angle"]) == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-4)


def test_copies_go_on_from_step_k():
    """Up to the step that they are rewound to, copies are one network: the later, the nearer."""
    near = find(children=2, rewind=18, epochs=2, path_points=2).results["distance"]
    far = find(children=2, path_points=2).results["distance"]
    assert (near.sel(level=0) < 0.5 * far.sel(level=0)).all()


def test_statistics_on_the_line_are_mixed_or_recomputed():
    options = {"children": 2, "path_points": 2, "levels": 1, "seeds": (3,)}
    mixed, anew = (find(Theirs(), path_statistics=s, **options).results for s in connectivity.STATISTICS)
    np.testing.assert_array_equal(mixed["distance"], anew["distance"])
    assert not np.allclose(mixed["test_loss_path"], anew["test_loss_path"], rtol=1e-3)


def test_a_resumed_search_gives_what_an_undisturbed_one_gives(tmp_path):
    options = {"children": 2, "path_points": 3, "seeds": (3,)}
    whole = find(folder=tmp_path, **options).results
    again = find(folder=tmp_path, **options).results  # from the last checkpoint
    np.testing.assert_array_equal(whole["test_loss_path"], again["test_loss_path"])
    with pytest.raises(InputError, match="another configuration"):
        find(folder=tmp_path, **options | {"path_points": 4})


@pytest.mark.parametrize("wrong", [{"children": 1}, {"children": -1}, {"children": 2, "path_points": 0},
                                   {"children": 2, "path_statistics": "frozen"}])  # fmt: skip
def test_what_cannot_be_compared_is_refused(wrong):
    with pytest.raises(ValueError, match=r"children|path_points|path_statistics"):
        find(**wrong)
