"""Tickets on disk: where one starts, and weights that a seed does not give again."""

import jax.numpy as jnp
import numpy as np
import pytest

from lth_jax.analysis import ticket_files as files
from lth_jax.errors import InputError


def kept(places=("trained", "rewind_to"), networks=("ticket", "reinit")):
    """Two seeds, two levels, a ticket and a control, a kernel of 3 and a bias."""
    masks = np.packbits([[[1, 1, 1], [1, 1, 1]], [[1, 0, 1], [0, 1, 1]]], axis=-1)
    rewind_to = {"a/kernel": np.array([[7.0, 8, 9], [4, 5, 6]], "f"), "a/bias": np.zeros((2, 1), "f")}
    kernel = np.arange(12, dtype="f").reshape(2, 2, 1, 3) + 20  # level, seed, network
    weights = {
        "params/a/kernel": kernel + 100 * np.arange(len(networks), dtype="f")[:, None],
        "params/a/bias": np.ones((2, 2, len(networks), 1), "f"),
        "collections/stats/a": np.full((2, 2, len(networks), 1), 5.0, "f"),
    }
    theta0 = {"a/kernel": np.array([[1.0, 2, 3], [4, 5, 6]], "f"), "a/bias": np.zeros((2, 1), "f")}
    trained = "trained" in places
    return files.Kept(
        masks={"a/kernel": masks},
        theta0=theta0,
        rewind_to=rewind_to if "rewind_to" in places else {},
        weights=weights if trained else {},
        levels=(0, 1) if trained else (),
        networks=networks,
        rewinds=not trained,
    )


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


@pytest.mark.parametrize(("network", "expected"), [("ticket", [23, 24, 25]), ("reinit", [123, 124, 125])])
def test_trained_weights_are_those_of_their_seed_level_and_network(tmp_path, network, expected):
    path = tmp_path / "tickets.npz"
    files.write(path, (4, 5), kept(), draw)
    params, collections = files.read_trained(path, 5, 0, network)
    np.testing.assert_array_equal(params["a/kernel"], expected)
    np.testing.assert_array_equal(files.read_trained(path, 5, 1, network)[0]["a/kernel"], np.add(expected, 6))
    assert {name: leaf.tolist() for name, leaf in collections.items()} == {"stats/a": [5.0]}


def test_trained_weights_that_are_not_kept_are_named(tmp_path):
    path = tmp_path / "tickets.npz"
    files.write(path, (4, 5), kept(("trained",)), draw)
    with pytest.raises(InputError, match="expected one of ticket, reinit"):
        files.read_trained(path, 5, 0, "shuffle")
    with pytest.raises(InputError, match="--seed 6: the run has 4, 5"):
        files.read_trained(path, 6, 0)
    with pytest.raises(InputError, match="are kept of 0, 1; sweep with --keep-weights"):
        files.read_trained(path, 5, 2)
    files.write(path, (4, 5), kept(()), draw)
    with pytest.raises(InputError, match="are kept of none"):
        files.read_trained(path, 5, 0)


@pytest.mark.parametrize(("level", "expected"), [(0, [4, 5, 6]), (1, [0, 24, 25])])
def test_bfloat16_comes_back_as_it_was(tmp_path, level, expected):
    def halved(leaves):
        return {name: leaf.astype(jnp.bfloat16) for name, leaf in leaves.items()}

    given = kept(("trained",))
    given = given._replace(theta0=halved(given.theta0), weights=halved(given.weights))
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
