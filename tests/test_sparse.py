"""Weights held compressed: the native product, models given it, and levels trained with it."""

import shutil
import subprocess
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx

import lth_jax
from lth_jax import compression, levels, models, tasks, training
from lth_jax.kernels import native, sparse
from lth_jax.runs import speed

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
needs_compiler = pytest.mark.skipif(
    not native.native().available, reason=f"no native kernels: {native.native().reason}"
)
KINDS = {"native": ["-march=native"], "no vectors named": [], "AVX2": ["-march=haswell"]}


def drawn(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def kept(shape, density):
    return jnp.asarray(RNG.permutation(np.prod(shape)).reshape(shape) < round(density * np.prod(shape)))


@needs_compiler
@pytest.mark.parametrize("flags", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", ["check_sparse_product", "check_convolution"])
def test_the_kernels_under_sanitizers(name, flags, tmp_path):
    """Every kind of tail, against plain loops in double precision; nothing out of bounds or undefined."""
    source, program = ROOT / "tests" / "native" / f"{name}.cc", tmp_path / "check"
    command = [*native.find_compiler(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *flags]
    command += [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-pthread",
        f"-I{native.SOURCES}",
    ]
    built = subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True)
    if "unknown" in built.stderr.lower() or "not supported" in built.stderr:
        pytest.skip(f"this compiler does not know {flags}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(": 0 problems")


@needs_compiler
@pytest.mark.parametrize("batch", [1, 7, 60, 64, 100, 1024])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_the_product_and_its_gradients(batch, density):
    shape, room = (300, 37), 5
    mask, x, weights = kept(shape, density), drawn(batch, shape[0]), drawn(batch, shape[1])
    kernel = jnp.where(mask, drawn(*shape), 0)
    where = sparse.structure(mask, int(mask.sum()) + room)
    values = sparse.compress(kernel, where)
    np.testing.assert_array_equal(sparse.expand(values, where, shape), kernel)

    @jax.jit
    def both(x, values, kernel):
        ours = lambda x, v: jnp.sum(weights * sparse.product(x, sparse.Compressed(v, where, shape)))  # noqa: E731
        product = sparse.product(x, sparse.Compressed(values, where, shape))
        return product, *jax.grad(ours, (0, 1))(x, values)

    y, dx, dvalues = both(x, values, kernel)
    x, kernel, weights = (np.asarray(each, np.float64) for each in (x, kernel, weights))
    np.testing.assert_allclose(y, x @ kernel, atol=1e-4)
    np.testing.assert_allclose(dx, weights @ kernel.T, atol=1e-4)
    gradient = sparse.expand(dvalues, where, shape)
    np.testing.assert_allclose(gradient, np.where(mask, x.T @ weights, 0), atol=2e-5 * max(batch, 10))
    assert (np.asarray(gradient)[~np.asarray(mask)] == 0).all()


class Deep(nn.Module):
    """Kernels met by batches, sequences and remat; one in half precision, one transposed, one shared."""

    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Dense)(8, name="remat")(x)
        x = nn.Dense(8, name="plain")(nn.relu(x))
        x = x + nn.Dense(8, name="half", dtype=jnp.bfloat16)(x).astype(x.dtype)
        shared = nn.Dense(8, name="shared")
        tied = self.param("tied/kernel", nn.initializers.lecun_normal(), (8, 8))
        return shared(shared(x)) @ tied.T


@needs_compiler
def test_a_model_is_given_compressed_kernels_wherever_it_multiplies_by_them():
    network, x = models.from_linen(Deep()), drawn(3, 5, 8)
    params, _ = network.init(jax.random.key(0), x)
    uses = sparse.uses(network.apply, params, {}, x)
    paths = ["/".join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)]
    found = {path: use for path, use in zip(paths, uses, strict=True) if use}
    assert found == {"plain/kernel": sparse.Use(15, True), "remat/kernel": sparse.Use(15, False)}

    masks = [kept(leaf.shape, 0.4) if leaf.ndim == 2 else None for leaf in jax.tree.leaves(params)]
    where = [None if mask is None else sparse.structure(mask, int(mask.sum())) for mask in masks]
    leaves, tree = jax.tree.flatten(params)
    dense = [leaf if m is None else jnp.where(m, leaf, 0) for leaf, m in zip(leaves, masks, strict=True)]
    packed = [leaf if w is None else sparse.compress(leaf, w) for leaf, w in zip(leaves, where, strict=True)]
    whole, held = jax.tree.unflatten(tree, dense), jax.tree.unflatten(tree, packed)
    apply = sparse.with_compressed(network.apply, params, where)
    value = lambda apply: lambda params: jnp.mean(apply(params, {}, x, None)[0] ** 2)  # noqa: E731
    expected, gradient = jax.jit(jax.value_and_grad(value(network.apply)))(whole)
    found, own = jax.jit(jax.value_and_grad(value(apply)))(held)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for g, o, m, w in zip(jax.tree.leaves(gradient), jax.tree.leaves(own), masks, where, strict=True):
        o = o if w is None else sparse.expand(o, w, m.shape)
        np.testing.assert_allclose(o, g if m is None else jnp.where(m, g, 0), rtol=0.02, atol=1e-4)


class Pixels(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(70)(x))
        x = nn.Dense(70)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))
        return nn.Dense(3)(nn.relu(x))


class OfNnx(nnx.Module):
    def __init__(self, rngs):
        self.one, self.two = nnx.Linear(65, 70, rngs=rngs), nnx.Linear(70, 3, rngs=rngs)

    def __call__(self, x):
        return self.two(nnx.relu(self.one(x)))


OWN = (
    lambda key, x: ({"kernel": jax.random.normal(key, (65, 3)) / 8, "hidden": {"kernel": jnp.eye(65)}}, {}),
    lambda params, rest, x, key: (jnp.tanh(x @ params["hidden"]["kernel"]) @ params["kernel"], rest),
)
TABLE = RNG.normal(size=(120, 65)).astype(np.float32)
CLASSES = (TABLE[:, 0] > 0).astype(np.int32) + (TABLE[:, 1] > 0)
MODELS = {"linen": Pixels(), "nnx": models.from_nnx(lambda rngs: OfNnx(rngs=rngs)), "functions": OWN}


def search(sparse_kernels, model="linen", optimizer=None, **options):
    options = {"seeds": (1, 2), "levels": 3, "epochs": 3, "batch_size": 20, "rate": 0.6} | options
    return lth_jax.find_tickets(
        MODELS[model], optimizer or optax.adam(0.01), (TABLE, CLASSES), (TABLE, CLASSES),
        sparse_kernels=sparse_kernels, **options,
    )  # fmt: skip


def assert_same(one, other, rtol=1e-2):
    for name in one.results:
        if name == "compressed":
            continue
        atol = 0.02 if "accuracy" in name else 1e-5
        np.testing.assert_allclose(one.results[name], other.results[name], rtol=rtol, atol=atol, err_msg=name)


CASES = {
    "linen": {},
    "nnx": {"model": "nnx"},
    "functions": {"model": "functions"},
    "global": {"scope": "global"},
    "controls": {"controls": ("reinit", "rearrange", "random_mask")},
    "step k": {"rewind": 5, "eval_every": 4, "validation": (TABLE[:40], CLASSES[:40])},
    "rewound": {"rewind": 5, "rewind_optimizer": "rewound"},
    "learning rate": {"rewind": "lr:5"},
    "clipped": {"optimizer": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9))},
    "decayed": {"optimizer": optax.adamw(0.01, weight_decay=0.1)},
    "schedule free": {"optimizer": optax.contrib.schedule_free_sgd(0.1)},
    "one-shot, smoothed": {"task": tasks.classification(label_smoothing=0.1), "one_shot": True},
}


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_levels_are_those_of_the_dense_path(case):
    """The same tickets, of which compressed ones have the dense ones' losses within rounding."""
    observe = {"norm": lambda state: optax.tree.norm(state.params)} if case == "step k" else None
    dense, held = (search(mode, keep_weights=True, observe=observe, **CASES[case]) for mode in ("off", "on"))
    assert (dense.results["compressed"] == 0).all()
    first = held.results["compressed"].isel(layer=0)
    assert (first.isel(level=slice(1, None)) > 0).all()
    kept_weights = held.results["kept_weights"].isel(layer=0)
    if case == "global":  # there is room for the network that keeps most
        assert (first >= kept_weights).all()
    else:
        np.testing.assert_array_equal(first, kept_weights)
    assert_same(dense, held)
    for one, other in zip(jax.tree.leaves(dense.masks), jax.tree.leaves(held.masks), strict=True):
        assert np.mean(one == other) > 0.99  # a weight at the edge may fall on the other side
    for weights, mask in zip(jax.tree.leaves(held.weights[0]), jax.tree.leaves(held.masks), strict=True):
        ticket = np.asarray(weights)[:, :, 0]
        assert (ticket[~np.asarray(mask)] == 0).all()


@needs_compiler
def test_one_training_is_the_dense_one_step_by_step():
    network = models.from_nnx(lambda rngs: OfNnx(rngs=rngs))
    params, _ = network.init(jax.random.key(0), TABLE[:1])
    mask = jax.tree.map(lambda leaf: kept(leaf.shape, 0.3) if leaf.ndim == 2 else leaf == leaf, params)
    recipe = training.Recipe(network, optax.adam(0.01), 20, 12, eval_every=3)
    start = levels.Start(jnp.int32(1), jnp.int32(2), levels.Ticket(params, mask, {}), {}, {})
    data = (jnp.asarray(TABLE), jnp.asarray(CLASSES))
    entries = (None, 1365, None, None)
    assert [mask.size for mask in jax.tree.leaves(mask)] == [70, 65 * 70, 3, 210]
    one, other = (
        jax.jit(
            lambda start, held=held: levels.train_network(start, data, {"train": data}, recipe, entries=held)
        )(start)
        for held in (None, entries)
    )
    for found, expected in zip(jax.tree.leaves(other.trained), jax.tree.leaves(one.trained), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(other.curves.batch_loss, one.curves.batch_loss, rtol=1e-5)
    np.testing.assert_array_equal(other.compressed, [0, 1365, 0, 0])


@needs_compiler
@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optax.adam(0.01), True),
        (optax.lamb(0.01), True),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01)), True),
        (optax.adamw(1e-3, weight_decay=1e-4), True),
        (optax.adamw(1e-3, weight_decay=1e-4, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)), False),
        (optax.chain(optax.adaptive_grad_clip(0.01), optax.sgd(0.1)), False),
        (optax.adafactor(0.01), False),
        (optax.contrib.muon(0.01), False),
        (optax.noisy_sgd(0.01, key=jax.random.key(0)), False),
    ],
)
def test_an_optimizer_that_looks_at_whole_kernels_is_found_out(optimizer, expected):
    shapes = {
        "kernel": jax.ShapeDtypeStruct((150, 130), jnp.float32),
        "bias": jax.ShapeDtypeStruct((9,), "f4"),
    }
    assert compression.separable(optimizer, shapes, [False, True]) is expected


@needs_compiler
def test_such_an_optimizer_trains_dense_and_says_so(tmp_path, capsys):
    found = search("on", optimizer=optax.contrib.muon(0.01), folder=tmp_path / "run")
    assert (found.results["compressed"] == 0).all()
    assert "the optimizer looks at whole kernels" in capsys.readouterr().out


def test_without_native_kernels_levels_train_dense_and_say_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "native", lambda: native.Native(False, "no C++ compiler: c++"))
    found = search("on", folder=tmp_path / "run")
    assert (found.results["compressed"] == 0).all()
    assert "pruned weights cost as much as kept ones: no C++ compiler: c++" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["0", "off", "False"])
def test_the_variable_that_does_without(monkeypatch, named):
    monkeypatch.setenv("LTH_JAX_NATIVE", named)
    assert native.native.__wrapped__() == (False, "LTH_JAX_NATIVE is 0", 0, 0)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("nowhere-c++", "no C++ compiler: nowhere-c++"), ("false", "false fails: exit code 1"), ("", "")],
)
def test_a_compiler_that_is_missing_or_fails(monkeypatch, tmp_path, compiler, reason):
    monkeypatch.delenv("LTH_JAX_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", str(tmp_path))
        reason = "no C++ compiler: c++, g++, clang++"
    found = native.native.__wrapped__()
    assert (found.available, found.reason) == (False, reason)
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_kernels_are_built_once_for_each_kind_of_processor(tmp_path, monkeypatch):
    first = native.build(tmp_path)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "", "")
    )
    monkeypatch.setattr(native, "_version", lambda compiler: "another version")
    with pytest.raises(OSError, match=r"kernels\.so"):  # it has to be compiled anew, and nothing was made
        native.build(tmp_path)
    monkeypatch.undo()
    assert native.build(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    shutil.rmtree(tmp_path)


@needs_compiler
def test_a_damaged_library_is_compiled_again_and_cxx_may_have_arguments(tmp_path, monkeypatch):
    monkeypatch.delenv("LTH_JAX_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"{native.find_compiler()[0]} -DNOTHING=1")
    path = native.build()
    path.write_bytes(path.read_bytes()[:500])
    assert native._loaded().lth_tile() == native.native().tile
    assert path.stat().st_size > 10_000


@needs_compiler
def test_a_resumed_sweep_chooses_as_it_did(tmp_path, monkeypatch, capsys):
    """What was measured when it began decides, whatever the machine does meanwhile: the same to the bit."""
    fast, slow = speed.Speed(1.0, 0.0, 1e-6), speed.Speed(0.0, 1.0, 1.0)
    monkeypatch.setattr(speed, "WORTH_MEASURING", 0.0)
    monkeypatch.setattr(speed, "COMPILING", 0.0)
    monkeypatch.setattr(speed, "measure", lambda *_: fast)
    options = {"folder": tmp_path / "run", "keep_weights": True}
    first = search("auto", **options)
    assert (first.results["compressed"].isel(layer=0) > 0).all()
    monkeypatch.setattr(speed, "measure", lambda *_: slow)
    newest = max((tmp_path / "run" / "checkpoints").glob("[0-9]"), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    again = search("auto", **options)
    jax.tree.map(np.testing.assert_array_equal, again.weights, first.weights)
    capsys.readouterr()
    (tmp_path / "run" / "checkpoints" / speed.RECORD).write_text("[1")
    search("auto", **options)
    assert "speed.json is damaged: speeds are measured again" in capsys.readouterr().err


def test_a_level_compresses_what_pays():
    speeds = [speed.Speed(dense=1e-3, fixed=1e-4, each=1e-8), None, speed.Speed(1e-4, 1e-5, 1e-8)]
    choose = speed.chooser(speeds)
    assert speeds[0].break_even == pytest.approx(85_000)
    assert choose((20_000, 5, 4_000), 1e5) == (20_000, None, 4_000)
    assert choose((90_000, 5, 4_000), 1e5) == (None, None, 4_000)
    assert choose((90_000, 5, 9_500), 1e5) == (None, None, None)
    assert choose((20_000, 5, 4_000), 1e3) == (None, None, None)  # a second saved, three to compile
    assert choose((0, 5, 4_000), 1e5) == (1, None, 4_000)


def test_a_layers_speed_is_a_line_through_two_sizes(monkeypatch):
    taken = {None: 5e-4, 8192 // 33: 2e-4, 8192 // 3: 3e-4}
    monkeypatch.setattr(speed, "_step_seconds", lambda shape, use, optimizer, kept: taken[kept])
    found = speed.measure((128, 64), sparse.Use(60, True), optax.adam(1e-3))
    assert found.dense == 5e-4
    for kept in (8192 // 33, 8192 // 3):
        assert found.compressed(kept) == pytest.approx(taken[kept])


@needs_compiler
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("kept", [None, 300])
def test_a_layer_is_trained_to_be_measured(gradient, kept):
    assert 0 < speed._step_seconds((128, 64), sparse.Use(60, gradient), optax.adam(1e-3), kept) < 60


def test_what_a_call_does_once_is_no_steps(monkeypatch):
    """Compressing a state and moving it took ten steps' time of a wide layer, and nothing was worth it."""
    clock = [0.0]

    def takes_a_while(train, chunk):
        def run(states, times):
            clock[0] += 5.0 + 0.25 * int(times)
            return states

        return run

    monkeypatch.setattr(speed.axis, "map_runs", takes_a_while)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    for kept in (None, 300):
        took = speed._step_seconds((128, 64), sparse.Use(60, True), optax.adam(1e-3), kept)
        assert took == pytest.approx(0.25)


@needs_compiler
def test_an_optimizer_that_knows_the_models_own_layers_is_measured_by_another(monkeypatch):
    asked = []

    def measure(shape, use, optimizer):
        asked.append(optimizer)
        optimizer.init({"kernel": jnp.zeros(shape)})
        return speed.Speed(1.0, 0.0, 1e-6)

    labels = lambda params: {"Dense_0": "a", "Dense_1": "b", "Dense_2": "b", "BatchNorm_0": "b"}  # noqa: E731
    own = optax.multi_transform({"a": optax.adam(0.01), "b": optax.sgd(0.1)}, labels)
    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "WORTH_MEASURING", 0.0)
    monkeypatch.setattr(speed, "COMPILING", 0.0)
    found = search("auto", optimizer=own)
    assert len(asked) == 4  # each of two layers, tried with either
    assert (found.results["compressed"].isel(layer=0) > 0).all()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="sparse_kernels maybe: expected auto, on, off"):
        search("maybe")
