"""What the benchmark measures, as data: cases, their arithmetic and their memory traffic, counted by hand.

A *network-step* is one step of one network on one minibatch: gather, forward, backward, masked Adam.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

MLP, LENET5, CNN, CONV2, RESNET = "LeNet-300-100", "LeNet-5", "CNN 16-32", "Conv-2", "ResNet-20"
OWN = (CNN, CONV2, RESNET)
"""Networks as users write them, of plain ``nn.Conv``; Conv-2 is Frankle & Carbin's (2019)."""
CLASSES = 10


class Spec(NamedTuple):
    """A model: the images it takes, its convolutions, and the widths of its hidden dense layers."""

    image: tuple[int, int, int]
    filters: tuple[int, ...] = ()
    window: int = 5
    padded: bool = False  # a convolution's output is as large as its input
    pooled: tuple[bool, ...] = ()  # behind which convolutions 2×2 blocks become one
    norm: bool = False  # batch norm behind every convolution
    hidden: tuple[int, ...] = ()
    blocks: int = 0  # of a ResNet, in each of its three stages; its first stage has 16 filters


SPECS = {
    MLP: Spec((28, 28, 1), hidden=(300, 100)),
    LENET5: Spec((32, 32, 3), (6, 16), pooled=(True, True), hidden=(120, 84)),
    CNN: Spec((32, 32, 3), (16, 32), 3, True, (True, True), norm=True),
    CONV2: Spec((32, 32, 3), (64, 64), 3, True, (False, True), hidden=(256, 256)),
    RESNET: Spec((32, 32, 3), norm=True, blocks=3),
}
USUAL_BATCH = {MLP: 60, LENET5: 1024, CNN: 100, CONV2: 60, RESNET: 128}
LEVELS = tuple(0.8**level for level in range(20))
"""The shares of its weights that E1 keeps, level by level."""
SHOWN = tuple(LEVELS[level] for level in (0, 3, 5, 7, 9, 12, 13, 16, 19))
ALL_LEVELS = 0.0
"""Stands for all of ``LEVELS``, one after the other in one call."""
HALF = 0.5
LEARNING_RATE = 1.2e-3

OURS, PATCHES, PLAIN = "ours", "ours, patches", "plain jitted loop"
EAGER, PER_CORE, VMAP = "PyTorch", "PyTorch per core", "PyTorch vmap"
TORCH = (EAGER, PER_CORE, VMAP)
PRODUCT, COPY, COPY_STATE = "matrix product", "copy", "copy in cache"
PEAKS = (PRODUCT, COPY, COPY_STATE)

UNITS = {PRODUCT: "FLOP", COPY: "bytes", COPY_STATE: "bytes"}
"""What the peaks count; every other case counts network-steps."""

TIMES_TORCH, SHARE_OF_PEAK = 1.9, 0.65
"""LeNet-300-100's targets on two cores: times PyTorch's best deployment, share of the matrix peak."""

FEWEST_STEPS = 2
USUAL_SHARES = {MLP: 0.6, LENET5: 0.12, CNN: 0.4, CONV2: 0.6, RESNET: 0.5}
"""Share of the matrix peak that a guess of a call's length starts from; it decides no result."""


class Case(NamedTuple):
    """One thing to measure. Peaks have a side only."""

    side: str
    model: str = ""
    width: int = 1  # factor on the widths of the hidden layers
    batch: int = 0
    runs: int = 1
    steps: int = 0  # of each run in one call; 0 where a call is one step
    kept: float = HALF  # share of every kernel's weights; or ``ALL_LEVELS``
    examples: int = 0

    @property
    def group(self) -> str:
        """Cases of a group do the same work, or are of one table; they are measured in turn and compared."""
        several = "" if self.kept in (HALF, ALL_LEVELS) else ", by weights kept"
        return f"{self.model} ×{self.width}, batch {self.batch}{several}" if self.model else "the machine"

    @property
    def label(self) -> str:
        """The case in words, unique in a benchmark."""
        runs = f", {self.runs} runs" if self.side in (OURS, PATCHES, VMAP) else ""
        kept = f", {self.kept:.1%} kept" if self.kept else f", {len(LEVELS)} levels"
        return f"{self.group}: {self.side}{runs}{'' if self.kept == HALF else kept}"


def hidden_widths(case: Case) -> tuple[int, ...]:
    """Widths of the hidden dense layers."""
    return tuple(case.width * units for units in SPECS[case.model].hidden)


def filters(case: Case) -> tuple[int, ...]:
    """Numbers of filters, none in a perceptron."""
    return tuple(case.width * features for features in SPECS[case.model].filters)


class Layer(NamedTuple):
    """A layer as a matrix product: ``positions`` rows an example, times ``[inputs, outputs]``."""

    positions: int
    inputs: int
    outputs: int


def layers(case: Case) -> list[Layer]:
    """The model's layers from first to last; a convolution's positions are the places of its window."""
    spec = SPECS[case.model]
    side, _, channels = spec.image
    if spec.blocks:
        return residual_layers(side, channels, spec.blocks)
    found = []
    for features, pooled in zip(filters(case), spec.pooled, strict=True):
        side -= 0 if spec.padded else spec.window - 1
        found.append(Layer(side**2, spec.window**2 * channels, features))
        side, channels = side // 2 if pooled else side, features
    widths = (side**2 * channels, *hidden_widths(case), CLASSES)
    return found + [Layer(1, a, b) for a, b in itertools.pairwise(widths)]


def residual_layers(side: int, channels: int, blocks: int) -> list[Layer]:
    """Those of a ResNet for CIFAR: 3×3 convolutions, 1×1 ones where a stage begins with other channels."""
    found, before = [Layer(side**2, 9 * channels, 16)], 16
    for features in (16, 32, 64):
        side = side // 2 if features != 16 else side
        for block in range(2 * blocks):
            found.append(Layer(side**2, 9 * (features if block else before), features))
        if features != before:
            found.append(Layer(side**2, before, features))
        before = features
    return [*found, Layer(1, before, CLASSES)]


def step_flops(case: Case) -> int:
    """Floating-point operations that a network-step needs, two for a multiplication and addition.

    Forward and weight gradient in every layer, the gradient of the input in every layer but the first. What
    a method does beyond that (the zeros outside a band) is not counted, nor is what is no matrix product.
    """
    total = 0
    for index, layer in enumerate(layers(case)):
        products = 3 if index else 2
        total += 2 * products * case.batch * layer.positions * layer.inputs * layer.outputs
    return total


def parameter_count(case: Case) -> int:
    """Weights and biases; scales and shifts of batch norm, which stand for biases in a ResNet."""
    spec, found = SPECS[case.model], layers(case)
    weights = sum(layer.inputs * layer.outputs + layer.outputs for layer in found)
    normed = found[:-1] if spec.blocks else found[: len(spec.filters)] if spec.norm else []
    return weights + (1 if spec.blocks else 2) * sum(layer.outputs for layer in normed)


def step_bytes(case: Case) -> int:
    """Bytes that Adam cannot but move: weights and two moments read and written, gradient and mask read.

    28 of float32 and one of mask for every parameter; activations and the gradient's own write are left out.
    """
    return (7 * 4 + 1) * parameter_count(case)


def steps_per_call(case: Case, seconds: float, peak: float) -> int:
    """Steps of every run in a call of about ``seconds``, guessed from the measured matrix peak (FLOP/s)."""
    guess = seconds * USUAL_SHARES[case.model] * peak / (step_flops(case) * case.runs)
    guess /= len(LEVELS) / 2 if case.kept == ALL_LEVELS else 1
    return max(FEWEST_STEPS, round(guess))


def groups(
    runs: Sequence[int],
    widths: Sequence[int],
    batches: Sequence[int],
    lenet5_runs: Sequence[int],
    examples: int,
    torch: bool,
    own: Sequence[str] = (),
) -> list[list[Case]]:
    """All cases but the peaks, in the groups that are measured in turn.

    Args:
      runs: numbers of LeNet-300-100s at once; the largest up to 11 serves the other widths and batches.
      widths: factors on its hidden widths.
      batches: its batch sizes.
      lenet5_runs: numbers of LeNet-5s at once, batch 1024; none leaves it out.
      examples: in the data set.
      torch: whether PyTorch is measured too.
      own: models of ``OWN``: as a sweep and as a plain jitted loop.
    """
    some = max((r for r in runs if r <= 11), default=min(runs))

    def group(model: str, width: int, batch: int, ours: Sequence[Case], vmapped: int) -> list[Case]:
        theirs = [Case(EAGER), Case(PER_CORE)] + ([Case(VMAP, runs=vmapped)] if vmapped else [])
        cases = [*ours, *(theirs if torch else [])]
        return [c._replace(model=model, width=width, batch=batch, examples=examples) for c in cases]

    mlps = [*(Case(OURS, runs=r) for r in runs), Case(OURS, runs=some, kept=ALL_LEVELS)]
    found = [group(MLP, 1, batches[0], mlps, some)]
    levels = [Case(OURS, MLP, 1, batches[0], some, examples=examples, kept=kept) for kept in SHOWN]
    found.append(levels)
    found += [group(MLP, width, batches[0], [Case(OURS, runs=some)], 0) for width in widths if width != 1]
    found += [group(MLP, 1, batch, [Case(OURS, runs=some)], 0) for batch in batches[1:]]
    if lenet5_runs:
        ours = [Case(OURS, runs=r) for r in lenet5_runs] + [Case(PATCHES, runs=max(lenet5_runs))]
        found.append(group(LENET5, 1, 1024, ours, max(lenet5_runs)))
    for model in own:
        ours = [Case(OURS, runs=4), Case(PLAIN)]
        found.append(group(model, 1, USUAL_BATCH[model], ours, 0))
    return found
