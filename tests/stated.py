"""The words in which pages state numbers of committed results, and what computes these: see ``computed``."""

import inspect

import computed as of
from computed import E1, E1_RUN, E2, E2_RUN, E4, E6, E8, shown, size, verdict

from experiments.benchmark import cases
from experiments.mnist_tickets import claims as tickets
from experiments.stability import claims as stability
from experiments.supermask import zhou_claims as zhou
from experiments.ticket_distribution import claims as distribution
from lth_jax.analysis import power

MLP, LENET5, CNN, CONV2 = cases.MLP, cases.LENET5, cases.CNN, cases.CONV2


def least_and_greatest(values, digits, scale=1.0):
    """Both, as prose writes them."""
    return [shown(scale * value, digits) for value in (values.min(), values.max())]


BEFORE, AFTER = ("magnitude", "snip", "grasp", "synflow"), ("one-shot", "imp")


def early(*names):
    """Differences of E8's claims."""
    return of.estimates(E8, *names)


def sweep():
    """How many times as fast as PyTorch a whole sweep trains."""
    return of.ratio(MLP, 11, cases.ALL_LEVELS)


# fmt: off
ROWS = [
    # How to read the table.
    (lambda: [shown(of.config(E4)["iterations"], 0), shown(tickets.ITERATIONS, 0)], "{} of {} iterations"),
    (lambda: [shown(100 * (1 - of.alpha()), 0), shown(100 * (1 - 2 * of.alpha()), 0)],
     'its {} % interval ({} % for "within"'),
    (lambda: [f"{of.alpha():g}"], "corrected for its family (a section, figure or question), be under {}.",
     "corrected for its family (a section, figure or question), is under {}."),
    (lambda: [shown(100 * inspect.signature(power.needed).parameters["wanted"].default, 0)],
     "then the n for {} %"),
    # Sizes.
    *((lambda level=level: [size(level)], wording) for level, wording in (
        (12, '"none below {} %"'), (12, '"tickets down to {} %"'), (13, "(at {} % networks are"),
        (16, "from {} % of the weights down"), (7, "at {} % of the weights they"), (15, "down to {} % ("),
        (10, "at {} % only if"), (10, "remask at {} % lie"), (10, "over reinit at {} % is"),
    )),
    (lambda: [size(10)], "(as described, {} %):", "As described, at {} %:"),
    # 000
    (lambda: verdict(E1_RUN, "none-below-6.9:train"), "{} points below dense ones, {} to {})"),
    (lambda: verdict(E1_RUN, "tickets-to-6.9:test"), "supported ({}, {} to {})"),
    (lambda: verdict(E1_RUN, "none-below-6.9:test"), "inconclusive ({}, {} to {})"),
    (lambda: of.variance_explained()[:2], "explains {} to {} % of the variance"),
    (lambda: of.variance_explained()[2:], "of all {} runs' test accuracy"),
    (of.by_unreached,
     "At {} % networks without one have {} ± {} %, with one {} ± {}, with two {} ± {}, with three {} ± {}, "
     "with four (two networks) {} ± {}; {} of the {} have at least one."),
    (lambda: [size(12)], "Networks with {} % of their weights"),
    (lambda: verdict(E1, "tickets-to-6.9:test"), "supported: {} points better, {} to {}, eleven seeds"),
    (lambda: [size(13), *verdict(E1, "none-below-6.9:test", -1)],
     "(at {} %: {} points better, {} to {})"),
    # 001
    (of.counted, "counted hits among {} images and divided by {}, so what is printed is {} of the accuracy"),
    (lambda: [of.bound(of.estimates(E2_RUN, "reproduced:"))], "all seven are met within {} points"),
    (lambda: [f"{distribution.REPRODUCED['fc1']:g}"], "at a margin of {} five"),
    (lambda: least_and_greatest(of.factors(E2_RUN) - 1, 0, 100), "with training losses {} to {} % higher"),
    (lambda: [shown(-gap) for gap in of.estimates(E2, "reproduced:reinit-10", "reproduced:remask-10")],
     "lie {} and {} below"),
    (lambda: least_and_greatest(of.factors(E2), 1), "training losses are {} to {} times the published"),
    (lambda: verdict(E2_RUN, "accuracy:pruned-10:reinit-10"), "inconclusive ({} points, {} to {})"),
    (of.reduced, "{} of {} epochs, {} of {} trials"),
    (of.best_accuracies, "full {} %, ticket {}, reinit {}, remask {} at {} % of the weights"),
    (lambda: verdict(E2, "signs:10"), "({} points, {} to {}, supported)"),
    (of.full_from_dn, "its initialization ({}, {} to {})"),
    # 002
    (of.sooner,
     "{} to {} % sooner than their own dense networks, {} % sooner than all of their trial (published {} %"),
    (of.ends,
     "end training at {} ± {} %, dense ones at {} ± {}, the same mask with fresh weights at {} ± {}"),
    (lambda: [shown(of.ratio_of(E4, "ticket-sooner-than-reinit-21")),
              verdict(E4, "ticket-better-than-reinit-21")[0]],
     "they stop {} times as soon and are {} points more accurate"),
    # 003
    (of.decades, "where σ² = {}, the end of the forward curve is {} decades from the variance"),
    (of.fitting_neither, "Two of its ten ends, σ² = {} forward and {} backward, fit neither"),
    # 004
    (of.within_published_spread, "{} of our {} means"),
    (of.different_by_welch, "one by one {} of {} differ (Welch, p < {})"),
    (of.minimum,
     "minimum comes at {} ± {} iterations (published around {}: contradicted), at {} in fixed order"),
    (of.above_minima,
     "networks end {} nats above their minima (shuffled {}, published {}), the largest, (200, 30), at {} "
     "± {} (shuffled {} ± {}, published {} ± {})"),
    (of.ticket_in_fixed_order, "the ticket too ({} ± {} against {})"),
    (lambda: of.zhou_accuracy("signed-constant-86", zhou.SUPERMASK), "reach at best {} % (published {},"),
    (lambda: of.zhou_accuracy("learned-95", zhou.LEARNED), "initial weights reach {} % (published {},"),
    (of.zhou_rescaled, "with rescaling {} % ({}, supported at a margin of {})"),
    (lambda: [shown(of.config(E6)["learned_steps"], 0), shown(zhou.AUTHORS_STEPS, 0)],
     "by {} iterations of Adam where the authors took {} of"),
    # Stability
    (lambda: [f"{stability.STABLE:g}"], "between two copies of a ticket is below {} points"),
    (of.below_the_limit, "({} and {} points below the limit, {} to {} and {} to {}, both supported)"),
    (of.apart,
     "Two copies of a ticket at {} % end {} apart, at {}° (published {} and {}°), of a random mask {} apart, "
     "at {}° ({} and {}°)"),
    # Pruning before and while training
    (lambda: [of.smallest()["kept"]], "six sizes down to {} %"),
    (lambda: [*least_and_greatest(early(*(f"{name}-over-random" for name in BEFORE)), 1),
              *least_and_greatest(early(*(f"{a}-below-{b}" for a in BEFORE for b in AFTER)), 1)],
     "{} to {} points above random over all sizes, {} to {} below)"),
    (lambda: [*verdict(E8, "snip-random", -1), *verdict(E8, "grasp-random", -1)],
     "SNIP ({} points lost, {} to {}) and GraSP ({}, {} to {}; both contradicted)"),
    (lambda: [*{shown(gap, 1) for gap in early("one-shot-random", "imp-random")},
              *least_and_greatest(early("one-shot-reinit", "imp-reinit"), 1)],
     "lose {} points when shuffled and {} to {} with fresh weights"),
    (lambda: [shown(gap) for gap in early("set-over-static", "rigl-over-static")], "({} and {} points,"),
    (lambda: [of.smallest()[name] for name in ("kept", "rigl_erk", "rigl_uniform", "gradual_erk", "imp")],
     "At {} % it is plain to see, though no claim was made of it: RigL has {} % with ERK and {} with layers "
     "of one density, gradual pruning with ERK {}, iterative magnitude pruning {}."),
    # Speed
    (lambda: [str(cases.USUAL_BATCH[MLP])], "batches of {} over", "batches of {}), against"),
    (lambda: [sweep()], "trains {} times as fast as PyTorch"),
    (lambda: [sweep(), of.target("sweep_torch")],
     "trains {} times as fast as PyTorch, whose masks save nothing (our target of {} is missed",
     "), against PyTorch | {} | {} |"),
    (of.level_by_dense, "at {} % of the weights a step is {} times as fast as the dense one",
     "a step with {} % of the weights, against our dense one | {} |",
     "a step with {} % of the weights is {} times as fast as the dense one"),
    (lambda: [of.level_by_dense()[1], of.target("level_dense")],
     "{} times as fast as the dense one (target {}:", "against our dense one | {} | {} |"),
    (lambda: [str(of.config("benchmark")["runs"][-1]), of.ratio(MLP, 88), *of.share_of_peak(),
              f"{cases.TIMES_TORCH:g}", f"{100 * cases.SHARE_OF_PEAK:g}"],
     "{} networks train {} times as fast, at {} % of the cores' peak in matrix products (targets {} and {} %",
     "{0} dense LeNet-300-100, against PyTorch | {1} | {3} |"),
    (of.share_of_peak, "at {} % of the cores' peak in matrix products"),
    (of.cost_of_a_step, "a step costs {} µs a network whatever its batch, at least {} of them",
     "A step costs {} µs a network whatever its batch, at least {} of them"),
    (lambda: [shown(cases.USUAL_BATCH[LENET5], 0), of.ratio(LENET5, 11)],
     "LeNet-5s with batches of {} are as fast as there ({} times)",
     "LeNet-5 with batches of {}, against PyTorch | {} |"),
    (lambda: [of.ratio(MLP, 1)], "a single LeNet-300-100 is slower ({})",
     "one LeNet-300-100 alone, against PyTorch | {} |"),
    (lambda: [of.by_plain_loop()], "trains {} times as fast as in a jitted loop of its own",
     "against a jitted loop of its own | {} |"),
    (lambda: [of.ratio(CNN, 4), of.target("cnn_torch")], "but {} times as fast as in PyTorch",
     "the same CNN, against PyTorch | {} | {} |"),
    (lambda: [of.ratio(CONV2, 4)], "Conv-2 {} times (both", "({} times for Conv-2)",
     "Conv-2, against PyTorch | {} |"),
    (lambda: [of.ratio(CONV2, 4), of.target("conv2_torch")], "Conv-2 {} times (both",
     "Conv-2, against PyTorch | {} | {} |"),
    (lambda: of.sparse_path()[:1], "took {} of the time"),
    (lambda: of.sparse_path()[1:],
     "equal within {} accuracy points at every level down to {} % of the weights"),
]
"""(what computes the numbers, wordings they stand in): at least one wording of every row is on some page."""
# fmt: on
