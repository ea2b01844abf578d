"""What the benchmark measures, as data: cases, their arithmetic and their memory traffic, counted by hand.

A *network-step* is one step of one network on one minibatch: gather, forward, backward, masked Adam.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

MLP, LENET5 = "LeNet-300-100", "LeNet-5"
IMAGE_SHAPES = {MLP: (28, 28, 1), LENET5: (32, 32, 3)}
CLASSES = 10
LEARNING_RATE = 1.2e-3

OURS, PATCHES = "ours", "ours, patches"
EAGER, PER_CORE, VMAP = "PyTorch", "PyTorch per core", "PyTorch vmap"
TORCH = (EAGER, PER_CORE, VMAP)
PRODUCT, COPY, COPY_STATE = "matrix product", "copy", "copy in cache"
PEAKS = (PRODUCT, COPY, COPY_STATE)

UNITS = {PRODUCT: "FLOP", COPY: "bytes", COPY_STATE: "bytes"}
"""What the peaks count; every other case counts network-steps."""

TIMES_TORCH, SHARE_OF_PEAK = 1.9, 0.65
"""LeNet-300-100's targets on two cores: times PyTorch's best deployment, share of the matrix peak."""

FEWEST_STEPS = 2
USUAL_SHARES = {MLP: 0.6, LENET5: 0.12}
"""Share of the matrix peak that a guess of a call's length starts from; it decides no result."""


class Case(NamedTuple):
    """One thing to measure. Peaks have a side only."""

    side: str
    model: str = ""
    width: int = 1  # factor on the widths of the hidden layers
    batch: int = 0
    runs: int = 1
    steps: int = 0  # of each run in one call; 0 where a call is one step
    examples: int = 0

    @property
    def group(self) -> str:
        """Cases of a group do the same work; they are measured in turn and compared."""
        return f"{self.model} ×{self.width}, batch {self.batch}" if self.model else "the machine"

    @property
    def label(self) -> str:
        """The case in words, unique in a benchmark."""
        runs = f", {self.runs} runs" if self.side in (OURS, PATCHES, VMAP) else ""
        return f"{self.group}: {self.side}{runs}"


def hidden_widths(case: Case) -> tuple[int, ...]:
    """Widths of the hidden dense layers."""
    return tuple(case.width * units for units in ((300, 100) if case.model == MLP else (120, 84)))


def filters(case: Case) -> tuple[int, ...]:
    """Numbers of 5×5 filters, none in a perceptron."""
    return () if case.model == MLP else (6 * case.width, 16 * case.width)


class Layer(NamedTuple):
    """A layer as a matrix product: ``positions`` rows an example, times ``[inputs, outputs]``."""

    positions: int
    inputs: int
    outputs: int


def layers(case: Case) -> list[Layer]:
    """The model's layers from first to last; a convolution's positions are the places of its window."""
    side, _, channels = IMAGE_SHAPES[case.model]
    found = []
    for features in filters(case):
        side -= 4
        found.append(Layer(side**2, 25 * channels, features))
        side, channels = side // 2, features
    widths = (side**2 * channels, *hidden_widths(case), CLASSES)
    return found + [Layer(1, a, b) for a, b in itertools.pairwise(widths)]


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
    """Weights and biases."""
    return sum(layer.inputs * layer.outputs + layer.outputs for layer in layers(case))


def step_bytes(case: Case) -> int:
    """Bytes that Adam cannot but move: weights and two moments read and written, gradient and mask read.

    28 of float32 and one of mask for every parameter; activations and the gradient's own write are left out.
    """
    return (7 * 4 + 1) * parameter_count(case)


def steps_per_call(case: Case, seconds: float, peak: float) -> int:
    """Steps of every run in a call of about ``seconds``, guessed from the measured matrix peak (FLOP/s)."""
    guess = seconds * USUAL_SHARES[case.model] * peak / (step_flops(case) * case.runs)
    return max(FEWEST_STEPS, round(guess))


def groups(
    runs: Sequence[int],
    widths: Sequence[int],
    batches: Sequence[int],
    lenet5_runs: Sequence[int],
    examples: int,
    torch: bool,
) -> list[list[Case]]:
    """All cases but the peaks, in the groups that are measured in turn.

    Args:
      runs: numbers of LeNet-300-100s at once; the largest up to 11 serves the other widths and batches.
      widths: factors on its hidden widths.
      batches: its batch sizes.
      lenet5_runs: numbers of LeNet-5s at once, batch 1024; none leaves it out.
      examples: in the data set.
      torch: whether PyTorch is measured too.
    """
    some = max((r for r in runs if r <= 11), default=min(runs))

    def group(model: str, width: int, batch: int, ours: Sequence[Case], vmapped: int) -> list[Case]:
        theirs = [Case(EAGER), Case(PER_CORE)] + ([Case(VMAP, runs=vmapped)] if vmapped else [])
        cases = [*ours, *(theirs if torch else [])]
        return [c._replace(model=model, width=width, batch=batch, examples=examples) for c in cases]

    found = [group(MLP, 1, batches[0], [Case(OURS, runs=r) for r in runs], some)]
    found += [group(MLP, width, batches[0], [Case(OURS, runs=some)], 0) for width in widths if width != 1]
    found += [group(MLP, 1, batch, [Case(OURS, runs=some)], 0) for batch in batches[1:]]
    if lenet5_runs:
        ours = [Case(OURS, runs=r) for r in lenet5_runs] + [Case(PATCHES, runs=max(lenet5_runs))]
        found.append(group(LENET5, 1, 1024, ours, max(lenet5_runs)))
    return found
