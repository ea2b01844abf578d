"""Small sweeps of the command: sixty digits, somebody's module, and what command lines leave beside them."""

import flax.linen as nn
import numpy as np
import optax
import pytest
from idx import write_idx

import lth_jax
from lth_jax import commands

TINY = ["--dataset", "mnist", "--data-dir", "DIGITS", "--epochs", "1", "--batch-size", "20"]
TRUNK = ["--model", "mlp", "--hidden", "8", "--levels", "3", "--seeds", "42,7", *TINY]

NET = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Dense(4)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))

class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x.reshape(len(x), -1)))

class Few(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(5)(images.reshape(len(images), -1))

class Pair(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images.mean(), nn.Dense(10)(images)

class Other:
    pass

def needs(argument):
    pass
"""


def make_place(folder, *lines):
    """Put sixty digits and somebody's module in the folder and call the command there with each line."""
    write_idx(folder / "DIGITS")
    (folder / "somebodys_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("LTH_DATA_DIR", raising=False)
        for line in lines:
            commands.main(line)
    return folder


def search_in(folder):
    """The least search of the library, saved in a folder."""
    data = (np.zeros((8, 3), np.float32), np.zeros(8, np.int32))
    options = {"seeds": (1,), "levels": 1, "epochs": 1, "batch_size": 4, "folder": folder}
    return lth_jax.find_tickets(nn.Dense(2), optax.sgd(0.1), data, data, **options)
