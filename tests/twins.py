"""PyTorch's layers in NumPy, by explicit loops: channels first, as its documentation has them."""

import numpy as np


def linear(x, state, layer):
    """``[batch, in]`` to ``[batch, out]``."""
    return x @ state[f"{layer}.weight"].T + state.get(f"{layer}.bias", 0)


def conv2d(x, state, layer, stride=1, padding=((0, 0), (0, 0))):
    """``[batch, in, rows, columns]`` to ``[batch, out, rows, columns]``, window after window."""
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    weight = state[f"{layer}.weight"]
    high, wide = weight.shape[2:]
    rows, columns = ((x.shape[2] - high) // stride + 1, (x.shape[3] - wide) // stride + 1)
    out = np.zeros((len(x), len(weight), rows, columns))
    for image, unit, row, column in np.ndindex(out.shape):
        top, left = row * stride, column * stride
        window = x[image, :, top : top + high, left : left + wide]
        out[image, unit, row, column] = (window * weight[unit]).sum()
    return out + np.reshape(state.get(f"{layer}.bias", np.zeros(len(weight))), (-1, 1, 1))


def batch_norm(x, state, layer, eps=1e-5):
    """In evaluation: by the running statistics of each channel, the second axis."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    scale, shift, mean, var = (
        state[f"{layer}.{name}"].reshape(shape) for name in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + eps) * scale + shift


def max_pool(x):
    """The largest of every 2 × 2 pixels."""
    batch, channels, rows, columns = x.shape
    return x.reshape(batch, channels, rows // 2, 2, columns // 2, 2).max((3, 5))


def flatten(x):
    """``nn.Flatten()``."""
    return x.reshape(len(x), -1)


def relu(x):
    return np.maximum(x, 0)


def channels_first(images):
    """``[batch, rows, columns, channels]`` as PyTorch has it."""
    return np.asarray(images, np.float64).transpose(0, 3, 1, 2)
