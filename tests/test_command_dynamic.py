"""``lth-jax sweep --sparse-training``: every rule is a flag, tickets are exported as trained, wrong flags."""

import numpy as np
import pytest
from small_levels import LAYERS
from sweeps import TINY, make_place

import lth_jax
from lth_jax import commands
from lth_jax.analysis import ticket_files
from lth_jax.tickets.dynamic import RULES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits."""
    return make_place(tmp_path_factory.mktemp("dynamic"))


SMALL = ["--model", "mlp", "--hidden", "8", "--seeds", "42", "--levels", "1", *TINY]
START = ["--prune-at", "start", "--score", "random", "--budget", "erk", "--density", "0.1"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_a_flag(place, monkeypatch, rule):
    monkeypatch.chdir(place)
    flags = ["--sparse-training", rule, "--mask-every", "1", *START]
    commands.main(["sweep", *SMALL, *flags, "--keep-weights", "all", "--out", rule])
    kept = ticket_files.read_mask(place / rule / "tickets.npz", 42, 0)
    assert sum(kept[f"{layer}/kernel"].sum() for layer in LAYERS) == round(0.1 * 6352)
    commands.main(["sweep", *SMALL, *START, "--out", "static"])
    static = ticket_files.read_mask(place / "static" / "tickets.npz", 42, 0)
    assert any((kept[f"{layer}/kernel"] != static[f"{layer}/kernel"]).any() for layer in LAYERS)


def test_a_ticket_whose_mask_was_found_while_training_is_exported_as_trained(place, call):
    flags = ["--sparse-training", "rigl", "--mask-every", "1", *START, "--controls", "reinit"]
    call("sweep", *SMALL, *flags, "--keep-weights", "all", "--out", "taken")
    with pytest.raises(SystemExit) as stop:
        commands.main(["export", "taken", "--seed", "42", "--level", "0"])
    assert stop.value.code == 2
    for network in ("ticket", "reinit"):
        out = f"{network}.safetensors"
        call(
            "export", "taken", "--seed", "42", "--level", "0", "--trained", "--network", network, "--out", out
        )
        params, mask, _ = lth_jax.load_ticket(out)
        for layer in LAYERS:
            weights = np.asarray(params[layer]["kernel"])
            assert (weights[~np.asarray(mask[layer]["kernel"])] == 0).all()


def test_wrong_flags_are_named(refused):
    def line(*flags):
        return refused("sweep", *SMALL, *flags)

    assert "--sparse-training rigged: unknown" in line("--sparse-training", "rigged", *START)
    assert "say --prune-at start too" in line("--sparse-training", "rigl")
    assert "--mask-every 7: --sparse-training is static" in line("--mask-every", "7")
    assert "--mask-fraction 0.5: --sparse-training is gradual" in line(
        "--sparse-training", "gradual", "--mask-fraction", "0.5", *START
    )
    assert "every 100 iterations masks would change, the last time at 0" in line(
        "--sparse-training", "set", *START
    )
    assert "--children 2: --sparse-training is set" in line(
        "--sparse-training", "set", "--children", "2", *START
    )
