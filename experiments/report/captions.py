"""What figures show, for those who read them and for those who cannot see them.

A figure is known by its experiment and its file's name. One that is not listed here gets its name as caption.
"""

AGAINST_KEPT = (
    "against weights remaining; the right panel is a close-up. Mean ± standard deviation over seeds."
)
CURVES = (
    "Test accuracy and training loss of the document's networks over the epochs; bars go from the least to "
    "the greatest trial."
)

CAPTIONS = {
    "init_comparison": {
        "figure1_densities": "The densities that weights are drawn from, layer by layer.",
        "figure2_size": "Weights remaining over the epochs: a step down at every pruning.",
        "figure3_test": f"Xavier and Kaiming: test accuracy {AGAINST_KEPT}",
        "figure3_train": f"Xavier and Kaiming: training accuracy {AGAINST_KEPT}",
        "figure4_test": f"Xavier narrowed and widened by 2: test accuracy {AGAINST_KEPT}",
        "figure4_train": f"Xavier narrowed and widened by 2: training accuracy {AGAINST_KEPT}",
        "others_test": f"Other initializations: test accuracy {AGAINST_KEPT}",
        "others_train": f"Other initializations: training accuracy {AGAINST_KEPT}",
    },
    "variance_propagation": {
        "figure7_4_variance": "Layer by layer, read as the published axis says it, as a variance: most of "
        "the published ends (stars) lie far from their lines.",
        "figure7_4_standard_deviation": "The same read as a standard deviation: the published ends (stars) "
        "lie nearer to the lines.",
        "three_means": "How far three ways to average networks lie from the theory, layer by layer.",
        "schemes": "Variance of pre-activations forwards (above) and of gradients backwards (below), a "
        "column an activation function, a line an initialization; dots are the theory.",
        "training": "What training does, a row a layer: variance of pre-activations and of gradients, dead "
        "units, and how far the weights move. Bands go from the least to the greatest seed.",
    },
    "xor": {
        "success": "Networks that learn XOR against their number of hidden units, under three readings of "
        "success; hollow markers are the published shares.",
        "boundaries": "Where single networks answer 1 (red) and 0 (blue), their decision boundary (black) "
        "and where units switch (dashed): before pruning, after it, and with as few units from the start.",
    },
    "ticket_distribution": {
        "figure2_curves": CURVES,
        "figure4_curves": CURVES,
        "beyond_curves": "The same for the networks that the document leaves open.",
        "figure5_distributions": "The initial weights of what survives pruning (D_n), network and layers.",
        "figure5_trained": "The trained weights of what survives pruning, network and layers.",
    },
    "mnist_tickets": {
        "against_size": "Early-stop iteration, accuracy there and at the end, against weights kept.",
        "wide": "The same measures for initial weights of a large spread.",
        "narrow": "The same measures for initial weights of a small spread.",
        "sizes_one_shot": "Networks of several widths, pruned in one shot, against weights kept.",
        "sizes_iterative": "Networks of several widths, pruned iteratively, against weights kept.",
        "curves": "Test accuracy over the iterations; bars go from the least to the greatest trial.",
        "control_curves": "Test accuracy over the iterations: tickets solid, control 1 dashed.",
        "trials": "The tickets' mean against every single control: a line a network, a colour a trial.",
        "survivors": "Initial weights of what is still kept, a panel a size, a line a layer.",
        "connections": "Connections of each unit, most first: from the layer below, to the layer above.",
    },
    "supermask": {
        "figure1_overtraining": "Validation loss of the first training; crosses are where seeds stop.",
        "figure2_retraining": "Validation loss of the retraining; crosses are where seeds stop.",
        "figure3_sizes": "Relative size against the threshold.",
        "figure4_untrained": "Accuracy of the untrained, masked network against the threshold.",
        "figure5_losses": "Validation loss of tickets and of the groups, over networks and seeds.",
        "figure6_group_sizes": "Relative sizes of tickets and of the groups.",
        "criteria_grid": "Mask criteria and treatments of weights: accuracy untrained, and trained.",
        "criteria_untrained": "Untrained accuracy against weights kept: a panel a treatment, a line a rule.",
        "learned_masks": "Accuracy of learned masks while they are learned; crosses: mean of drawn masks.",
    },
    "stability": {
        "barrier": "Error barrier between copies trained in other orders (left; below the dotted line a "
        "network is stable), and test accuracy (right), against weights kept: mean and range.",
        "lines": "Test error along the straight line between two copies, a panel a network, a colour a size.",
        "rewinding": "Error barrier of tickets against weights kept, a colour a step rewound to.",
    },
    "early_pruning": {
        "pruners": "Test accuracy against weights kept, a colour a way to prune before or after training.",
        "ablations": "Test accuracy of each mask, of the same mask shuffled inside its layers, with fresh "
        "weights, and of the negated score: a panel a way to prune.",
        "sparse_training": "Test accuracy against weights kept, of masks that change while training.",
    },
    "conv_tickets": {
        "against_size": "Early-stop iteration, test accuracy there and at the end, of tickets and controls "
        "against weights kept: mean and range over trials; dotted: the dense networks.",
        "recipes": "Test accuracy at the end against weights kept, a panel a way to train; dotted: the dense "
        "networks.",
        "curves": "Test accuracy of tickets over the iterations, a colour a size: mean and range.",
    },
    "benchmark": {
        "growth": "GFLOP/s of LeNet-300-100 against runs, width and batch size, beside the machine's peak.",
        "cost": "What a network-step of LeNet-300-100 costs against the weights kept, beside PyTorch's best, "
        "whose masks save nothing, and the dense products at the machine's peak.",
    },
}


def caption(experiment: str, name: str) -> str:
    """What a figure shows, its file's name in words if nothing better is known."""
    return CAPTIONS.get(experiment, {}).get(name) or f"{name.replace('_', ' ').strip().capitalize()}."


def order(experiment: str, name: str) -> tuple[int, str]:
    """Sorts an experiment's figures as they are listed here, others after them by name."""
    listed = list(CAPTIONS.get(experiment, ()))
    return (listed.index(name) if name in listed else len(listed), name)
