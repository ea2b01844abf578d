"""What the command refuses in one line: wrong flags, wrong files, and a folder that holds another run."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from sweeps import TINY, TRUNK, make_place

COMMITTED = Path(__file__).parents[1] / "experiments" / "results"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with sixty digits, somebody's module, and a run."""
    return make_place(tmp_path_factory.mktemp("command"), ["sweep", *TRUNK, "--out", "run"])


LINES = {
    "--levels 0: expected 1 to 1,000": "sweep --levels 0",
    "--levels abc: expected int": "sweep --levels abc",
    "rewind -3: expected start, none, an iteration": "sweep --rewind=-3",
    "rewind 1.5: expected start, none, an iteration": "sweep --rewind 1.5",
    "rewind lr:: expected start, none, an iteration": "sweep --rewind lr:",
    "--rewind lr:4: a level has 3 steps": "sweep --rewind lr:4 TINY",
    "--rewind-schedule carried: unknown": "sweep --rewind-schedule carried",
    "--rewind-optimizer kept: unknown": "sweep --rewind-optimizer kept",
    "needs an iteration to rewind to": "sweep --rewind-optimizer rewound TINY",
    "'reinti': unknown control": "sweep --controls reinti",
    "--controls reinit,reinit: ": "sweep --controls reinit,reinit TINY",
    "--eval-every -1": "sweep --eval-every=-1",
    "--validation 60: there are 60 examples": "sweep --validation 60 TINY",
    "--batch-size 20: larger than the 19": "sweep --validation 41 TINY",
    "--keep-weights some: expected none, all, or levels": "sweep --keep-weights some",
    "--keep-weights 9: the levels are 0 to 2": "sweep --keep-weights 0,9 --levels 3",
    "--keep-weights 1,1: one is twice": "sweep --keep-weights 1,1",
    "--score biggest: unknown": "sweep --score biggest",
    "--density 1.0": "sweep --density 1",
    "1 levels: expected 2 or more": "sweep --density 0.1 --levels 1 TINY",
    "--rate 0.2,0.3: expected one, or 9": "sweep --rate 0.2,0.3",
    "--one-shot yes: expected true or false": "sweep --one-shot yes",
    "--rewind 4: a level has 3 steps": "sweep --rewind 4 TINY",
    "the range 5-3 runs backwards": "sweep --seeds 5-3",
    "gives float32[1,5], expected logits [1, 10 or more]": "sweep --model somebodys_net:Few TINY",
    "--model somebodys_net:Pair: ": "sweep --model somebodys_net:Pair TINY",
    "is a Other, no flax.linen.Module": "sweep --model somebodys_net:Other TINY",
    "missing 1 required positional argument": "sweep --model somebodys_net:needs TINY",
    "has no attribute 'None_'": "sweep --model somebodys_net:None_ TINY",
    "No module named 'nobodys_net'": "sweep --model nobodys_net:Net TINY",
    "--model lenet: unknown": "sweep --model lenet",
    "--model :Net: unknown": "sweep --model :Net",
    "--hidden nothing: --model mlp takes": "sweep --model mlp",
    "--hidden 8: only --model mlp": "sweep --hidden 8",
    "--initializer: unknown initialization 'nope'": "sweep --initializer nope",
    "--optimizer lbfgs: unknown": "sweep --optimizer lbfgs",
    "--schedule warmup: say --warmup-steps": "sweep --schedule warmup",
    "--warmup-steps 5: --schedule is constant": "sweep --warmup-steps 5",
    "--warmup-steps 3: a level has 3 steps": "sweep --schedule warmup --warmup-steps 3 TINY",
    "--schedule piecewise: say --boundaries too": "sweep --schedule piecewise",
    "--boundaries 5: --schedule is cosine": "sweep --schedule cosine --boundaries 5",
    "--decay 0.5: --schedule is constant": "sweep --decay 0.5",
    "--decay 2.0: expected 1e-06 to 1": "sweep --schedule piecewise --boundaries 2 --decay 2",
    "--boundaries 80x: expected an iteration as 32000": "sweep --schedule piecewise --boundaries 80x",
    "--boundaries 0e: expected an iteration": "sweep --schedule piecewise --boundaries 0e",
    "--boundaries 1e: a level has 3 steps": "sweep --schedule piecewise --boundaries 1e TINY",
    "--boundaries 2: is step 2, after one at 2": "sweep --schedule piecewise --boundaries 2,2 TINY",
    "--decoupled: say --weight-decay too": "sweep --decoupled",
    "--decay-only: say --weight-decay too": "sweep --decay-only kernels",
    "--decay-only weights: unknown": "sweep --decay-only weights --weight-decay 1",
    "--norm layer: unknown": "sweep --norm layer --model resnet20",
    "--layer-rates output: expected LAYER=RATE": "sweep --layer-rates output",
    "--layer-rates output=2: expected LAYER=RATE": "sweep --layer-rates output=2",
    "--layer-rates output=0.2: output is named twice": "sweep --layer-rates output=0.1,output=0.2",
    "no layer called outpt": "sweep --layer-rates outpt=0.1 TINY",
    "a global ranking takes one rate": "sweep --layer-rates output=0.1 --scope global TINY",
    "would have none of its 80 weights left": "sweep --model mlp --hidden 8 --rate 0.9 --levels 5 TINY",
    "all layers would have none": "sweep --model mlp --hidden 8 --rate 0.99 --scope global --levels 9 TINY",
    "--batch-size 61: larger than the 60": "sweep TINY --batch-size 61",
    "--weight-decay -1.0": "sweep --weight-decay=-1",
    "--log paper: unknown": "sweep --log paper",
    "--out run: holds another configuration's run": "sweep TINY --out run",
    "--config nothing.toml: cannot be read": "sweep --config nothing.toml",
    "unrecognized arguments: --level 3": "sweep --level 3",
    "invalid choice: 'frobnicate'": "frobnicate",
    "the following arguments are required: ACTION": "data",
    "--seed 8: the run has 42, 7": "export run --seed 8 --level 1",
    "--level 2: trained weights are kept of none": "export run --seed 7 --level 2 --trained",
    "--network: goes with --trained": "export run --seed 7 --level 2 --network reinit",
    "--level 3: the run has 0 to 2": "export run --seed 7 --level 3",
    "--level -1: the run has 0 to 2": "export run --seed 7 --level=-1",
    "invalid int value: 'x'": "export run --seed x --level 1",
    "expected a name like ticket.safetensors": "export run --seed 7 --level 1 --out a.json",
    "--out DIGITS.d: is a folder": "export run --seed 7 --level 1 --out DIGITS.d",
    "take a --level after the first": "export run --seed 7 --level 0 --out a.safetensors --measure",
    "only lth-jax sweep keeps its tickets": f"export {COMMITTED / 'xor'} --seed 1 --level 1",
    "invalid choice: 'csh'": "completion csh",
}


@pytest.mark.parametrize(("told", "line"), LINES.items(), ids=LINES)
def test_a_wrong_command_line_is_one_line(refused, place, told, line):
    (place / "DIGITS.d").mkdir(exist_ok=True)
    parts = [part for word in line.split(" ") for part in (TINY if word == "TINY" else [word])]
    if parts[0] == "sweep" and "--out" not in parts:
        parts += ["--out", "never"]
    line = refused(*parts)
    assert told in line
    assert not re.search(r"(--[\w-]+): \1\b", line), "a flag is named once"


FILES = {
    "unknown key 'level'": "level = 3",
    "unknown key 'pruning'": "[pruning]\nrate = 0.2",
    "--levels abc: expected int": 'levels = "abc"',
    "--levels 3.0: expected int": "levels = 3.0",
    "--levels true: expected int": "levels = true",
    "--rate 2.0: expected": "rate = 2.0",
    "--rate nan: not a finite number": "rate = nan",
    "--hidden 8,: an entry is empty": "hidden = ['8', '']",
    "--hidden 8.5: expected int": "hidden = [[8], 8.5]",
    "--distributed 1: expected true or false": "distributed = 1",
    "--seeds 1,1: a seed is named twice": "seeds = [1, 1]",
    "--dataset mist: unknown": 'dataset = "mist"',
    "learning-rate is named twice": "learning_rate = 1\nlearning-rate = 2",
    "holds characters that cannot be printed": 'out = "a\\nb"',
    "expected LAYER=RATE": "layer_rates = {output = 1.5}",
    "is no TOML": "levels",
    "Cannot overwrite a value": "levels = 3\nlevels = 4",
    "invalid start byte": b"\xff",
    "is no TOML:": "x = " + "[" * 100_000,
}


@pytest.mark.parametrize(("told", "content"), FILES.items(), ids=FILES)
def test_a_wrong_file_is_one_line(refused, place, told, content):
    path = place / "wrong.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused("sweep", "--config", "wrong.toml", "--out", "never")
    path.unlink()
    assert told in line


EDITED = """
import flax.linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(nn.relu(nn.Dense(8)(images.reshape(len(images), -1))))
"""


@pytest.mark.parametrize("finished", [True, False])
def test_a_module_that_was_edited_is_another_run(place, call, refused, monkeypatch, finished):
    """Neither does a finished folder show old results, nor a stopped one go on with another network."""
    name = f"edited_net_{finished}"
    (place / f"{name}.py").write_text(EDITED)
    flags = ["sweep", "--model", f"{name}:Net", "--levels", "2", "--seeds", "7", *TINY, "--out", name]
    call(*flags)
    if not finished:
        (place / name / "results.nc").unlink()
    (place / f"{name}.py").write_text(EDITED.replace("nn.relu", "nn.sigmoid"))
    monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    assert "holds the run of another program" in refused(*flags)
