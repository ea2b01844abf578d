"""Every optimizer of Optax and of its contrib: it trains a ticket, and what is pruned stays exactly 0."""

import inspect
import shutil
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import lth_jax
from lth_jax import levels

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(60, 6)).astype(np.float32)
DATA = (TABLE, (TABLE[:, 0] > 0).astype(np.int32))
NAMES = (
    "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan",
    "amsgrad", "fromage", "lamb", "lars", "lbfgs", "lion", "nadam", "nadamw", "novograd",
    "optimistic_adam_v2", "optimistic_gradient_descent", "polyak_sgd", "radam", "rmsprop", "rprop",
    "sgd", "sign_sgd", "signum", "sm3", "yogi",
)  # fmt: skip
CONTRIB = (
    "acprop", "ademamix", "adopt", "cocob", "dadapt_adamw", "dog", "dowg", "galore", "madgrad", "momo",
    "momo_adam", "muon", "prodigy", "schedule_free_adamw", "schedule_free_sgd", "simplified_ademamix",
    "sophia",
)  # fmt: skip


def made(name, module):
    """An optimizer with its learning rate, if it takes one."""
    make = getattr(module, name)
    first = next(iter(inspect.signature(make).parameters.values()))
    wants = first.name == "learning_rate" and (first.default is inspect.Parameter.empty or "sgd" in name)
    return make(0.01) if wants else make()


OPTIMIZERS = {name: lambda name=name: made(name, optax) for name in NAMES}
OPTIMIZERS |= {f"contrib.{name}": lambda name=name: made(name, optax.contrib) for name in CONTRIB}
OPTIMIZERS |= {
    "noisy_sgd": lambda: optax.noisy_sgd(0.01, key=jax.random.key(0)),
    "momentum and decay": lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01)),
    "several steps": lambda: optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "contrib.sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=False),
    "contrib.mechanize": lambda: optax.contrib.mechanize(optax.sgd(0.1)),
    "contrib.reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
}


PARTS = {
    "differentially_private_aggregate", "normalize", "reduce_on_plateau", "schedule_free",
    "split_real_and_imaginary",
}  # fmt: skip
"""Of contrib: what optimizers are made with, not optimizers by themselves."""


def makers(module):
    """The functions of a module that make an optimizer, by their names."""
    for name, make in inspect.getmembers(module, inspect.isfunction):
        signature = inspect.signature(make)
        if "GradientTransformation" in str(signature.return_annotation) and name[0] != "_":
            yield name, list(signature.parameters)


def test_no_optimizer_is_left_out():
    ours = {name.removeprefix("contrib.") for name in OPTIMIZERS}
    public = {name for name, parameters in makers(optax) if parameters[:1] == ["learning_rate"]}
    public = {name for name in public if not name.startswith("scale_by")}
    assert public - ours == {"optimistic_adam"}, "which is an older name of optimistic_adam_v2"
    contrib = {name for name, _ in makers(optax.contrib) if not name.startswith("scale_by")}
    assert contrib - ours - PARTS == {"dpsgd"}, "which wants the gradient of every example, see below"
    assert len(public) > 25
    assert len(contrib) > 15


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(4)(x)))


def find(optimizer, **changes):
    options = {"seeds": (1,), "levels": 2, "epochs": 1, "batch_size": 20, "keep_weights": [1], **changes}
    return lth_jax.find_tickets(Net(), optimizer, DATA, DATA, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_and_what_is_pruned_stays_exactly_zero(name):
    with jax.numpy_dtype_promotion("standard"):  # Optax's own
        found = find(OPTIMIZERS[name]())
    assert np.isfinite(found.results["test_loss"]).all()
    trained, (start, mask) = found.trained(1, 1).params, found.ticket(1, 1)
    moved = False
    for weight, begun, kept in zip(*map(jax.tree.leaves, (trained, start, mask)), strict=True):
        assert (np.asarray(weight)[~np.asarray(kept)] == 0).all()
        moved = moved or (np.asarray(weight) != np.asarray(begun)).any()
    assert moved


def test_lookahead_whose_parameters_are_of_its_own_type_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the optimizer \(LookaheadState.*\) refuses the parameters"):
        find(optax.lookahead(optax.sgd(0.1), 5, 0.5))


def test_one_that_wants_every_examples_gradient_is_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will want a key
        private = optax.contrib.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0)
    with pytest.raises(ValueError, match=r"the optimizer \(DifferentiallyPrivate.*\) refuses the parameters"):
        find(private)


def test_a_carried_state_with_a_key_in_it_survives_its_checkpoints(tmp_path):
    optimizer = optax.noisy_sgd(0.01, key=jax.random.key(0))
    options = {"rewind_optimizer": "carried", "levels": 3}
    whole = find(optimizer, **options)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    find(optimizer, **options, folder=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "3")  # as if it had been stopped after the second level
    resumed = find(optimizer, **options, folder=tmp_path / "run")
    np.testing.assert_array_equal(resumed.results["test_loss"], whole.results["test_loss"])


def test_the_keys_in_an_optimizers_state_are_each_runs_and_levels_own():
    optimizer, params = optax.noisy_sgd(0.01, key=jax.random.key(0)), {"w": jnp.zeros(3)}
    keys = [
        tuple(np.asarray(jax.random.key_data(leaf)).tolist())
        for seed in (1, 2)
        for level in (0, 1)
        for leaf in jax.tree.leaves(levels.init_optimizer(optimizer, params, seed, level))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or leaf.dtype == jnp.uint32
    ]
    assert len(set(keys)) == len(keys) >= 4


def test_schedule_free_is_evaluated_and_ranked_where_it_wants_to_be():
    with jax.numpy_dtype_promotion("standard"):
        optimizer = optax.contrib.schedule_free_sgd(0.1)
        found = find(optimizer, epochs=3)
    network = lth_jax.from_linen(Net())
    again = lth_jax.evaluate(found.trained(1, 1), DATA, network)
    np.testing.assert_allclose(again["loss"], found.results["test_loss"][0, 1], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"rewind_optimizer": "carried"}, {"rewind": 1}], ids=["carried", "rewound"]
)
def test_seeds_do_not_share_the_noise_of_an_optimizer_that_lives_on(options):
    """All seeds start from the same weights and a batch is the whole data set: only the noise can differ."""
    optimizer = optax.noisy_sgd(0.01, key=jax.random.key(0))
    same = lambda key, x: ({"layer": {"kernel": jnp.ones((6, 2))}}, {})  # noqa: E731
    apply = lambda params, collections, x, key: (x @ params["layer"]["kernel"], collections)  # noqa: E731
    found = lth_jax.find_tickets(
        (same, apply), optimizer, DATA, DATA, seeds=(1, 2), levels=2, epochs=2, batch_size=60,
        keep_weights=True, **options,
    )  # fmt: skip
    for level in (0, 1):
        one, other = (found.trained(seed, level).params["layer"]["kernel"] for seed in (1, 2))
        assert (np.abs(np.asarray(one - other)) > 1e-6).any()
