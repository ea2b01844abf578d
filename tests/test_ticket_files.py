"""Tickets on disk: where one starts, and weights that a seed does not give again."""

import jax.numpy as jnp
import numpy as np
import pytest

from lth_jax.analysis import ticket_files as files
from lth_jax.errors import InputError


def kept(places=("trained", "rewind_to")):
    """Two seeds, two levels, a kernel of 3 and a bias."""
    masks = np.packbits([[[1, 1, 1], [1, 1, 1]], [[1, 0, 1], [0, 1, 1]]], axis=-1)
    other = {
        "rewind_to": {"a/kernel": np.array([[7.0, 8, 9], [4, 5, 6]], "f"), "a/bias": np.zeros((2, 1), "f")},
        "trained": {
            "a/kernel": np.arange(12, dtype="f").reshape(2, 2, 3) + 20,
            "a/bias": np.ones((2, 2, 1), "f"),
        },
    }
    theta0 = {"a/kernel": np.array([[1.0, 2, 3], [4, 5, 6]], "f"), "a/bias": np.zeros((2, 1), "f")}
    chosen = {name: other[name] if name in places else {} for name in other}
    return files.Kept(masks={"a/kernel": masks}, theta0=theta0, **chosen)


def draw(seed, wrong=0.0):
    row = {4: [1.0, 2, 3], 5: [4.0, 5, 6]}[seed]
    return {"a/kernel": np.array(row, "f") + np.float32(wrong), "a/bias": np.zeros(1, "f")}


@pytest.mark.parametrize(
    ("places", "level", "expected"),
    [
        ((), 0, [4, 5, 6]),
        ((), 1, [0, 5, 6]),
        (("rewind_to",), 0, [4, 5, 6]),
        (("rewind_to",), 1, [0, 5, 6]),
        (("trained",), 0, [4, 5, 6]),
        (("trained",), 1, [0, 24, 25]),
    ],
)
def test_where_a_ticket_starts(tmp_path, places, level, expected):
    files.write(tmp_path / "tickets.npz", (4, 5), kept(places), draw)
    params, mask = files.read(tmp_path / "tickets.npz", 5, level, draw)
    np.testing.assert_array_equal(params["a/kernel"], expected)
    np.testing.assert_array_equal(mask["a/kernel"], [not level, True, True])
    np.testing.assert_array_equal(params["a/bias"], [float(level and places == ("trained",))])


def test_weights_that_a_seed_does_not_give_again_are_stored_or_refused(tmp_path):
    path = tmp_path / "tickets.npz"
    files.write(path, (4, 5), kept(()), lambda seed: draw(seed, wrong=1e-6))
    np.testing.assert_array_equal(files.read(path, 4, 1, draw)[0]["a/kernel"], [1, 0, 3])
    files.write(path, (4, 5), kept(()), draw)
    with pytest.raises(InputError, match="come out different here"):
        files.read(path, 4, 1, lambda seed: draw(seed, wrong=1e-6))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="is damaged"):
        files.read(path, 4, 1, draw)


@pytest.mark.parametrize(("level", "expected"), [(0, [4, 5, 6]), (1, [0, 24, 25])])
def test_bfloat16_comes_back_as_it_was(tmp_path, level, expected):
    def halved(leaves):
        return {name: leaf.astype(jnp.bfloat16) for name, leaf in leaves.items()}

    given = kept(("trained",))
    given = given._replace(theta0=halved(given.theta0), trained=halved(given.trained))
    files.write(tmp_path / "tickets.npz", (4, 5), given, lambda seed: halved(draw(seed, wrong=1.0)))
    params, mask = files.read(tmp_path / "tickets.npz", 5, level, lambda seed: {})
    files.save_ticket(tmp_path / "a.safetensors", params, mask, {})
    found = files.load_ticket(tmp_path / "a.safetensors").params["a"]["kernel"]
    assert params["a/kernel"].dtype == found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype("f"), expected)


def test_a_scalar_parameter_comes_back_as_one(tmp_path):
    params = {"temperature": np.array(2.5, np.float32), "kernel": np.ones((2, 3), np.float32).T}
    mask = {name: np.ones(leaf.shape, bool) for name, leaf in params.items()}
    files.save_ticket(tmp_path / "a.safetensors", params, mask, {})
    found, kept, _ = files.load_ticket(tmp_path / "a.safetensors")
    assert found["temperature"].shape == kept["temperature"].shape == ()
    np.testing.assert_array_equal(found["kernel"], params["kernel"])


def test_another_npz_is_no_tickets(tmp_path):
    np.savez(tmp_path / "tickets.npz", other=np.zeros(3))
    with pytest.raises(InputError, match=r"tickets\.npz is damaged"):
        files.read(tmp_path / "tickets.npz", 1, 0, lambda seed: {})
