"""What the sweep's flags and files mean: optimizers, and files that say what flags say."""

import dataclasses
import signal
import time
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_digits, one_line

from lth_jax import commands, compression, search
from lth_jax.commands import build, flags, settings, sweep
from lth_jax.errors import InputError
from lth_jax.runs import signals
from lth_jax.tickets import rewinding


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"optimizer": "sgd"}, [-0.1 * 3, -0.1 * 3]),
        ({"optimizer": "sgd", "weight_decay": 0.5}, [-0.1 * 4, -0.1 * 4]),
        ({"optimizer": "momentum", "momentum": 0.5}, [-0.1 * 3, -0.1 * 4.5]),
        ({"optimizer": "nesterov", "momentum": 0.5}, [-0.1 * 4.5, -0.1 * 5.25]),
        ({"optimizer": "sgd", "schedule": "warmup", "warmup_steps": 2}, [0, -0.05 * 3, -0.1 * 3, -0.1 * 3]),
        ({"optimizer": "sgd", "schedule": "cosine"}, [-0.3, -0.3 * 0.853553, -0.15, -0.3 * 0.146447, 0]),
        ({"optimizer": "sgd", "schedule": "cosine", "warmup_steps": 2}, [0, -0.15, -0.3, -0.15, 0]),
        (
            {"optimizer": "sgd", "schedule": "piecewise", "boundaries": ("1", "3")},
            [-0.3, -0.03, -0.03, -0.003],
        ),
        (
            {"optimizer": "sgd", "schedule": "piecewise", "boundaries": ("1e",), "decay": 0.5, "epochs": 2},
            [-0.3, -0.3, -0.15, -0.15],
        ),
        (
            {"optimizer": "sgd", "schedule": "piecewise", "boundaries": ("3",), "warmup_steps": 2},
            [0, -0.15, -0.3, -0.03],
        ),
        ({"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.5}, [-0.1 * 4, -0.1 * 6]),
        (
            {"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.5, "decoupled": True},
            [-0.1 * (3 + 1), -0.1 * (4.5 + 1)],
        ),
        ({"optimizer": "adam", "weight_decay": 0.5, "decoupled": True}, [-0.1 - 0.1 * 0.5 * 2] * 2),
        (
            {"optimizer": "sgd", "weight_decay": 0.5, "decoupled": True, "schedule": "cosine"},
            [-0.4, -0.4 * 0.853553],
        ),
        ({"optimizer": "adam"}, [-0.1, -0.1]),
        ({"optimizer": "adamw", "weight_decay": 0.5}, [-0.1 - 0.1 * 0.5 * 2] * 2),
    ],
)
def test_an_optimizer_does_what_its_flags_say(flags, expected):
    """Updates of the weight 2 under the gradient 3, at a rate of 0.1, in a level of 4 steps."""
    optimizer = build.make_optimizer(settings.Config(learning_rate=0.1, **flags), 4)
    state, found = optimizer.init(jnp.float32(2)), []
    for _ in expected:
        with jax.numpy_dtype_promotion("standard"):  # which Optax needs
            update, state = optimizer.update(jnp.float32(3), state, jnp.float32(2))
        found.append(float(update))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("flags", [{}, {"decoupled": True}, {"optimizer": "adamw"}])
def test_only_kernels_decay_where_that_is_asked_for(flags):
    """Gradients are 0: what moves is what decays. A kernel may be held as a vector."""
    chosen = settings.Config(**{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.5, **flags})
    params = {
        "conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        "held": {"kernel": jnp.ones(3)},
    }
    for only in ("all", "kernels"):
        optimizer = build.make_optimizer(dataclasses.replace(chosen, decay_only=only), 3)
        with jax.numpy_dtype_promotion("standard"):
            zeros = jax.tree.map(jnp.zeros_like, params)
            update, _ = optimizer.update(zeros, optimizer.init(params), params)
        for path, leaf in jax.tree.leaves_with_path(update):
            moves = only == "all" or path[-1].key == "kernel"
            np.testing.assert_allclose(leaf, -0.05 if moves else 0, rtol=1e-5)
        shapes = {"a": {"kernel": jnp.zeros((6, 5)), "bias": jnp.zeros(5)}}
        assert compression.separable(optimizer, shapes, [False, True]), "levels may be held compressed"


@pytest.mark.parametrize("flags", [{}, {"decoupled": True, "weight_decay": 1e-9}])
def test_a_piecewise_schedule_goes_on_at_the_step_that_is_rewound_to(flags):
    chosen = settings.Config(
        optimizer="sgd", learning_rate=0.1, schedule="piecewise", boundaries=("2",), warmup_steps=2, **flags
    )
    optimizer, found = build.make_optimizer(chosen, 6), []
    state = rewinding.schedule_at(optimizer.init(jnp.float32(2)), 1)
    for _ in range(3):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(jnp.float32(3), state, jnp.float32(2))
        found.append(float(update))
    np.testing.assert_allclose(found, [-0.15, -0.03, -0.03], rtol=1e-5)


def test_a_file_says_what_flags_say(tmp_path, monkeypatch):
    text = (
        'hidden = [300, 100]\nseeds = [42, 43]\nlayer-rates = {output = 0.1, hidden_0 = 0.3}\nmodel = "mlp"'
    )
    (tmp_path / "same.toml").write_text(text + "\nlearning_rate = 1e-2\nrewind = 500\nchunk = 2\n")
    monkeypatch.chdir(tmp_path)
    assert tomllib.loads(text)["seeds"] == [42, 43]
    flags = "--hidden 300,100 --seeds 42-43 --layer-rates output=0.1,hidden_0=0.3 --model mlp"
    flags += " --learning-rate 0.01 --rewind 500 --chunk 2"
    parser = commands.build_parser()
    by_file, by_flags = (
        sweep.configure(parser.parse_args(["sweep", *words]))
        for words in (["--config", "same.toml"], flags.split())
    )
    assert by_file == by_flags
    assert by_flags[0].hidden == (300, 100)


def test_training_to_the_step_to_rewind_to_hears_a_signal():
    """Asked to stop while it trains, it has the level's grace, and does not end as if nothing had come."""
    digits = make_digits()
    chosen = settings.Config(model="mlp", hidden=(4,), epochs=1, batch_size=20, levels=2, rewind="3")
    model = build.make_model(chosen, digits.images.shape[1:], 4)
    found = build.make_search(chosen, model, len(digits.labels))
    assert search.start_runs(found, (1, 2), digits).seed.tolist() == [1, 2]
    with signals.defer_signals() as request:
        request.number, request.deadline = signal.SIGTERM, time.monotonic() + signals.GRACE
        with pytest.raises(signals.Stopped):
            search.start_runs(found, (1, 2), digits)
        request.number = None  # it has been heard


def test_a_number_of_too_many_digits_is_one_line(tmp_path):
    (tmp_path / "long.toml").write_text(f"epochs = 0x{'f' * 4000}")
    with pytest.raises(InputError, match=r"--config .*long.toml: epochs: Exceeds the limit") as error:
        flags.from_toml(tmp_path / "long.toml", settings.Config)
    assert len(one_line(error)) < 400


def test_seeds_are_counted_over_all_ranges():
    assert len(flags.parse_seeds("0-49999,50000-99999")) == 100_000
    for text in ("0-49999,50000-100000", "0-99999,100000"):
        with pytest.raises(InputError, match="at most 100,000 seeds"):
            flags.parse_seeds(text)
