"""Whole sweeps under hypothesis: whatever module, optimizer, sizes and controls, what must hold does."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lth_jax
from lth_jax.errors import InputError

RNG = np.random.default_rng(1)
DATA = (RNG.normal(size=(12, 5)).astype(np.float32), RNG.integers(0, 3, 12).astype(np.int32))


class Net(nn.Module):
    widths: tuple = (4,)
    norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        for width in self.widths:
            x = nn.Dense(width)(x)
            if self.norm:
                x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(3)(x)


OPTIMIZERS = {
    "adam": lambda: optax.adam(0.01),
    "momentum": lambda: optax.sgd(0.1, 0.9),
    "decay": lambda: optax.adamw(0.01, weight_decay=0.5),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.rmsprop(0.01)),
}
MODULES = st.builds(
    Net,
    widths=st.lists(st.integers(2, 6), max_size=2).map(tuple),
    norm=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
)
SWEEPS = st.fixed_dictionaries(
    {
        "levels": st.integers(1, 3),
        "rate": st.sampled_from([0.1, 0.33, 0.5]),
        "scope": st.sampled_from(["layer", "global"]),
        "one_shot": st.booleans(),
        "rewind": st.sampled_from([0, 1, "none", "lr:1"]),
        "rewind_optimizer": st.sampled_from(["fresh", "carried"]),
        "controls": st.lists(
            st.sampled_from(["reinit", "shuffle", "rearrange", "random_mask"]), unique=True, max_size=2
        ),
        "batch_size": st.sampled_from([3, 6]),
        "eval_every": st.sampled_from([0, 1]),
        "sparse_kernels": st.sampled_from(["auto", "off"]),
    }
)
COUNT = {"cases": 0}


def search(module, optimizer, seeds, options):
    return lth_jax.find_tickets(
        module, OPTIMIZERS[optimizer](), DATA, DATA, seeds=seeds, epochs=1, keep_weights=True, **options
    )


def assert_like(one, other, exactly):
    compare = np.testing.assert_array_equal if exactly else _close
    jax.tree.map(compare, one.weights, other.weights)
    jax.tree.map(np.testing.assert_array_equal, one.masks, other.masks)


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(module=MODULES, optimizer=st.sampled_from(sorted(OPTIMIZERS)), options=SWEEPS)
def test_any_sweep_keeps_what_it_counts_and_each_seed_is_its_own(
    tmp_path_factory, module, optimizer, options
):
    """Exact counts, nested masks, zeros exactly 0; a seed alone and a search resumed are the same."""
    try:
        both = search(module, optimizer, (3, 4), options)
    except InputError as error:
        both, said = None, str(error)
    if both is None:
        assert said.isprintable()
        return
    COUNT["cases"] += 1
    kernels = list(both.results["layer"].values)
    flat = {
        "/".join(str(k.key) for k in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(both.masks)
    }
    total = both.results["weights"].values
    ticket = both.results.isel(network=0) if "network" in both.results.dims else both.results
    for place, name in enumerate(kernels):
        counts = flat[name].reshape(2, options["levels"], -1).sum(-1)  # [seed, level]
        np.testing.assert_array_equal(
            ticket["kept_weights"].transpose("seed", "level", "layer")[..., place], counts
        )
        if options["scope"] == "layer" and not options["one_shot"]:
            expected, rate = [int(total[place])], options["rate"]
            for _ in range(options["levels"] - 1):
                expected.append(expected[-1] - round(expected[-1] * rate))
            np.testing.assert_array_equal(counts, [expected, expected])
        assert (flat[name][:, 1:] <= flat[name][:, :-1]).all()  # nested
    weights = jax.tree.leaves(both.weights[0])  # [seed, level, network, ...]
    for leaf, mask in zip(weights, jax.tree.leaves(both.masks), strict=True):
        assert (np.asarray(leaf)[:, :, 0][~np.asarray(mask)] == 0).all()
    if COUNT["cases"] % 5 == 0:
        alone = search(module, optimizer, (4,), options)
        _close_trees(alone, jax.tree.map(lambda leaf: leaf[1:], (both.weights, both.masks)))
    if COUNT["cases"] % 5 == 1:
        folder = tmp_path_factory.mktemp("sweep") / "run"
        search(module, optimizer, (3, 4), options | {"folder": folder})
        again = search(module, optimizer, (3, 4), options | {"folder": folder})  # from its checkpoints
        assert_like(again, both, exactly=True)


def _close_trees(alone, second):
    jax.tree.map(_close, alone.weights, second[0])
    for one, other in zip(jax.tree.leaves(alone.masks), jax.tree.leaves(second[1]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_enough_of_these_sweeps_were_not_refused(tally):
    assert COUNT["cases"] >= 30  # most of what is drawn is refused
    tally("random sweeps", COUNT["cases"])
