"""A worker process of the benchmark: the same training step in PyTorch, as one would write it for speed.

Eager: fused Adam, uint8 data in memory, the mask multiplied onto the gradients in place; with a fresh Adam
that alone keeps pruned weights at 0, so nothing else is masked. ``vmap``: ``torch.func`` over stacked
networks, whose fused Adam works on the stacked tensors.
"""

import sys
from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from experiments.benchmark import cases
from experiments.benchmark.workers import Prepared, cores, host_memory, pictures, serve

STEPS = 20
"""Steps between two looks at the clock."""


class Block(nn.Module):
    """Two convolutions of a ResNet and what goes around them."""

    def __init__(self, before: int, features: int) -> None:
        super().__init__()
        stride = features // before
        self.inner = nn.Sequential(
            normed(before, features, 3, stride), nn.ReLU(), normed(features, features, 3, 1)
        )
        self.around = normed(before, features, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.inner(images) + self.around(images))


def normed(before: int, features: int, window: int, stride: int) -> nn.Sequential:
    """A convolution and batch norm."""
    convolution = nn.Conv2d(before, features, window, stride, window // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features))


def resnet(channels: int, blocks: int) -> nn.Module:
    """A ResNet for CIFAR, of three stages."""
    parts = [normed(channels, 16, 3, 1), nn.ReLU()]
    for before, features in ((16, 16), (16, 32), (32, 64)):
        parts += [Block(before if block == 0 else features, features) for block in range(blocks)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, cases.CLASSES))


def model(case: cases.Case) -> nn.Module:
    """The case's network."""
    spec = cases.SPECS[case.model]
    side, _, channels = spec.image
    if spec.blocks:
        return resnet(channels, spec.blocks)
    parts: list[nn.Module] = []
    for features, pooled in zip(cases.filters(case), spec.pooled, strict=True):
        parts.append(nn.Conv2d(channels, features, spec.window, padding="same" if spec.padded else 0))
        parts += [nn.BatchNorm2d(features)] if spec.norm else []
        parts += [nn.ReLU(), nn.MaxPool2d(2)] if pooled else [nn.ReLU()]
        side -= 0 if spec.padded else spec.window - 1
        side, channels = side // 2 if pooled else side, features
    parts.append(nn.Flatten())
    width = side**2 * channels
    for units in cases.hidden_widths(case):
        parts += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*parts, nn.Linear(width, cases.CLASSES))


def random_masks(parameters: list[torch.Tensor], weight_dims: int) -> list[torch.Tensor]:
    """Half of every weight tensor kept, biases whole, as floats to multiply with."""
    return [
        (torch.rand_like(p) < 0.5).to(p.dtype) if p.dim() >= weight_dims else torch.ones_like(p)
        for p in parameters
    ]


def eager(case: cases.Case, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One step of one network."""
    network = model(case).to(images.device)
    parameters = list(network.parameters())
    kernels = [p for p in parameters if p.dim() >= 2]
    kept = random_masks(kernels, 2)
    with torch.no_grad():
        torch._foreach_mul_(kernels, kept)
    optimizer = torch.optim.Adam(parameters, lr=cases.LEARNING_RATE, fused=True)

    def step() -> torch.Tensor:
        chosen = torch.randint(len(labels), (case.batch,), device=images.device)
        loss = functional.cross_entropy(network(images[chosen].float().mul_(1 / 255)), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch._foreach_mul_([p.grad for p in kernels], kept)
        optimizer.step()
        return loss.detach()

    return step


def vmapped(case: cases.Case, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One step of ``case.runs`` networks at once, each on a minibatch of its own."""
    networks = [model(case).to(images.device) for _ in range(case.runs)]
    stacked, _ = torch.func.stack_module_state(networks)
    names, skeleton = list(stacked), networks[0]
    parameters = [stacked[name].detach().requires_grad_() for name in names]
    kept = random_masks(parameters, 3)
    with torch.no_grad():
        torch._foreach_mul_(parameters, kept)
    optimizer = torch.optim.Adam(parameters, lr=cases.LEARNING_RATE, fused=True)

    def loss(values: dict[str, torch.Tensor], batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(torch.func.functional_call(skeleton, values, (batch,)), targets)

    pull = torch.func.vmap(torch.func.grad_and_value(loss))

    def step() -> torch.Tensor:
        chosen = torch.randint(len(labels), (case.runs, case.batch), device=images.device)
        values = dict(zip(names, (p.detach() for p in parameters), strict=True))
        gradients, losses = pull(values, images[chosen].float().mul_(1 / 255), labels[chosen])
        for parameter, name in zip(parameters, names, strict=True):
            parameter.grad = gradients[name]
        torch._foreach_mul_([p.grad for p in parameters], kept)
        optimizer.step()
        return losses.sum()

    return step


def prepare(case: cases.Case) -> Prepared:
    """Everything up to the first call; a call is ``STEPS`` steps, or one of many networks at once."""
    torch.manual_seed(0)
    torch.set_num_threads(1 if case.side == cases.PER_CORE else cores())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = pictures(case.examples, cases.SPECS[case.model].image)
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)
    targets = torch.from_numpy(labels).to(device)
    together = case.side == cases.VMAP
    step = (vmapped if together else eager)(case, channels_first, targets)
    times = 1 if together or case.batch > 500 else STEPS

    def run() -> float:
        for _ in range(times):
            loss = step()
        if not bool(torch.isfinite(loss)):  # waits for the device too
            raise FloatingPointError("the loss is not finite")
        return float(times * case.runs)

    def memory() -> float:
        return float(torch.cuda.max_memory_allocated()) if device.type == "cuda" else host_memory()

    return Prepared(run, memory, f"torch {torch.__version__}")


if __name__ == "__main__":
    serve(prepare, sys.argv[1])
