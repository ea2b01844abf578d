"""The benchmark: arithmetic counted by hand, its output, its workers. No timings."""

import importlib.metadata
import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import cli
from experiments.benchmark import cases
from experiments.benchmark import (
    causes as benchmark_causes,
)
from experiments.benchmark import (
    experiment as benchmark,
)
from experiments.benchmark import (
    measures as benchmark_measures,
)
from experiments.benchmark import (
    on_jax as benchmark_jax,
)
from experiments.benchmark import (
    workers as benchmark_workers,
)
from lth_jax import networks
from lth_jax.errors import InputError

DENSE = cases.Case(cases.OURS, cases.MLP, batch=60)
CONVOLUTIONAL = cases.Case(cases.OURS, cases.LENET5, batch=1024)


def test_arithmetic_by_hand():
    # 2·60·(2·784·300 + 3·300·100 + 3·100·10)
    assert cases.step_flops(DENSE) == 67_608_000
    # 2·60·(2·784·600 + 3·600·200 + 3·200·10)
    assert cases.step_flops(DENSE._replace(width=2)) == 156_816_000
    # 28²·75·6 = 352,800 twice; 10²·150·16 = 240,000, 400·120, 120·84 and 84·10 three times; times 2·1024
    assert cases.step_flops(CONVOLUTIONAL) == 3_281_633_280
    assert cases.parameter_count(DENSE) == 266_610
    assert cases.parameter_count(CONVOLUTIONAL) == 62_006
    assert cases.step_bytes(DENSE) == 29 * 266_610
    # pieces of 7 columns from 11, of 5 from 9, where 5 are needed
    assert benchmark_causes.banded_flops(CONVOLUTIONAL) - 3_281_633_280 == 2048 * (
        705_600 * 6 // 5 + 720_000 * 4 // 5
    )
    assert benchmark_causes.banded_flops(DENSE) == cases.step_flops(DENSE)
    # 442,368 in the first convolution; 14,155,776, 13,107,200 and 13,107,200 in the stages; 640
    residual = cases.Case(cases.OURS, cases.RESNET, batch=128)
    assert cases.step_flops(residual) == 2 * 128 * (3 * 40_813_184 - 442_368)


@pytest.mark.parametrize("model", cases.OWN)
def test_models_have_the_parameters_that_are_counted(model):
    counted = cases.parameter_count(cases.Case(cases.OURS, model, batch=1))
    assert counted == networks.parameter_count(benchmark_jax.own(model), cases.SPECS[model].image)


def test_the_steps_of_a_call():
    # 2 s at 60 % of 1e11 FLOP/s are 1775 steps of one network, 161 of each of 11
    assert cases.steps_per_call(DENSE, 2.0, 1e11) == 1775
    assert cases.steps_per_call(DENSE._replace(runs=11), 2.0, 1e11) == 161
    assert cases.steps_per_call(CONVOLUTIONAL._replace(runs=88), 0.1, 1e11) == 2


def test_the_groups():
    arguments = ((1, 11, 88), (1, 2), (60, 240), (3,), 60_000)
    found = [[case.label for case in group] for group in cases.groups(*arguments, torch=True)]
    assert found == [
        [
            "LeNet-300-100 ×1, batch 60: ours, 1 runs",
            "LeNet-300-100 ×1, batch 60: ours, 11 runs",
            "LeNet-300-100 ×1, batch 60: ours, 88 runs",
            "LeNet-300-100 ×1, batch 60: ours, 11 runs, 20 levels",
            "LeNet-300-100 ×1, batch 60: PyTorch",
            "LeNet-300-100 ×1, batch 60: PyTorch per core",
            "LeNet-300-100 ×1, batch 60: PyTorch vmap, 11 runs",
        ],
        [
            f"LeNet-300-100 ×1, batch 60, by weights kept: ours, 11 runs, {share} kept"
            for share in ("100.0%", "51.2%", "32.8%", "21.0%", "13.4%", "6.9%", "5.5%", "2.8%", "1.4%")
        ],
        [
            "LeNet-300-100 ×2, batch 60: ours, 11 runs",
            "LeNet-300-100 ×2, batch 60: PyTorch",
            "LeNet-300-100 ×2, batch 60: PyTorch per core",
        ],
        [
            "LeNet-300-100 ×1, batch 240: ours, 11 runs",
            "LeNet-300-100 ×1, batch 240: PyTorch",
            "LeNet-300-100 ×1, batch 240: PyTorch per core",
        ],
        [
            "LeNet-5 ×1, batch 1024: ours, 3 runs",
            "LeNet-5 ×1, batch 1024: ours, patches, 3 runs",
            "LeNet-5 ×1, batch 1024: PyTorch",
            "LeNet-5 ×1, batch 1024: PyTorch per core",
            "LeNet-5 ×1, batch 1024: PyTorch vmap, 3 runs",
        ],
    ]
    alone = cases.groups(*arguments, torch=False)
    assert {case.side for group in alone for case in group} == {cases.OURS, cases.PATCHES}
    assert [len(group) for group in cases.groups((20,), (1,), (60,), (), 9, torch=False)] == [2, 9]
    own = cases.groups((20,), (1,), (60,), (), 9, torch=True, own=(cases.CNN, cases.CONV2))[2:]
    assert [[case.label for case in group] for group in own] == [
        [
            f"{model} ×1, batch {batch}: {side}"
            for side in ("ours, 4 runs", "plain jitted loop", "PyTorch", "PyTorch per core")
        ]
        for model, batch in (("CNN 16-32", 100), ("Conv-2", 60))
    ]


RATES = {cases.PRODUCT: 1e11, cases.COPY: 1e10, cases.COPY_STATE: 1e11, cases.PATCHES: 5.0}
"""Invented: per second, one for each side; PyTorch's vmap fails."""


def invented(group, config, problems, libraries):
    """Stands for ``measure_group``: the repeats differ by a per mille, ours upwards, others downwards."""
    libraries.add("jax 1.2.3")
    slower = {cases.MLP: 1.0, cases.LENET5: 0.01, cases.CNN: 0.1, cases.CONV2: 0.05}
    rates = RATES | {cases.OURS: 1000.0, cases.EAGER: 250.0, cases.PER_CORE: 500.0, cases.PLAIN: 800.0}
    records = []
    for case in group:
        record = {"case": case, "rates": [np.nan] * config.repeats}
        if case.side == cases.VMAP:
            problems.append(f"{case.label}: out of memory")
        else:
            trained = (cases.OURS, cases.PLAIN, *cases.TORCH)
            factor = slower.get(case.model, 1.0) if case.side in trained else 1.0
            factor *= {cases.ALL_LEVELS: 1.6, cases.LEVELS[13]: 4.1}.get(case.kept, 1.0)
            varied = 1 + np.arange(config.repeats) / 1000
            if case.side != cases.OURS or case.kept == cases.LEVELS[13]:
                varied = varied[::-1]
            record["rates"] = (rates[case.side] * factor * varied).tolist()
            record |= {"compile_seconds": 1.5, "ready_seconds": 4.0, "peak_memory": 2e8}
        records.append(record)
    return records


def torch_is_there(monkeypatch, there):
    """Make it look as if PyTorch were installed, or were not."""
    find_spec = importlib.util.find_spec
    answer = object() if there else None
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: answer if name == "torch" else find_spec(name, *more)
    )


FLAGS = ["--runs", "1,11", "--widths", "1", "--batches", "60", "--lenet5-runs", "2", "--repeats", "3"]
FLAGS += ["--own", cases.CNN]


@pytest.fixture
def finished(monkeypatch, tmp_path, capsys):
    """The folder of a whole benchmark of invented speeds."""
    monkeypatch.setattr(benchmark, "measure_group", invented)
    torch_is_there(monkeypatch, True)
    out = tmp_path / "out"
    cli.main(cli.find("benchmark"), [*FLAGS, "--out", str(out)])
    return out


def test_the_record(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads((finished / "benchmark.json").read_text(), parse_constant=refuse)
    found = {case["label"]: case for case in written["cases"]}
    assert len(found) == 3 + 6 + 9 + 5 + 4
    level = found["LeNet-300-100 ×1, batch 60, by weights kept: ours, 11 runs, 5.5% kept"]
    assert (level["rate"], level["gflops"]) == (pytest.approx(4104.1), None)  # what is left out is no work
    ours = found["LeNet-300-100 ×1, batch 60: ours, 11 runs"]
    assert ours["rate"] == pytest.approx(1001.0)
    assert ours["gflops"] == pytest.approx(67.608 * 1.001)
    assert ours["share_of_peak"] == pytest.approx(0.67608)
    assert ours["ratio_to_best_torch"] == pytest.approx(2.0)
    assert ours["rates"] == pytest.approx([1000, 1001, 1002])
    assert (ours["compile_seconds"], ours["ready_seconds"], ours["peak_memory"]) == (1.5, 4.0, 2e8)
    assert found["LeNet-5 ×1, batch 1024: ours, 2 runs"]["images_per_second"] == pytest.approx(10.01 * 1024)
    lost = found["LeNet-300-100 ×1, batch 60: PyTorch vmap, 11 runs"]
    assert (lost["rate"], lost["gflops"], lost["compile_seconds"]) == (None, None, None)
    assert written["problems"] == [
        "LeNet-300-100 ×1, batch 60: PyTorch vmap, 11 runs: out of memory",
        "LeNet-5 ×1, batch 1024: PyTorch vmap, 2 runs: out of memory",
    ]
    floor = written["floors"][0]
    assert floor["arithmetic"] == pytest.approx(67_608_000 / 1.001e11)
    assert floor["traffic"] == pytest.approx(29 * 266_610 / 1.001e10)
    assert written["machine"]["cores"] >= 1
    assert written["machine"]["libraries"] == "jax 1.2.3"


def test_the_cost_of_a_step_and_of_an_example():
    def measured(side, batch):  # 100 µs a step and 2 µs an example, for PyTorch thrice
        case = cases.Case(side, cases.MLP, batch=batch, runs=11 if side == cases.OURS else 1)
        seconds = (100e-6 + 2e-6 * batch) * (1 if side == cases.OURS else 3)
        return {"case": case, "rates": [1 / seconds] * 3, "compile_seconds": 1.0, "ready_seconds": 2.0}

    peaks = [{"case": cases.Case(side), "rates": [1e12] * 3} for side in cases.PEAKS]
    found = [measured(side, batch) for side in (cases.OURS, cases.EAGER) for batch in (60, 240, 1024)]
    whole = benchmark.labelled(peaks + found, {"machine": '{"platform": "cpu"}', "problems": "[]"})
    costs = {cost["side"]: cost for cost in benchmark_causes.step_costs(whole)}
    assert costs[cases.OURS]["per_step"] == pytest.approx(100e-6)
    assert costs[cases.OURS]["per_example"] == pytest.approx(2e-6)
    assert costs[cases.EAGER]["per_step"] == pytest.approx(300e-6)
    text = "\n".join(benchmark_causes.lines(whole))
    assert "| ours | 100 µs | 2.00 µs | 45% |" in text
    # 67.6 MFLOP are 68 µs at the peak: 104 µs at 65 % of it; PyTorch takes 660 µs
    assert "60 examples take 120 µs, 56% of the peak" in text
    assert "leaves -16 µs and 1.9 times PyTorch's best 227 µs; it takes 100 µs" in text
    assert benchmark_causes.lines(whole.isel(case=[0, 1, 2, 3])) == []


def test_the_targets_are_judged(finished):
    report = (finished / "report.md").read_text()
    claims = (finished / "claims.csv").read_text().splitlines()[1:]
    verdicts = {line.split(",")[0]: line for line in claims}
    names = ["sweep_torch", "level_dense", "mlp_torch", "mlp_peak", "lenet5_torch", "cnn_torch", "cnn_loop"]
    assert list(verdicts) == names
    # Invented as 3.2, 4.1, 2 times PyTorch, 67.6 % of the peak, 2 and 2 times PyTorch, 1.25 times the loop.
    assert all(",supported," in line for line in verdicts.values())
    assert "Not measured" in report
    assert {path.name for path in (finished / "figures").iterdir()} == {"growth.png", "cost.png"}


def test_slower_than_the_target_is_not_supported(monkeypatch, finished):
    monkeypatch.setitem(RATES, cases.PRODUCT, 1.2e11)  # 56 % of the peak
    slower = finished.with_name("slower")
    cli.main(
        cli.find("benchmark"),
        ["--runs", "11", "--widths", "1", "--batches", "60", "--lenet5-runs", "", "--out", str(slower)],
    )
    claims = (slower / "claims.csv").read_text()
    assert ",contradicted," in next(line for line in claims.splitlines() if line.startswith("mlp_peak"))


def test_a_stopped_benchmark_goes_on_with_the_groups_that_are_left(monkeypatch, finished, capsys):
    """Stopped in its last group: the others are not measured again, and all are in the record."""
    out, asked = finished.with_name("stopped"), []

    def measure(group, *rest):
        asked.append(group[0].model)
        if group[0].model == cases.LENET5 and asked.count(cases.LENET5) == 1:
            raise KeyboardInterrupt
        return invented(group, *rest)

    monkeypatch.setattr(benchmark, "measure_group", measure)
    with pytest.raises(SystemExit) as stop:
        cli.main(cli.find("benchmark"), [*FLAGS, "--out", str(out)])
    assert stop.value.code == 130
    before = list(asked)
    capsys.readouterr()
    cli.main(cli.find("benchmark"), [*FLAGS, "--out", str(out)])
    assert asked[len(before) :] == [cases.LENET5, cases.CNN]
    assert capsys.readouterr().out.count("(from before)") == len(before) - 1 == 3
    ours, theirs = (json.loads((folder / "benchmark.json").read_text()) for folder in (out, finished))
    assert ours["cases"] == theirs["cases"]
    assert ours["problems"] == theirs["problems"]


def test_without_pytorch_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "measure_group", invented)
    torch_is_there(monkeypatch, False)
    cli.main(cli.find("benchmark"), ["--out", str(tmp_path / "out")])
    assert "PyTorch is not installed" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert not {case["side"] for case in written["cases"]} & set(cases.TORCH)
    assert written["problems"] == ["PyTorch: PyTorch is not installed (pip install lth_jax[benchmark])"]


def test_a_worker_answers():
    case = cases.Case(cases.OURS, cases.MLP, batch=4, runs=3, steps=2, examples=20)
    worker = benchmark_workers.start(case)
    try:
        (ready,) = worker.ready
        rate, memory = benchmark_workers.ask(worker, 0.0)
    finally:
        benchmark_workers.stop(worker)
    assert ready["version"].startswith("jax ")
    assert ready["first"] > ready["second"] > 0
    assert rate > 0
    assert memory > 1e7
    assert worker.processes[0].returncode is not None


TINY = {"model": cases.MLP, "batch": 4, "steps": 2, "examples": 20}


def measured_tiny(case, repeats=2):
    """A tiny case's record by real workers, once it is sure that all went well; versions of its libraries."""
    problems, libraries = [], set()
    config = benchmark.Config(repeats=repeats, seconds=0.1)
    (record,) = benchmark.measure_group([case], config, problems, libraries)
    assert problems == []
    assert record["case"] == case
    assert len(record["rates"]) == repeats
    assert np.isfinite(record["rates"]).all()
    assert min(record["rates"]) > 0
    assert 0 <= record["compile_seconds"] < record["ready_seconds"]
    assert record["peak_memory"] > 1e7
    return record, libraries


def test_a_group_is_measured_by_a_worker_of_its_own(monkeypatch):
    started, start = [], benchmark_workers.start
    monkeypatch.setattr(benchmark_workers, "start", lambda case: started.append(start(case)) or started[-1])
    _, libraries = measured_tiny(cases.Case(cases.OURS, runs=2, **TINY))
    assert libraries == {f"jax {jax.__version__}"}
    ((process,),) = (worker.processes for worker in started)
    assert process.returncode is not None, "it has ended"


@pytest.mark.parametrize(
    ("side", "model", "kept"),
    [
        (cases.OURS, cases.MLP, cases.ALL_LEVELS),
        (cases.OURS, cases.MLP, 0.0144),
        (cases.OURS, cases.CNN, cases.HALF),
        (cases.PLAIN, cases.CNN, cases.HALF),
        (cases.OURS, cases.CONV2, cases.HALF),
        (cases.OURS, cases.RESNET, cases.HALF),
    ],
)
def test_every_kind_of_case_is_measured(side, model, kept):
    measured_tiny(cases.Case(side, runs=1, kept=kept, **{**TINY, "model": model}), repeats=1)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("side", cases.TORCH)
def test_pytorch_is_measured_by_workers_of_its_own(side):
    case = cases.Case(side, runs=2 if side == cases.VMAP else 1, **TINY)
    _, (library,) = measured_tiny(case)
    assert library.startswith(f"torch {importlib.metadata.version('torch')}")  # and perhaps "+cu130"


@pytest.mark.parametrize(
    ("side", "work"), [(cases.PRODUCT, 2 * 2 * 2048**3), (cases.COPY_STATE, 2 * 8 * 2000 * 3 * 266_610)]
)
def test_the_work_of_a_peak_on_two_devices(side, work):
    assert benchmark_jax.prepare(cases.Case(side)).call() == work


def test_a_call_is_repeated_until_the_time_is_up():
    calls = []
    work, seconds = benchmark_workers.timed(lambda: calls.append(1) or 2.5, 0.01)
    assert work == 2.5 * len(calls)
    assert seconds >= 0.01
    assert len(calls) > 1


def test_a_worker_that_fails_is_a_line_not_a_crash(tmp_path):
    problems, config = [], benchmark.Config(repeats=2, seconds=0.01)
    (record,) = benchmark.measure_group([cases.Case(cases.OURS, "LeNet-6", batch=4)], config, problems, set())
    assert np.isnan(record["rates"]).all()
    assert problems == ["LeNet-6 ×1, batch 4: ours, 1 runs: KeyError: 'LeNet-6'"]


@pytest.mark.parametrize("flags", ["repeats=0", "seconds=0.0", "runs=()", "widths=(2, 2)", "batches=(0,)"])
def test_wrong_input(flags):
    name, value = flags.split("=")
    with pytest.raises(InputError, match=f"--{name}"):
        benchmark.Config(**{name: eval(value)})


def test_quick_is_smaller_than_paper():
    quick, paper = (
        cli.config.build(benchmark.Config, benchmark.PRESETS, name, {}) for name in benchmark.PRESETS
    )
    assert quick.repeats * quick.seconds < paper.repeats * paper.seconds
    assert set(quick.runs) < set(paper.runs)
    assert cases.Case._fields[:7] == benchmark_measures.CASE_FIELDS
