"""Runs of the real command line, many in a row, as children of one process that has imported everything.

A fresh interpreter spends two seconds on imports and five on compiling; a child forked before JAX has started
its backend spends neither (with JAX's compilation cache on disk), and is a process like any other to a
signal, to a file system and to a lock.

``python tests/forks.py`` reads a step a line, a JSON object, and writes a line for each: the exit code
(negative: the signal that ended it), the seconds, and those of a processor. A step has

* ``arguments`` of ``python -m experiments``, or ``save``, a folder to write a small checkpoint into, or
  ``find``, a folder for :func:`small_search`, whose arrays go to the folder's name with ``.npz`` behind it;
* ``output``, the file that standard output and error go to;
* ``kill_after`` seconds, or ``kill_at``, a text in the output: when to send ``signals`` (default: SIGKILL);
* ``kill_at_operation``: the child ends itself by SIGKILL before its so-many-th operation in that folder;
* ``file_size``, a limit in bytes on any file written; ``grace``, another ``signals.GRACE``.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX has no threads yet

import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.figure  # noqa: E402, F401
import netCDF4  # noqa: E402, F401
import numpy as np  # noqa: E402

import experiments.__main__  # noqa: E402
import experiments.init_comparison.experiment  # noqa: E402
from lth_jax.runs import checkpoints, signals  # noqa: E402

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def small_tree(finished: int) -> dict:
    """What ``save`` saves: different at every level."""
    return {"runs": {"w": np.arange(6.0) + finished, "mask": np.arange(6) > finished}, "seconds": np.ones(3)}


def small_search(folder: str | None) -> dict:
    """Everything that ``find_tickets`` can do in a folder: its arrays by name."""
    import jax
    import jax.numpy as jnp
    import optax

    import lth_jax
    from lth_jax.types import Split

    rng, labels = np.random.default_rng(0), np.arange(120, dtype=np.int32) % 4
    images = rng.integers(0, 60, (120, 4, 4, 1), dtype=np.uint8)
    for label in range(4):
        images[labels == label, label] += 180
    train, held = (
        Split(jnp.asarray(images[s]), jnp.asarray(labels[s])) for s in (slice(80), slice(80, None))
    )
    found = lth_jax.find_tickets(
        lth_jax.MLP((8,), classes=4), optax.adam(0.01), train, held, seeds=(3, 4, 5), levels=3, epochs=2,
        batch_size=20, rewind=2, controls=("reinit", "random_mask"), eval_every=3, validation=held,
        keep_weights=[0, 2], folder=folder,
    )  # fmt: skip
    trees = {"mask": found.masks, "rewind_to": found.rewind_to, "weights": found.weights}
    leaves = {f"{n}{i}": v for n, tree in trees.items() for i, v in enumerate(jax.tree.leaves(tree))}
    return {name: np.asarray(v) for name, v in {**leaves, **found.results.data_vars}.items()}


def kill_at(operation: int, folder: str) -> None:
    """End this process before its so-many-th operation on what is in a folder."""
    left = operation

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in OPERATIONS and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def child(step: dict) -> None:
    """One step, in this process."""
    output = os.open(step["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if limit := step.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signals.GRACE = step.get("grace", signals.GRACE)
    if operation := step.get("kill_at_operation"):
        kill_at(operation, step["save"])
    if folder := step.get("save"):
        finished = max(checkpoints.numbers(Path(folder)), default=0) + 1
        checkpoints.save(Path(folder), finished, small_tree(finished))
        return
    if folder := step.get("find"):
        np.savez(f"{folder}.npz", **small_search(folder))
        return
    sys.argv = ["experiments", *step["arguments"]]
    experiments.__main__.main()


def play(step: dict) -> tuple[int, float]:
    """One step in a child: its exit code, and its seconds of a processor."""
    Path(step["output"]).write_text("")
    if (pid := os.fork()) == 0:
        code = 1
        try:
            child(step)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if "kill_after" in step or "kill_at" in step:
        send(pid, step)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def send(pid: int, step: dict) -> None:
    """Send a step's signals to a child when it is time."""
    deadline = time.monotonic() + step.get("kill_after", 120)
    while time.monotonic() < deadline and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if "kill_at" in step and step["kill_at"] in Path(step["output"]).read_text(errors="replace"):
            break
        time.sleep(0.002)
    for position, name in enumerate(step.get("signals", ["SIGKILL"])):
        time.sleep(0.3 if position else 0)
        os.kill(pid, signal.Signals[name])


if __name__ == "__main__":
    for line in sys.stdin:
        started = time.monotonic()
        code, processor = play(json.loads(line))
        end = {"code": code, "seconds": time.monotonic() - started, "processor": processor}
        print(json.dumps(end), flush=True)
