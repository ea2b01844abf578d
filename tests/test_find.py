"""Tickets of a model that is not ours: a small convolutional net with batch normalisation and dropout."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import lth_jax
from lth_jax import initializers, tasks, training
from lth_jax.errors import InputError
from lth_jax.tasks import to_float
from lth_jax.tickets import masks


class Theirs(nn.Module):
    """A stranger's network."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(4, (3, 3), use_bias=False, name="stem")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(4, name="head")(x)


@pytest.fixture(scope="module")
def found():
    from conftest import make_digits

    digits = make_digits()
    return digits, lth_jax.find_tickets(
        Theirs(), optax.adamw(0.01), digits, digits, seeds=(3, 4, 5), levels=3, epochs=6, batch_size=20
    )


def test_results_are_labelled(found):
    _, tickets = found
    assert dict(tickets.results.sizes) == {"seed": 3, "level": 3, "layer": 2}
    assert tickets.results["test_accuracy"].dims == ("seed", "level")
    # stem 3·3·1·4 = 36, head 64·4 = 256; 36 → 29 → 23, 256 → 205 → 164.
    np.testing.assert_allclose(tickets.results["kept"][0], [1, 234 / 292, 187 / 292], rtol=1e-6)
    assert float(tickets.results["test_accuracy"].min()) > 0.9


def test_a_ticket_is_the_initial_weights_at_its_mask(found):
    digits, tickets = found
    params, mask = tickets.ticket(seed=4, level=2)
    own = Theirs().init(lth_jax.stream(4, "init"), to_float(digits.images[:1]))["params"]
    jax.tree.map(np.testing.assert_array_equal, params, masks.apply(mask, own))
    assert int(mask["head"]["kernel"].sum()) == 164
    assert bool(mask["BatchNorm_0"]["scale"].all())


def test_a_scheme_may_replace_the_modules_own_draw(found):
    digits, _ = found
    scheme, module = initializers.get("xavier_uniform_half"), lth_jax.MLP((6,), classes=4)
    tickets = lth_jax.find_tickets(module, optax.sgd(0.1), digits, digits, (1,), 1, 1, 50, initializer=scheme)
    bound = 0.5 * np.sqrt(6 / (16 + 6))
    assert 0.8 * bound < jnp.abs(tickets.start["hidden_0"]["kernel"]).max() <= bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": "galaxy"}, "unknown scope 'galaxy'"),
        ({"rate": 1.5}, "pruning rate 1.5 of 'rate' is outside 0.0001 … 0.9999"),
        ({"rate": 0.00001}, "outside 0.0001"),
        ({"rate": 0.9, "levels": 4}, "stem/kernel would have none of its 36 weights left at level 2"),
        ({"rate": 0.9, "levels": 5, "scope": "global"}, "all layers would have none of its 292 weights"),
        ({"batch_size": 500}, "batch_size 500: larger than the 200 training examples"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"levels": 0}, "levels 0: expected at least 1"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (2**31,)}, "below 2³¹"),
        ({"layers": {"neck": 0.1}}, "no layer called neck"),
        ({"prunable": lambda path, leaf: False}, "no prunable parameter"),
    ],
)
def test_impossible_requests_are_named(found, change, message):
    digits, _ = found
    with pytest.raises(ValueError, match=message):
        lth_jax.find_tickets(Theirs(), optax.sgd(0.1), digits, digits, **change)


class Pair(nn.Module):
    @nn.compact
    def __call__(self, images):
        logits = nn.Dense(4)(images.reshape(len(images), -1))
        return logits, logits


class Map(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(4)(images)


class Nothing(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images.reshape(len(images), -1)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Pair(), "the network gives a tuple, expected logits"),
        (Map(), r"the network gives float32\[1,4,4,4\], expected logits"),
        (Nothing(), "no prunable parameter"),
    ],
)
def test_modules_that_give_no_logits_are_named(found, monkeypatch, module, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it: its error came first
    digits, _ = found
    with pytest.raises(ValueError, match=message):
        lth_jax.find_tickets(module, optax.sgd(0.1), digits, digits, (1,), 1, 1, 50)


@pytest.mark.parametrize(
    ("seed", "level", "message"),
    [(9, 0, "seed 9: expected one of 3, 4, 5"), (3, 3, "0 to 2"), (3, -1, "0 to 2")],
)
def test_a_ticket_that_is_not_there_is_named(found, seed, level, message):
    with pytest.raises(ValueError, match=message):
        found[1].ticket(seed, level)


def test_data_may_be_numpy_arrays(digits):
    find = lambda data: lth_jax.find_tickets(  # noqa: E731
        lth_jax.MLP((6,), classes=4), optax.sgd(0.1), data, data, (1,), 2, 1, 50
    )
    assert find(jax.tree.map(np.asarray, digits)).results.identical(find(digits).results)


def test_a_control_that_is_named_twice_is_refused(digits):
    with pytest.raises(ValueError, match="twice"):
        lth_jax.find_tickets(
            lth_jax.MLP((6,), classes=4), optax.sgd(0.1), digits, digits, (1,), 1, 1, 50,
            controls=("reinit", "reinit"),
        )  # fmt: skip


def test_a_density_spares_a_layer_whose_own_is_1(digits):
    tickets = lth_jax.find_tickets(
        lth_jax.MLP((6,), classes=4), optax.sgd(0.1), digits, digits, (1,), 2, 1, 50,
        density=0.5, layers={"output": 1.0},
    )  # fmt: skip
    np.testing.assert_array_equal(tickets.results["kept_weights"], [[[96, 24], [48, 24]]])


def test_a_run_that_diverges_is_marked_and_in_no_mean(found):
    digits, _ = found
    module, wild = lth_jax.MLP((6,), classes=4), optax.sgd(1e30)
    tickets = lth_jax.find_tickets(module, wild, digits, digits, (1, 2), 2, 1, 50)
    assert tickets.results["diverged"].all()
    assert tickets.results["test_accuracy"].isnull().all()
    assert not found[1].results["diverged"].any()


# All at once


CONTROLS = ("reinit", "shuffle", "random_mask")
STEPS, BACK = 16, 3
"""Steps of a level, and the one that is rewound to."""


@pytest.fixture(scope="module")
def everything():
    """Training, held-out and test examples, and one call that asks for everything."""
    from conftest import make_digits

    digits = make_digits()
    train, held = (jax.tree.map(lambda leaf, s=s: leaf[s], digits) for s in (slice(160), slice(160, None)))
    return train, held, digits, lth_jax.find_tickets(
        Theirs(), optax.adamw(0.01), train, digits, seeds=(3, 4), levels=3, epochs=2, batch_size=20,
        rate=[0.2, 0.5], scope="global", rewind=BACK, controls=CONTROLS, eval_every=4, validation=held,
        keep_weights=True,
    )  # fmt: skip


def test_three_controls_stand_beside_the_ticket_at_every_level(everything):
    *_, tickets = everything
    found = tickets.results
    assert found["network"].values.tolist() == ["ticket", *CONTROLS]
    assert found["test_accuracy"].dims == ("network", "seed", "level")
    assert np.isfinite(found["test_loss"]).all()
    for name in ("kept", "kept_weights"):
        total = found[name] if name == "kept" else found[name].sum("layer")
        assert (total == total.sel(network="ticket")).all(), "a control is as large as its ticket"
    dense, pruned = found["test_loss"].sel(level=0), found["test_loss"].isel(level=slice(1, None))
    np.testing.assert_allclose(dense.sel(network="random_mask"), dense.sel(network="ticket"), rtol=1e-5)
    others = pruned.sel(network=list(CONTROLS))
    assert (others != pruned.sel(network="ticket")).all()


def test_a_global_ranking_keeps_the_largest_trained_weights_of_all(everything):
    *_, tickets = everything
    np.testing.assert_array_equal(
        tickets.results["kept_weights"].sum("layer").sel(network="ticket"), [[292, 234, 117]] * 2
    )
    for seed in (3, 4):
        kept = np.ones(292, bool)
        for level, count in ((1, 234), (2, 117)):
            params = tickets.trained(seed, level - 1).params
            size = np.concatenate([np.abs(params[n]["kernel"]).ravel() for n in ("head", "stem")])
            kept = np.where(kept, size, -1) >= np.sort(np.where(kept, size, -1))[-count]
            _, mask = tickets.ticket(seed, level)
            found = np.concatenate([np.ravel(mask[n]["kernel"]) for n in ("head", "stem")])
            np.testing.assert_array_equal(found, kept)


def test_tickets_start_where_the_dense_network_was_after_some_steps(everything):
    train, _, _, tickets = everything
    network = lth_jax.from_flax(Theirs())
    recipe = lth_jax.Recipe(network, optax.adamw(0.01), 20, STEPS)
    start, dense = tickets.ticket(4, 0)
    collections = jax.tree.map(lambda leaf: leaf[1], tickets.collections)
    state = training.init_state(recipe, start, collections, dense)
    order, noise = lth_jax.stream(4, "order", 0), lth_jax.stream(4, "model", 0)
    state, _ = jax.jit(
        lambda state: training.train(order, state, dense, train, recipe, model_key=noise, steps=BACK)
    )(state)
    for level in (1, 2):
        params, mask = tickets.ticket(4, level)
        expected = masks.apply(mask, state.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, expected)
    assert np.abs(params["head"]["bias"]).min() > 0, "it is 0 before training"


def test_curves_end_at_the_recorded_numbers_and_say_when_to_stop(everything):
    found = everything[-1].results
    assert found["iteration"].values.tolist() == [7, 11, 15, 16], "every 4 from the 3rd, and the last"
    for name in ("test_loss", "test_accuracy", "validation_loss", "validation_accuracy"):
        curve = found[f"{name}_curve"]
        assert curve.dims == ("network", "seed", "level", "iteration")
        np.testing.assert_array_equal(curve.isel(iteration=-1), found[name])
    at = found["validation_loss_curve"].values.argmin(-1)
    np.testing.assert_array_equal(found["early_stop_iteration"], np.array([7, 11, 15, 16])[at])
    curve = found["test_accuracy_curve"].values
    there = np.take_along_axis(curve, at[..., None], -1)[..., 0]
    np.testing.assert_array_equal(found["early_stop_test_accuracy"], there)


def test_trained_weights_evaluate_again_to_what_was_recorded(everything):
    _, held, digits, tickets = everything
    network = lth_jax.from_flax(Theirs())
    measure = jax.jit(lambda state, split: training.evaluate(state, split, network))
    for name in ("ticket", *CONTROLS):
        for level in range(3):
            trained = tickets.trained(4, level, name)
            at = tickets.results.sel(network=name, seed=4, level=level)
            for split, examples in {"test": digits, "validation": held}.items():
                again = measure(trained, examples)
                assert again["accuracy"] == pytest.approx(float(at[f"{split}_accuracy"]), abs=0.006), name
                assert again["loss"] == pytest.approx(float(at[f"{split}_loss"]), rel=1e-4), name
    mask = tickets.ticket(4, 2)[1]
    params = tickets.trained(4, 2).params
    jax.tree.map(np.testing.assert_array_equal, params, masks.apply(mask, params))


def test_weights_that_are_not_kept_are_named(everything, found):
    *_, tickets = everything
    with pytest.raises(ValueError, match="expected one of ticket, reinit, shuffle, random_mask"):
        tickets.trained(4, 2, "rearrange")
    with pytest.raises(ValueError, match="weights are kept of none; say keep_weights"):
        found[1].trained(3, 0)


def test_one_shot_reaches_a_density_exactly(found):
    digits, _ = found
    tickets = lth_jax.find_tickets(
        Theirs(), optax.adamw(0.01), digits, digits, (3,), 2, 1, 20, one_shot=True, density=0.05,
        keep_weights=[0],
    )  # fmt: skip
    np.testing.assert_array_equal(tickets.results["kept_weights"], [[[256, 36], [13, 2]]])
    size = np.abs(np.asarray(tickets.trained(3, 0).params["head"]["kernel"]))
    _, mask = tickets.ticket(3, 1)
    np.testing.assert_array_equal(mask["head"]["kernel"], size >= np.sort(size.ravel())[-13])


# In a folder


def in_a_folder(folder, digits, rate=0.1, **changes):
    given = {"data": digits, "test": digits, "seeds": (1, 2), "levels": 2, "epochs": 1, "batch_size": 50}
    module = lth_jax.MLP((6,), classes=4)
    return lth_jax.find_tickets(module, optax.sgd(rate), folder=folder, **{**given, **changes})


def test_a_finished_search_is_read_back_from_its_folder(digits, tmp_path, capsys):
    first = in_a_folder(tmp_path / "run", digits)
    assert "level 2/2" in capsys.readouterr().out
    again = in_a_folder(tmp_path / "run", digits)
    assert "resumed after level 2/2" in capsys.readouterr().out
    assert first.results.identical(again.results)
    jax.tree.map(np.testing.assert_array_equal, first.masks, again.masks)
    alone = in_a_folder(None, digits)
    assert capsys.readouterr().out == "", "without a folder nothing is printed"
    assert first.results.identical(alone.results)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate": 0.2}, "program"),
        ({"scope": "global"}, "program"),
        ({"layers": {"output": 0.1}}, "program"),
        ({"controls": ("reinit",)}, "program"),
        ({"rewind": 2}, "program"),
        ({"rewind": 1, "rewind_schedule": "restarted"}, "program"),
        ({"eval_every": 2}, "program"),
        ({"levels": 3}, "levels"),
        ({"seeds": (1, 3)}, "seeds"),
        ({"data": "other"}, "data"),
        ({"keep_weights": [1]}, ""),
        ({"observe": "other"}, ""),
    ],
    ids=lambda part: str(part),
)
def test_a_folder_of_another_search_is_refused(digits, tmp_path, changes, named):
    observed = (
        {"observe": {"size": lambda state: optax.tree.norm(state.params)}} if "observe" in changes else {}
    )
    in_a_folder(tmp_path / "run", digits, keep_weights=[0], **observed)
    if "data" in changes:
        changes = {"data": digits._replace(labels=digits.labels[::-1])}
    if "observe" in changes:
        changes = {"observe": {"size": lambda state: 2 * optax.tree.norm(state.params)}}
    before = sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match=f"holds another configuration's run.*{named}"):
        in_a_folder(tmp_path / "run", digits, **{"keep_weights": [0], **changes})
    assert sorted((str(p), p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize("two", [2, 2.0, np.int64(2), np.float32(2), jnp.float32(2)])
def test_a_number_that_is_whole_is_one_whatever_its_type(two, digits):
    module = lth_jax.MLP((4,), classes=4)
    found = lth_jax.find_tickets(module, optax.sgd(0.1), digits, digits, (1,), two, two, 50.0)
    assert found.results.sizes["level"] == 2


@pytest.mark.parametrize("name", ["levels", "epochs", "batch_size", "eval_every", "score_batch"])
@pytest.mark.parametrize("value", [2.5, np.float32(2.5), "two", (2,), float("nan")])
def test_a_number_that_is_not_whole_is_refused_by_name(name, value, digits):
    with pytest.raises(ValueError, match=f"{name} .*expected a whole number"):
        lth_jax.find_tickets(lth_jax.MLP((4,), classes=4), optax.sgd(0.1), digits, digits, **{name: value})


def leaves(*_):
    sys.exit(0)


class Leaving(nn.Module):
    """Ends the program when it is given more than so many images: 0 at its very beginning."""

    images: int

    @nn.compact
    def __call__(self, images):
        if len(images) > self.images:
            leaves()
        return nn.Dense(4)(images.reshape(len(images), -1))


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Leaving(0)}, "the model's parameters cannot be drawn: SystemExit: 0"),
        ({"model": Leaving(1)}, "SystemExit: 0"),
        ({"optimizer": optax.GradientTransformation(leaves, leaves)}, "the parameters: SystemExit: 0"),
        ({"task": tasks.classification()._replace(inputs=leaves)}, "inputs cannot be made: SystemExit: 0"),
        ({"task": tasks.classification()._replace(loss=leaves)}, "SystemExit: 0"),
    ],
)
def test_what_ends_the_program_is_named(digits, tmp_path, change, message, folder):
    given = {"model": lth_jax.MLP((6,), classes=4), "optimizer": optax.sgd(0.1), "batch_size": 50, **change}
    place = tmp_path / "search" if folder else None
    with pytest.raises(InputError, match=message):
        lth_jax.find_tickets(data=digits, test=digits, levels=1, epochs=1, folder=place, **given)
    assert not (tmp_path / "search").exists()
