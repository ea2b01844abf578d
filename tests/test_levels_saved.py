"""Levels saved after each: a loop that was stopped goes on, and what does not fit is named beforehand."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_levels import DIGITS, LEVELS, assert_close, begin, make_plan, reinit

from lth_jax.runs import sweep
from lth_jax.runs.rounds import with_checkpoints


class Killed(Exception):
    """What stands for the end of the process."""


def test_a_loop_that_was_stopped_goes_on_where_it_was(tmp_path):
    plan = make_plan(eval_every=10, controls={"reinit": reinit})
    options = {"watch": {"test": DIGITS}, "inspect": lambda run: run.level}
    options["record"] = lambda outcome: outcome.curves.observed["test"]["loss"]
    shapes = sweep.level_shapes(begin(plan), DIGITS, plan, **options)
    like, played, reports = (shapes.networks, shapes.inspected), [], []

    def run(folder, report=reports.append, **keeping):
        def rounds(runs):
            for level in sweep.run_levels(runs, DIGITS, plan, **options):
                played.append(folder.name)
                yield level.runs, (level.networks, level.inspected), level.trained.params

        kept = shapes.trained.params if keeping else {}
        return with_checkpoints(folder, begin(plan), (like, kept), rounds, LEVELS, report, **keeping)

    def killed(progress):
        if progress.level == 1:
            raise Killed

    keeping = {"keep_levels": (0, 3)}
    whole, kept, seconds = run(tmp_path / "whole", **keeping)
    assert [progress.level for progress in reports] == [0, 1, 2, 3]
    with pytest.raises(Killed):
        run(tmp_path / "parts", killed, **keeping)
    reports.clear()
    resumed, kept_too, _ = run(tmp_path / "parts", **keeping)
    assert [(progress.level, progress.resumed) for progress in reports] == [(1, 2), (2, 2), (3, 2)]
    assert played.count("whole") == LEVELS
    assert played.count("parts") == LEVELS, "no level was played twice"
    np.testing.assert_allclose(resumed[0], whole[0], rtol=1e-5)
    np.testing.assert_array_equal(resumed[1], [[level] * 3 for level in range(LEVELS)])
    assert whole[0].shape == (LEVELS, 3, 2, 2)  # levels, runs, networks, evaluations
    assert (seconds > 0).all()
    assert kept["output"]["kernel"].shape == (2, 3, 2, 8, 4)  # kept levels, runs, networks
    assert_close(kept_too, kept)
    assert (kept["output"]["kernel"][0, :, 0] != 0).all()
    assert ((kept["output"]["kernel"][1, :, 0] == 0).sum((1, 2)) == 15).all()
    again, _, _ = run(tmp_path / "parts", **keeping)
    assert played.count("parts") == LEVELS
    np.testing.assert_array_equal(again[0], resumed[0])


def test_what_does_not_fit_is_named_before_anything_is_compiled():
    plan = make_plan()
    runs = begin(plan)._replace(level=jnp.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"at different levels, \[0, 1\]"):
        next(sweep.run_levels(runs, DIGITS, plan))
    wrong = DIGITS._replace(labels=DIGITS.labels + 3)
    for given in ((wrong, {}), (DIGITS, {"test": wrong})):
        with pytest.raises(ValueError, match="the network has logits for 0 … 3"):
            next(sweep.run_levels(begin(plan), given[0], plan, watch=given[1]))
