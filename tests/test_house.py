"""The rules that every script of algos/ and gen/ keeps. The scripts are found by themselves: a new one is covered too.

What a new script adds here is one line of TINY: flags for a training of seconds.
"""

import ast
import csv
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
import typing
import zlib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import tyro
from packaging.requirements import Requirement

from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("algos", "gen")
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
every_script = pytest.mark.parametrize("script", SCRIPTS)

COMMON_LINE = "# --- one run: the same in every file of this folder ---"
LAZY = {
    "matplotlib",
    "wandb",
    "sklearn",
    "PIL",
    "cv2",
    "gradio",
    "mujoco",
    "scipy",
    "fontTools",
}  # imported where they are used
CLOCKS = re.compile(r"charts/SPS|time/.*")


@dataclass
class Tiny:
    """The flags of a training of seconds, and what it has to change."""

    flags: str
    """small networks, batches and environments"""
    few: str
    """the budget of a few updates"""
    more: str
    """the budget of more updates"""
    weights: tuple[str, ...] = ()
    """the entries of checkpoint.pt that training changes; none for a script that trains no network"""
    constant: str = r"(?!)"
    """pattern of the tensors in those entries that stay as they are, such as masks"""


TINY = {
    "gen/colorizer.py": Tiny(
        flags="--width 2 --train-images 40 --torch-threads 1",
        few="--epochs 0.5",
        more="--epochs 1",
        weights=("generator", "discriminator"),
    ),
    "gen/pixelcnn.py": Tiny(
        flags="--batch-size 8 --channels 4 --layers 2 --train-images 40 --eval-images 8 --torch-threads 1",
        few="--epochs 0.4",
        more="--epochs 0.8",
        weights=("model",),
    ),
    "gen/deconvnet.py": Tiny(
        flags="--channels 4 6 --hidden 16 --batch-size 20 --train-images 200 --torch-threads 1",
        few="--epochs 0.2",
        more="--epochs 0.4",
        weights=("model",),
        constant=r"\.(mean|std)$",
    ),
    "gen/revnet.py": Tiny(
        flags="--filters 4 4 8 --blocks 1 2 --batch-size 20 --train-images 200 --eval-images 50 --torch-threads 1",
        few="--epochs 0.2",
        more="--epochs 0.4",
        weights=("model",),
        constant=r"\.(mean|std)$",
    ),
    "gen/vae.py": Tiny(
        flags="--batch-size 100 --hidden 16 --latent-dim 4 --nll-samples 10 --nll-images 10 --torch-threads 1",
        few="--epochs 0.4",
        more="--epochs 0.8",
        weights=("model",),
    ),
    "gen/vae_gan.py": Tiny(
        flags="--batch-size 100 --width 4 --latent-dim 4 --judge-updates 3 --eval-images 100 --torch-threads 1",
        few="--epochs 0.2",
        more="--epochs 0.4",
        weights=("encoder", "decoder", "discriminator"),
    ),
    "gen/gan.py": Tiny(
        flags="--batch-size 100 --width 4 --latent-dim 4 --judge-updates 3 --eval-images 100 --torch-threads 1",
        few="--epochs 0.2",
        more="--epochs 0.4",
        weights=("generator", "discriminator"),
    ),
    "gen/draw.py": Tiny(
        flags="--batch-size 100 --hidden-size 8 --latent-dim 3 --num-steps 3 --test-images 20 --torch-threads 1",
        few="--epochs 0.2",
        more="--epochs 0.4",
        weights=("model",),
    ),
    "gen/chat_rnn.py": Tiny(
        flags="--num-messages 600 --width 12 --num-layers 1 --cutoffs 20 60 --judged 20 --torch-threads 1",
        few="--epochs 0.3",
        more="--epochs 0.6",
        weights=("model",),
    ),
    "gen/realnvp.py": Tiny(
        flags="--couplings 2 --hidden 8 --eval-images 500 --torch-threads 1",
        few="--epochs 0.05",
        more="--epochs 0.1",
        weights=("model",),
    ),
    "algos/dynamic_programming.py": Tiny(
        flags="--env-id FrozenLake-v1 --num-runs 10",
        few="--total-sweeps 5",
        more="--total-sweeps 10",
    ),
    "algos/mcts.py": Tiny(
        flags="--simulations 20",
        few="--total-episodes 2",
        more="--total-episodes 4",
    ),
    "algos/dqn.py": Tiny(
        flags="--num-envs 4 --learning-starts 40 --log-every 80 --buffer-size 400 --target-frequency 40",
        few="--total-timesteps 160",
        more="--total-timesteps 320",
        weights=("network", "target_network"),
    ),
    "algos/actor_critic.py": Tiny(
        flags="--num-envs 4 --num-steps 16 --value-epochs 2",
        few="--total-timesteps 200",
        more="--total-timesteps 400",
        weights=("policy", "value"),
    ),
    "algos/reinforce.py": Tiny(
        flags="--num-envs 4 --value-epochs 2",
        few="--total-timesteps 200",
        more="--total-timesteps 400",
        weights=("policy", "value"),
    ),
    "algos/dyna_q.py": Tiny(
        flags="--env-id FrozenLake-v1 --num-runs 3 --planning-steps 2",
        few="--total-episodes 3",
        more="--total-episodes 6",
    ),
    "algos/random_search.py": Tiny(
        flags="--max-episodes 10 --eval-episodes 1",
        few="--num-runs 2",
        more="--num-runs 8",
    ),
    "algos/hill_climbing.py": Tiny(
        flags="--max-episodes 10 --eval-episodes 1",
        few="--num-runs 2",
        more="--num-runs 8",
    ),
    "algos/dyna2.py": Tiny(
        flags="--num-runs 4 --simulations 1 --match-games 2",
        few="--total-episodes 1",
        more="--total-episodes 2",
        weights=("weights",),
    ),
    "algos/sarsa.py": Tiny(
        flags="--num-runs 3 --max-steps 50",
        few="--total-episodes 2",
        more="--total-episodes 4",
    ),
    "algos/q_learning.py": Tiny(
        flags="--num-runs 3 --max-steps 50",
        few="--total-episodes 2",
        more="--total-episodes 4",
    ),
    "algos/tile_coding.py": Tiny(
        flags="--num-runs 2 --max-steps 30 --eval-episodes 1",
        few="--total-episodes 2",
        more="--total-episodes 4",
    ),
    "algos/td_lambda.py": Tiny(
        flags="--env-id walk-5 --num-runs 3 --features fourier --num-features 2 --num-units 2 --learning-rate 0.1",
        few="--total-episodes 2",
        more="--total-episodes 4",
        weights=("weights",),
    ),
    "algos/es.py": Tiny(
        flags="--env-id InvertedPendulum --population 4 --group-size 2 --num-actors 2 --eval-episodes 2",
        few="--total-timesteps 100",
        more="--total-timesteps 400",
        weights=("search",),
    ),
    "algos/mcts_batched.py": Tiny(
        flags="--simulations 10 --num-runs 4",
        few="--total-episodes 4",
        more="--total-episodes 8",
    ),
    "algos/reinforce_mnist.py": Tiny(
        flags="--num-units 8 --batch-size 20 --log-every 100",
        few="--total-timesteps 200",
        more="--total-timesteps 400",
        weights=("network",),
    ),
    "algos/es_mnist.py": Tiny(
        flags="--population 20 --noise full --log-every 2",
        few="--total-timesteps 100",
        more="--total-timesteps 200",
        weights=("parameters",),
    ),
    "algos/natural_gradient.py": Tiny(
        flags="--num-envs 4 --num-steps 32 --policy-units 4 --value-epochs 2",
        few="--total-timesteps 256",
        more="--total-timesteps 512",
        weights=("policy", "value"),
    ),
    "algos/trpo.py": Tiny(
        flags="--num-envs 4 --group-size 2 --num-steps 32 --num-actors 2 --torch-threads 1",
        few="--total-timesteps 256",
        more="--total-timesteps 512",
        weights=("policy", "value"),
    ),
}


def tiny(script: str) -> Tiny:
    budget = "--total-timesteps" if script.startswith("algos/") else "--epochs"
    example = f'"{script}": Tiny("flags that make it small", "{budget} 500", "{budget} 1000", weights=("policy",))'
    assert script in TINY, f"add an entry to TINY, such as {example}"
    return TINY[script]


# --- running a script ------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path):
    """An empty folder, into which a script is to be copied."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return folder


def copy_and_run(script: str, folder: Path, flags: str, **environment: str) -> str:
    """Run a copy of the script in that folder, with nothing else there: its output. Fails when the script does."""
    shutil.copy(ROOT / script, folder)
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WANDB_MODE")}
    env |= {"COLUMNS": "200", **environment}
    command = [sys.executable, Path(script).name, *shlex.split(flags)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)} failed:\n{done.stdout}\n{done.stderr}"
    if "WANDB_MODE" not in environment:
        assert done.stderr == "", "nothing is to be said on stderr: the progress bar is silent without a terminal"
    return done.stdout


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv, None for an empty cell. Whatever stands there must be a finite number."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [{key: float(cell) if cell else None for key, cell in row.items()} for row in csv.DictReader(file)]
    assert rows
    assert all(math.isfinite(number) for row in rows for number in row.values() if number is not None)
    return rows


def tensors(node, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of floating point numbers in nested dicts and lists, with its name."""
    if isinstance(node, torch.Tensor):
        if node.is_floating_point():
            yield name, node
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f"{name}.{key}")


def flat(text: str) -> str:
    """Text without its line breaks: where they stand depends on the width of the terminal."""
    return " ".join(text.split())


@every_script
def test_help_prints_the_docstring(script, alone):
    output = copy_and_run(script, alone, "--help")
    assert flat(ast.get_docstring(parse(script))) in flat(output)
    assert contents(alone) == {Path(script).name}


@every_script
def test_alone_in_an_empty_folder_it_trains(script, alone):
    entry, name = tiny(script), Path(script)
    output = copy_and_run(script, alone, f"{entry.flags} {entry.few}")
    assert len(output.splitlines()) == 1, f"one summary line was expected, not:\n{output}"
    assert contents(alone) == {name.name, "runs"}
    (few,) = (alone / "runs").iterdir()
    assert re.fullmatch(rf".+__{name.stem}__1__\d+", few.name)

    copy_and_run(script, alone, f"{entry.flags} {entry.more} --run-dir more")
    more = alone / "more"
    assert contents(alone) == {name.name, "runs", "more"}
    for folder in (few, more):
        files = contents(folder)
        assert {"args.json", "metrics.csv"} <= files
        assert any(file.endswith((".png", ".gif")) for file in files), "a picture is missing"
        assert not any(file.endswith(".tmp") for file in files)
        assert ("checkpoint.pt" in files) == bool(entry.weights)
        assert json.loads((folder / "args.json").read_text())["seed"] == 1
        columns = list(read_metrics(folder)[0])
        assert columns[0] == "global_step"
        assert all(re.match("(charts|losses|eval|time)/", column) for column in columns[1:])
    assert read_metrics(few)[-1]["global_step"] < read_metrics(more)[-1]["global_step"]

    before, after = ({}, {}) if not entry.weights else (load_weights(folder, entry) for folder in (few, more))
    assert before.keys() == after.keys()
    unchanged = [key for key in before if torch.equal(before[key], after[key])]
    assert not unchanged, f"training did not change {unchanged}"


def load_weights(folder: Path, entry: Tiny) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    weights = {name: tensor for key in entry.weights for name, tensor in tensors(checkpoint[key], key)}
    assert weights
    return {name: tensor for name, tensor in weights.items() if not re.search(entry.constant, name)}


@every_script
def test_weights_and_biases_gets_every_number_and_a_picture(script, alone, tmp_path):
    entry = tiny(script)
    elsewhere = {f"WANDB_{name}_DIR": str(tmp_path / "home") for name in ("CONFIG", "CACHE", "DATA")}
    copy_and_run(script, alone, f"{entry.flags} {entry.few} --run-dir run --track", WANDB_MODE="offline", **elsewhere)
    assert contents(alone) == {Path(script).name, "run"}
    (log,) = (alone / "run").glob("wandb/offline-run-*/run-*.wandb")
    history = read_history(log)
    for column in read_metrics(alone / "run")[0]:
        measured = [row[column] for row in read_metrics(alone / "run") if row[column] is not None]
        assert [row[column] for row in history if column in row] == measured, column
    pictures = [row[key] for row in history for key in row if key.endswith(".path")]
    assert any(picture.endswith((".png", ".gif")) for picture in pictures), "no picture was logged"
    assert all((log.parent / "files" / picture).stat().st_size for picture in pictures)


def read_history(log: Path) -> list[dict]:
    """What wandb.log got, call by call, from the file that `wandb sync` sends; a picture is a "NAME.path" there."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = [Record.FromString(record) for record in read_records(log.read_bytes())]
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]


def read_records(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, as wandb writes it: ":W&B" and 3 bytes of version, then blocks of 32 KiB.

    A chunk is its checksum (4 bytes), its length (2), its kind (1) and its content, and does not cross a block's end;
    a record is one chunk of kind 1 (full), or chunks of kinds 2 (first), 3 (middle) and 4 (last).
    """
    assert data[:4] == b":W&B"
    block, header, position, record = 32 * 1024, 7, 7, b""
    while position < len(data):
        if block - position % block < header:  # too little left for a header: the next chunk is in the next block
            position += block - position % block
            continue
        start = position + header
        position = start + int.from_bytes(data[start - 3 : start - 1], "little")
        kind, checksum = data[start - 1], int.from_bytes(data[start - 7 : start - 3], "little")
        assert zlib.crc32(data[start - 1 : position]) == checksum
        record = data[start:position] if kind in (1, 2) else record + data[start:position]
        if kind in (1, 4):
            yield record


@every_script
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_it_logs_finite_numbers(script, alone):
    entry = tiny(script)
    copy_and_run(script, alone, f"{entry.flags} {entry.few} --run-dir run --cuda")
    assert read_metrics(alone / "run")[-1]["global_step"] > 0  # read_metrics takes finite numbers only


# Run in a process of its own. What a script may import at its top is imported before the first look.
IMPORT_PROBE = """
import importlib, logging, multiprocessing, os, random, signal, sys, warnings
import gymnasium, numpy, torch, torch.distributed, tqdm, tyro

def state():
    return {
        "random": random.getstate(),
        "numpy.random": [part.tobytes() if hasattr(part, "tobytes") else part for part in numpy.random.get_state()],
        "torch.random": torch.get_rng_state().tolist(),
        "numpy.geterr": numpy.geterr(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype and device": (torch.get_default_dtype(), str(torch.get_default_device())),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "matmul": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "gradients": (torch.is_grad_enabled(), torch.is_anomaly_enabled()),
        "environment": dict(os.environ),
        "working directory": (os.getcwd(), os.listdir()),
        "sys": (list(sys.path), list(sys.argv), sys.excepthook, sys.displayhook, sys.getrecursionlimit()),
        "warnings": [str(entry) for entry in warnings.filters],
        "logging": (logging.root.level, list(logging.root.handlers)),
        "gymnasium": (gymnasium.logger.min_level, len(gymnasium.registry)),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "start method": multiprocessing.get_start_method(allow_none=True),
        "children": multiprocessing.active_children(),
    }

before, loaded = state(), set(sys.modules)
importlib.import_module(sys.argv[1])
after = state()
changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
assert not changed, f"importing changed {changed}"
print(*sorted(set(sys.modules) - loaded))
"""


@every_script
def test_importing_it_has_no_effect(script, alone):
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT_PROBE, script.removesuffix(".py").replace("/", ".")]
    done = subprocess.run(command, cwd=alone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loaded = done.stdout.split()
    assert script.removesuffix(".py").replace("/", ".") in loaded
    assert len(done.stdout.splitlines()) == 1, f"importing printed:\n{done.stdout}"
    assert not LAZY & set(loaded), "these are imported where they are used"


# --- the text of a script --------------------------------------------------------------------


def read(script: str) -> str:
    return (ROOT / script).read_text(encoding="utf-8")


@cache
def parse(script: str) -> ast.Module:
    return ast.parse(read(script))


# What imports a module under a name that it gets as a string: whatever that string is, a script does not need it.
IMPORTERS = {"import_module", "__import__", "run_path", "run_module", "spec_from_file_location", "SourceFileLoader"}
IMPORTERS |= {"exec", "addsitedir"}


def neighbour_imports(source: str, neighbours: set[str]) -> list[str]:
    """The lines of a script that lead to a module or a folder of the project, under any spelling."""
    tree, found = ast.parse(source), []
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # these may name any file
    names = "|".join(neighbours)
    path = re.compile(rf"(.*[/\\])?({names})\.py|({'|'.join(FOLDERS)})[./]({names})|PYTHONPATH")
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                leads = any(alias.name.split(".")[0] in neighbours for alias in node.names)
            case ast.ImportFrom(level=0):
                leads = node.module.split(".")[0] in neighbours
                leads = leads or any(alias.name in IMPORTERS for alias in node.names)
                leads = leads or (node.module == "sys" and any(alias.name == "path" for alias in node.names))
            case ast.ImportFrom():  # relative
                leads = True
            case ast.Name():
                leads = node.id in IMPORTERS
            case ast.Attribute():
                leads = node.attr in IMPORTERS or ast.unparse(node) == "sys.path"
            case ast.Constant(value=str(text)):
                leads = node not in docstrings and path.fullmatch(text)
            case _:
                leads = False
        if leads:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@every_script
def test_it_imports_no_neighbour(script):
    neighbours = {Path(other).stem for other in SCRIPTS if other != script} | {*FOLDERS, "tests", "benchmarks"}
    assert neighbour_imports(read(script), neighbours) == []


@pytest.mark.parametrize(
    "line",
    [
        "import dqn",
        "import numpy, dqn as d",
        "from dqn import act",
        "def f():\n    from algos.dqn import act",
        "import algos.dqn",
        "from algos import dqn",
        "from . import dqn",
        "from .dqn import act",
        "importlib.import_module('dqn')",
        "importlib.import_module('d' + 'qn')",
        "from importlib import import_module as load",
        "__import__('algos.dqn')",
        "runpy.run_path('dqn.py')",
        "from runpy import run_path as run",
        "exec(Path('x').read_text())",
        "importlib.util.spec_from_file_location('x', path)",
        "subprocess.run(['python', 'algos/dqn.py'])",
        "Path(__file__).with_name('dqn.py')",
        "sys.path.append('..')",
        "from sys import path",
        "os.environ['PYTHONPATH'] = '.'",
    ],
)
def test_every_spelling_of_importing_a_neighbour_is_found(line):
    assert neighbour_imports(line, {"dqn", "algos"})


@pytest.mark.parametrize(
    "line",
    [
        '"""Like dqn.py\n    python algos/dqn.py\n"""',
        "import numpy.random, torch.nn as nn",
        "from torch import nn",
        '"""Like dqn.py."""',
        "x = 'dqn'",
        "raise UsageError('for tables, take dqn.py')",
        "dqn = 3",
        "model.eval()",
        "importlib.util.find_spec('mujoco')",
        "args.path.exists()",
    ],
)
def test_no_other_line_is_taken_for_one(line):
    assert neighbour_imports(line, {"dqn", "algos"}) == []


def blocks_between(source: str, start: int, end: int) -> dict[str, str]:
    """The functions, classes and constants between two lines, each with the comments above it: name -> text."""
    lines, blocks, previous = source.splitlines(), {}, start + 1
    for node in ast.parse(source).body:
        if start < node.lineno <= end:
            match node:
                case ast.FunctionDef() | ast.ClassDef():
                    name = node.name
                case ast.Assign():
                    name = ast.unparse(node.targets[0])
                case _:
                    name = ast.unparse(node)
            blocks[name] = "\n".join(lines[previous : node.end_lineno]).strip()
            previous = node.end_lineno
    return blocks


def shared_blocks(source: str) -> dict[str, dict[str, str]]:
    """The parts whose line says that they are the same in other files: that line's words -> their blocks."""
    lines, shared = source.splitlines(), {}
    heads = [i for i, line in enumerate(lines) if line.startswith("# --- ")] + [len(lines)]
    for start, end in itertools.pairwise(heads):
        if ": the same in every file " in lines[start]:
            shared[lines[start].strip("#- ")] = blocks_between(source, start, end)
    return shared


def common_blocks(source: str) -> dict[str, str]:
    """What stands under the common line, which every script has exactly once: name -> text."""
    assert sum(line.startswith(COMMON_LINE) for line in source.splitlines()) == 1, f"one line must begin: {COMMON_LINE}"
    return shared_blocks(source)[COMMON_LINE.strip("#- ")]


def test_common_blocks_are_found_with_their_comments_and_decorators():
    source = f"X = 1\n\n{COMMON_LINE}----\n\n# why\n@wraps\ndef f():\n    return 1\n\n\nY = 2\n# --- more ---\nZ = 3\n"
    assert common_blocks(source) == {"f": "# why\n@wraps\ndef f():\n    return 1", "Y": "Y = 2"}


@every_script
def test_common_blocks_are_the_same_in_every_file_of_the_folder(script):
    blocks = common_blocks(read(script))
    assert "Run" in blocks
    for other in SCRIPTS:
        if Path(other).parent == Path(script).parent:
            theirs = common_blocks(read(other))
            for name in blocks.keys() & theirs.keys():
                assert blocks[name] == theirs[name], f"{name} differs between {script} and {other}"


@every_script
def test_what_is_said_to_be_the_same_elsewhere_is(script):
    """The parts below other such lines, wherever they stand: those of "this folder" within it."""
    for title, blocks in shared_blocks(read(script)).items():
        for other in SCRIPTS:
            if "this folder" not in title or Path(other).parent == Path(script).parent:
                theirs = shared_blocks(read(other)).get(title, {})
                for name in blocks.keys() & theirs.keys():
                    assert blocks[name] == theirs[name], f"{name} differs between {script} and {other}"


@every_script
def test_the_repeated_part_stays_under_90_lines(script):
    """Lines of code and docstrings: blank lines and comments, which make it easier to read, are not counted."""
    lines = "\n".join(common_blocks(read(script)).values()).splitlines()
    assert sum(not re.match(r"\s*(#|$)", line) for line in lines) < 90


# --- what a script says about itself ---------------------------------------------------------

# The distributions that are not called as the module is.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "fontTools": "fonttools"}
# What a module comes with, so that it need not be named: a package, with the extra that brings it in brackets.
COMES_WITH = {"mujoco": "gymnasium[mujoco]", "pygame": "gymnasium[classic-control]", "fonttools": "matplotlib"}


def metadata(source: str) -> dict:
    """The inline script metadata of PEP 723."""
    (block,) = re.findall(r"^# /// script\n((?:#.*\n)+?)# ///$", source, re.MULTILINE)
    return tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in block.splitlines()))


def third_party(tree: ast.AST) -> set[str]:
    """The distributions whose modules are imported anywhere in the file, inside functions too."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(module, module) for module in modules - sys.stdlib_module_names}


def pinned() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in read("requirements.txt").splitlines())
    return {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}


def test_requirements_are_exact_and_begin_with_the_five_everyone_needs():
    requirements = pinned()
    assert list(requirements)[:5] == ["numpy", "torch", "gymnasium", "tyro", "wandb"]
    for requirement in requirements.values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], str(requirement)


@every_script
def test_inline_metadata_names_what_it_imports(script):
    stated = metadata(read(script))
    assert stated["requires-python"] == ">=3.11"
    requirements = {requirement.name: requirement for requirement in map(Requirement, stated["dependencies"])}
    assert len(requirements) == len(stated["dependencies"])
    brought = {f"{name}[{extra}]" for name, requirement in requirements.items() for extra in requirement.extras}
    brought |= requirements.keys()
    imported = third_party(parse(script))
    assert requirements.keys() <= imported, "named, but not imported"
    missing = {name for name in imported - requirements.keys() if COMES_WITH.get(name) not in brought}
    assert not missing, "imported, but not named"


@every_script
def test_inline_metadata_agrees_with_the_requirements(script):
    tested = pinned()
    for requirement in map(Requirement, metadata(read(script))["dependencies"]):
        assert requirement.name in tested, f"{requirement.name} is not in requirements.txt"
        assert [specifier.operator for specifier in requirement.specifier] == [">="], f"{requirement}: a floor, no pin"
        (pin,) = tested[requirement.name].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}: the tests run {pin.version}"
        assert requirement.extras <= tested[requirement.name].extras, f"{requirement}: an extra that is not tested"


@every_script
def test_the_top_of_the_file_imports_only_what_every_run_needs(script):
    top = [node for node in parse(script).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert third_party(ast.Module(top, [])) <= {"numpy", "torch", "gymnasium", "tyro", "tqdm"}


@every_script
def test_the_docstring_holds_the_command(script):
    lines = ast.get_docstring(parse(script)).splitlines()
    assert any(line.strip().startswith(f"python {script}") for line in lines)


# Flags that take a path, wherever a script has them.
PATHS = {"run_dir", "resume", "evaluate", "talk", "demo", "paint", "model", "collect", "folder", "font"}


def fits(value, hint) -> bool:
    """Whether a default is of the type that its field states: 1 is no float, True no int, and None only None."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in options
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in options)
    kind = origin or hint
    return isinstance(value, kind) if kind is Path else type(value) is kind


def test_a_default_of_another_type_is_noticed():
    assert fits(1, int) and fits(None, str | None) and fits("a", typing.Literal["a"]) and fits((1,), tuple[int, ...])
    assert not fits(None, str) and not fits(1, float) and not fits(True, int) and not fits("b", typing.Literal["a"])


@every_script
def test_every_flag_has_a_help_line_and_the_right_type(script):
    (body,) = (node.body for node in parse(script).body if isinstance(node, ast.ClassDef) and node.name == "Args")
    helped = {
        field.target.id
        for field, line in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and str(line.value.value).strip()
    }
    defaults, hints = vars(load(script).Args()), typing.get_type_hints(load(script).Args)
    for name, hint in hints.items():
        assert name in helped, f"{name} has no help line"
        assert fits(defaults[name], hint), f"{name}: {hint} cannot be {defaults[name]!r}"
        assert name not in PATHS or hint == Path | None, f"{name} must be a Path | None"


# --- what is said about a script -------------------------------------------------------------


@cache
def load(script: str):
    """The script as a module."""
    name = script.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def script_calls(line: str) -> list[tuple[str, list[str]]]:
    """The calls of scripts in one line of shell: (script, its flags) of each."""
    line = line.strip().removeprefix("$ ")
    if not re.search(rf"\b({'|'.join(FOLDERS)})/\w+\.py\b", line):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls, words = [], []
    for word in [*lexer, ";"]:
        if not set(word) <= set(lexer.punctuation_chars):
            words.append(word)
            continue
        for i, script in enumerate(words):
            called = i == 0 or any(re.match(r"(python|torchrun|uv)", before) for before in words[:i])
            if called and re.fullmatch(rf"(\./)?({'|'.join(FOLDERS)})/\w+\.py", script):
                calls.append((script.removeprefix("./"), words[i + 1 :]))
                break
        words = []
    return calls


@pytest.mark.parametrize(
    "line, calls",
    [
        ("$ python algos/a.py --seed 2  # a word on it", [("algos/a.py", ["--seed", "2"])]),
        ("pip install x && python gen/b.py && ls", [("gen/b.py", [])]),
        ("torchrun --nproc-per-node 2 algos/a.py --track > log", [("algos/a.py", ["--track"])]),
        ("for i in 1 2; do uv run algos/a.py; done", [("algos/a.py", [])]),
        ("WANDB_MODE=offline python algos/a.py --x 'a b'", [("algos/a.py", ["--x", "a b"])]),
        ("cp algos/a.py somewhere", []),
        ("python -m pytest tests/test_a.py", []),
    ],
)
def test_calls_of_scripts_are_found_in_shell(line, calls):
    assert script_calls(line) == calls


def markdown_commands(text: str) -> list[str]:
    """The lines of fenced code blocks, continued ones joined, and the inline code."""
    fenced = re.findall(r"^\s*```[^\n]*\n(.*?)^\s*```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in re.sub(r"\\\n", " ", block).splitlines()]
    rest = re.sub(r"^\s*```[^\n]*\n.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in lines + re.findall(r"`([^`\n]+)`", rest)]


def test_commands_are_found_in_markdown():
    text = "`a b` is\n```sh\nc \\\n  d\n  e\n```\nor `f`\n"
    assert markdown_commands(text) == ["c    d", "e", "a b", "f"]


def benchmark_list() -> list[str]:
    command = ["bash", "benchmark.sh", "--list"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def complaints(lines: list[str]) -> list[str]:
    """What is wrong with the calls of scripts in these lines of shell. There must be some calls."""
    calls, wrong = [call for line in lines for call in script_calls(line)], []
    assert calls
    for script, flags in calls:
        command, output = shlex.join([script, *flags]), io.StringIO()
        if script not in SCRIPTS:
            wrong.append(f"{command}: there is no such file")
            continue
        try:
            with redirect_stdout(output), redirect_stderr(output):
                tyro.cli(load(script).Args, args=flags)
        except SystemExit as end:
            if end.code != 0:  # 0 after --help
                wrong.append(f"{command}:\n{output.getvalue()}")
    return wrong


def test_a_call_that_does_not_parse_is_noticed():
    assert not complaints([f"python {script} --seed 2" for script in SCRIPTS] + ["ls"])
    flags = [f"{SCRIPTS[0]} --no-such-flag", f"{SCRIPTS[0]} --seed one", f"{SCRIPTS[0]} stray", "algos/nowhere.py"]
    assert len(complaints([f"python {line}" for line in flags])) == len(flags)


def test_every_command_of_the_readme_parses():
    assert complaints(markdown_commands(read("README.md"))) == []


def test_every_line_of_the_benchmark_parses():
    assert complaints(benchmark_list()) == []


@every_script
def test_every_command_of_the_docstring_parses(script):
    lines = [line.strip() for line in ast.get_docstring(parse(script)).splitlines()]
    assert complaints([line for line in lines if re.match(r"(\w+=\S+ )*(python|torchrun|uv) ", line)]) == []


@pytest.mark.parametrize("command", ["python algos/trpo.py --env-id Reacher", "python -m pytest"])
def test_the_readme_begins_with_two_commands_that_need_nothing_else(command):
    assert f"pip install -r requirements.txt && {command}" in markdown_commands(read("README.md"))


@every_script
def test_it_is_presented_measured_and_tested(script):
    assert script in read("README.md"), "README.md does not name it"
    assert any(script == called for line in benchmark_list() for called, _ in script_calls(line)), "never benchmarked"
    assert (ROOT / "tests" / f"test_{Path(script).stem}.py").exists(), "it has no tests"


@every_script
def test_its_mutations_apply(script):
    mutations = MUTATIONS.get(script, [])
    assert len(mutations) >= 3, "tests/mutations.py holds at least three for every script"
    for old, new, reason in mutations:
        assert read(script).count(old) == 1, f"must occur exactly once ({reason}): {old}"
        assert old != new and reason
        ast.parse(read(script).replace(old, new))  # a broken file would fail every test for nothing
    assert len({(old, new) for old, new, _ in mutations}) == len(mutations)


def test_the_tables_name_no_script_that_is_gone():
    assert TINY.keys() | MUTATIONS.keys() <= set(SCRIPTS)
