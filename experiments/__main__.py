"""``python -m experiments NAME …``: run an experiment by name, or gather what they found."""

import importlib
import sys

from lth_jax.__main__ import stop_at_once, stop_no_more

EXPERIMENTS = {
    "init_comparison": "initializations compared for finding tickets (document 000)",
    "variance_propagation": "how initialization carries variance through depth (document 003)",
    "xor": "XOR learned by small networks, random and pruned (document 002)",
    "ticket_distribution": "what makes a ticket special, its mask or its weights (document 001)",
    "mnist_tickets": "winning tickets on MNIST and their controls (document 002)",
    "stability": "copies trained in other orders, and the line between them (Frankle et al. 2019, 2020)",
    "early_pruning": "pruning before, while and after training, side by side (Frankle et al. 2021)",
    "conv_tickets": "winning tickets in convolutional networks on CIFAR-10 (Frankle & Carbin 2019)",
    "supermask": "networks that work untrained, and how small a network must be (document 004)",
    "benchmark": "speed against PyTorch and against the machine's own peak",
}
COMMANDS = {"report": "all results on one page, with every claim's verdict, and a summary"}


def main() -> None:
    """Hand the rest of the command line to the experiment named first."""
    from experiments import cli
    from lth_jax.errors import fail, write_any_text

    write_any_text()
    names = "\n".join(f"  {name:22} {what}" for name, what in {**EXPERIMENTS, **COMMANDS}.items())
    usage = f"usage: python -m experiments NAME [--help] [flags]\n\n{names}"
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage)
        return
    name, *arguments = sys.argv[1:]
    if name in COMMANDS:
        importlib.import_module(f"experiments.{name}.command").main(arguments)
        return
    if name not in EXPERIMENTS:
        fail(f"unknown experiment {name!r}; expected one of {', '.join([*EXPERIMENTS, *COMMANDS])}")
    cli.main(cli.find(name), arguments, leave=True)


if __name__ == "__main__":
    stop_at_once()
    try:
        main()
    finally:
        stop_no_more()
