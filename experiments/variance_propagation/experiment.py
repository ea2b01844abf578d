"""E5 · How initialization carries variance through depth (document 003).

    python -m experiments variance_propagation                   embedded digits, a minute or two
    python -m experiments variance_propagation --preset paper    200 networks a line, minutes
    python -m experiments variance_propagation --depth 500 --widths 64 --activation tanh --variances 0.01,0.02

Three parts. Figure 7.4 of *Understanding Deep Learning*: 50 hidden layers of 100 ReLU units, weights N(0, σ²)
with σ² = 0.001, 0.01, 0.02, 0.1, 1, input N(0, 1), one output, least squares to the target 0; the variance of
the pre-activations upwards and of their gradients downwards, many networks a line, against the theory's
straight lines. Schemes: every named initialization under ReLU, tanh, GELU and the identity, in layers of
alternating width, so that fan-in and fan-out differ. Training: the same variances, dead units and weight
changes while a LeNet-300-100 trains.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from experiments.variance_propagation import training
from lth_jax import data, initializers
from lth_jax.analysis import variance
from lth_jax.errors import require
from lth_jax.runs import results
from lth_jax.runs.config import check_batches, check_choices, check_distinct, option
from lth_jax.runs.job import Job
from lth_jax.runs.stages import Stage, run_stages

SUMMARY = "E5: how initialization carries variance through depth (document 003)"

OWN_GAIN = "own_gain"
"""The scheme N(0, gain²/fan_in) with the gain of the activation it is tried with."""
ACTIVATIONS = tuple(variance.ACTIVATIONS)
SCHEMES = (
    "xavier_uniform",
    "xavier_normal",
    "kaiming_normal",
    "he_uniform",
    "he_normal",
    "he_normal_fan_out",
    "torch_default",
    "flax_default",
    OWN_GAIN,
)
LN10 = np.log(10)


@dataclass(frozen=True)
class Config:
    """The three parts; every field is a flag."""

    dataset: str = option("mnist-5k", "data set of the third part", data.DATASETS)
    seeds: tuple[int, ...] = option(tuple(range(200)), "seeds, one network each, as 0-199 or 1,2,3")
    depth: int = option(50, "hidden layers")
    inputs: int = option(100, "dimensions of the input")
    widths: tuple[int, ...] = option((100,), "units of the hidden layers, repeated down to the depth")
    activation: str = option("relu", "activation of the first part", ACTIVATIONS)
    variances: tuple[float, ...] = option((0.001, 0.01, 0.02, 0.1, 1.0), "weight variances σ²")
    schemes: tuple[str, ...] = option(
        SCHEMES, "initializations of the second part: names, normal:STD, own_gain"
    )
    activations: tuple[str, ...] = option(ACTIVATIONS, "activations of the second part", ACTIVATIONS)
    scheme_widths: tuple[int, ...] = option((100, 50), "widths of the second part, repeated likewise")
    scheme_seeds: int = option(30, "how many of the seeds the second part takes")
    training_schemes: tuple[str, ...] = option(
        ("he_normal", "xavier_normal", "torch_default", "normal:0.001", "standard_normal"),
        "initializations of the third part: names or normal:STD",
    )
    training_seeds: int = option(8, "how many of the seeds the third part takes; 0 leaves it out")
    epochs: int = option(12, "epochs of training in the third part")
    batch_size: int = option(60, "examples per training step")
    learning_rate: float = option(1.2e-3, "Adam's learning rate")

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("depth", "inputs", "scheme_seeds", "epochs", "batch_size"):
            value = getattr(self, name)
            least = 3 if name == "depth" else 1
            require(value >= least, f"--{name.replace('_', '-')} {value}: must be at least {least}")
        for name in ("widths", "scheme_widths"):
            valid = len(getattr(self, name)) > 0 and min(getattr(self, name)) > 0
            require(valid, f"--{name.replace('_', '-')}: at least one width, each at least 1")
        check_distinct(self, "seeds", "variances", "schemes", "activations", "training_schemes")
        for value in self.variances:
            require(1e-20 <= value <= 1e20, f"--variances {value}: must lie between 1e-20 and 1e20")
        most = len(self.seeds)
        require(self.scheme_seeds <= most, f"--scheme-seeds {self.scheme_seeds}: there are {most} seeds")
        valid = 0 <= self.training_seeds <= most
        require(valid, f"--training-seeds {self.training_seeds}: there are {most} seeds")
        require(self.learning_rate > 0, f"--learning-rate {self.learning_rate}: must be positive")
        for name in ("schemes", "training_schemes"):
            for entry in getattr(self, name):
                if not (name == "schemes" and entry == OWN_GAIN):
                    check_scheme(entry, name)


def check_scheme(entry: str, name: str) -> None:
    """Refuse an initialization that there is not."""
    try:
        initializers.get(entry)
    except ValueError as error:
        require(False, f"--{name.replace('_', '-')}: {error}")


QUICK = {
    "seeds": tuple(range(60)),
    "schemes": ("xavier_normal", "he_normal", "torch_default", OWN_GAIN),
    "scheme_seeds": 15,
    "training_schemes": ("he_normal", "normal:0.001", "standard_normal"),
    "training_seeds": 8,
    "epochs": 6,
}


def presets(variant: str) -> Mapping[str, Mapping[str, Any]]:
    """``quick`` has fewer networks and schemes; ``paper`` is the configuration's defaults."""
    return {"quick": QUICK, "paper": {}}


def check(config: Config, dataset: data.Dataset) -> None:
    """Refuse a configuration that this data set cannot serve."""
    check_batches(config, len(dataset.train_labels))


def normal(weight_variance: float) -> initializers.Scheme:
    """N(0, σ²), whatever the fans."""
    return initializers.Scheme("normal", initializers.constant(weight_variance**0.5))


def scheme(name: str, activation: str) -> initializers.Scheme:
    """A scheme of the second part."""
    return initializers.for_activation(activation) if name == OWN_GAIN else initializers.get(name)


def draws_of(*labels: Any) -> int:
    """The index of a line's own draws, from its labels: what else is measured does not change it.

    Lines that shared their draws would be one measurement several times, for ReLU networks that differ by a
    factor in their weights differ by a factor in everything.
    """
    return zlib.crc32("/".join(map(str, labels)).encode()) & 0x7FFFFFFF


def log10_pair(
    seeds: Sequence[int], sizes: tuple[int, ...], drawn: initializers.Scheme, activation: str, **how: Any
) -> dict[str, np.ndarray]:
    """Measured and predicted log10 variances of one line."""
    measured = variance.measure(seeds, sizes, drawn, activation, **how)
    predicted = variance.predict(sizes, drawn, activation)
    return {
        f"{prefix}{name}_log10_variance": (values / LN10).astype(np.float32 if prefix == "" else np.float64)
        for prefix, found in (("", measured), ("predicted_", predicted))
        for name, values in found._asdict().items()
    }


def measure_figure(config: Config, chunk: int | None) -> xr.Dataset:
    """Part 1: dims (weight_variance, seed, layer)."""
    sizes = variance.stack_sizes(config.inputs, config.widths, config.depth)
    lines = [
        log10_pair(config.seeds, sizes, normal(value), config.activation, index=draws_of(value), chunk=chunk)
        for value in config.variances
    ]
    coordinates = {
        "weight_variance": list(config.variances),
        "seed": list(config.seeds),
        "layer": np.arange(1, config.depth + 1),
    }
    values = {}
    for name in lines[0]:
        tail = () if "output" in name else ("layer",)
        head = () if name.startswith("predicted") else ("seed",)
        values[name] = (("weight_variance", *head, *tail), np.stack([line[name] for line in lines]))
    return results.by_label(values, coordinates, {})


def measure_schemes(config: Config, chunk: int | None) -> xr.Dataset:
    """Part 2: dims (activation, scheme, scheme_seed, layer)."""
    sizes = variance.stack_sizes(config.inputs, config.scheme_widths, config.depth)
    seeds = config.seeds[: config.scheme_seeds]
    grid = [
        [
            log10_pair(
                seeds, sizes, scheme(name, activation), activation,
                index=draws_of(name, activation), chunk=chunk,
            )
            for name in config.schemes
        ]
        for activation in config.activations
    ]  # fmt: skip
    coordinates = {
        "activation": list(config.activations),
        "scheme": list(config.schemes),
        "scheme_seed": list(seeds),
        "layer": np.arange(1, config.depth + 1),
    }
    values = {}
    for name in grid[0][0]:
        if "output" not in name:
            head = () if name.startswith("predicted") else ("scheme_seed",)
            array = np.array([[cell[name] for cell in row] for row in grid])
            values[f"scheme_{name}"] = (("activation", "scheme", *head, "layer"), array)
    return results.by_label(values, coordinates, {})


def train(config: Config, job: Job, dataset: data.Dataset) -> xr.Dataset:
    """Measure or resume the parts; the labelled results."""
    lines = len(config.variances) * len(config.seeds)
    cells = len(config.schemes) * len(config.activations) * config.scheme_seeds
    trained = len(config.training_schemes) * config.training_seeds
    stages = [
        Stage(
            "figure",
            lambda done: measure_figure(config, job.chunk),
            networks=lines,
        ),
        Stage("schemes", lambda done: measure_schemes(config, job.chunk), networks=cells),
    ]
    if trained:
        stages.append(
            Stage("training", lambda done: training.measure(config, job.chunk, dataset), networks=trained)
        )
    done, seconds = run_stages(job, stages)
    attrs = results.attributes(
        config,
        experiment="variance_propagation",
        preset=job.preset,
        **dataset.attributes,
        seconds=seconds,
    )
    return xr.merge(done.values(), combine_attrs="drop").assign_attrs(attrs)
