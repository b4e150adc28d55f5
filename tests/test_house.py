"""What holds for every script of algos/ and gen/. The scripts are found by themselves; what they differ in, such as the
flags of a training of a second, stands in tests/scripts/<file>.toml."""

import ast
import csv
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
import tyro
import wandb
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
COMMON = "# --- one run's folder: the same in every file"
# scripts that still wait for their new form have no common block: their own tests hold what holds for them
SCRIPTS = [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("[ag]*/*.py")) if COMMON in p.read_text()]
LAZY = {"matplotlib", "PIL", "sklearn", "cv2", "wandb", "gradio", "mujoco", "scipy"}  # imported where they are used
every_script = pytest.mark.parametrize("script", SCRIPTS)


def read(script: str) -> str:
    return (ROOT / script).read_text()


@cache
def about(script: str) -> dict:
    """tests/scripts/<file>.toml; without a "tiny" training the script is a tool or a demo."""
    path = ROOT / "tests" / "scripts" / f"{Path(script).stem}.toml"
    return tomllib.loads(path.read_text()) if path.exists() else {}


TRAININGS = [script for script in SCRIPTS if "tiny" in about(script)]
every_training = pytest.mark.parametrize("script", TRAININGS)


@cache
def load(script: str):
    """The script as a module."""
    spec = spec_from_file_location(script.removesuffix(".py").replace("/", "_"), ROOT / script)
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# --- running a script ------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """run(script, flags) -> (exit code, stdout, stderr) of a copy alone in an empty folder, which becomes the cwd."""
    folder = tmp_path / "alone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))

    def call(script: str, flags: str) -> tuple[int, str, str]:
        if "--track" in flags:
            wandb.teardown()  # it may remember whether an earlier test of this process was offline
        copy = shutil.copy(ROOT / script, folder)
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [copy, *shlex.split(flags)])
        code = 0
        try:
            runpy.run_path(copy, run_name="__main__")  # in this process: importing torch takes longer than the training
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        message = captured.err + (code if isinstance(code, str) else "")
        return (1 if isinstance(code, str) else code), captured.out, message

    return call


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: float(cell) if cell else None for key, cell in row.items()} for row in csv.DictReader(file)]


def tensors(node, name: str = "") -> dict[str, torch.Tensor]:
    """Every floating-point tensor in nested dicts and lists, by its name."""
    if isinstance(node, torch.Tensor):
        return {name: node} if node.is_floating_point() else {}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else []
    return {key: tensor for k, value in items for key, tensor in tensors(value, f"{name}.{k}").items()}


@every_training
def test_alone_in_an_empty_folder_it_trains_and_tracks(script, run):
    entry, name = about(script), Path(script).name
    code, output, errors = run(script, entry["tiny"])
    assert code == 0, errors
    assert len(output.splitlines()) == 1, f"one result line was expected, not:\n{output}"
    assert errors == "", "stderr stays empty without a terminal"
    assert contents(Path()) == {name, "runs"}
    (few,) = Path("runs").iterdir()
    assert re.fullmatch(rf".+__{Path(script).stem}__1__[\d.]+", few.name)

    code, _, errors = run(script, f"{entry['more']} --run-dir more --track")
    assert code == 0, errors
    more = Path("more")
    assert contents(Path()) == {name, "runs", "more", "wandb"}
    assert list(Path().glob("wandb/offline-run-*/files/media/images/*.png")), "no picture was sent to Weights & Biases"
    for folder in (few, more):
        files = contents(folder)
        assert {"args.json", "metrics.csv"} <= files
        assert any(file.endswith(".png") for file in files), "a picture is missing"
        assert not any(file.endswith(".tmp") for file in files)
        assert json.loads((folder / "args.json").read_text())["seed"] == 1
        rows = read_metrics(folder)
        assert rows
        assert next(iter(rows[0])) == "global_step"
        assert all(re.match("(charts|losses|eval|time)/", column) for column in list(rows[0])[1:])
        assert all(math.isfinite(x) for row in rows for x in row.values() if x is not None)
    assert read_metrics(few)[-1]["global_step"] < read_metrics(more)[-1]["global_step"]
    if "model.pt" in contents(few):
        before, after = (tensors(torch.load(folder / "model.pt", weights_only=True)) for folder in (few, more))
        constant = re.compile(entry.get("constant", r"(?!)"))
        names = [key for key in before if not constant.search(key)]
        assert names
        assert not [key for key in names if torch.equal(before[key], after[key])], "training did not change these"


@every_training
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_it_logs_finite_numbers(script, run):
    if hasattr(load(script).Args(), "cuda"):
        assert run(script, about(script)["tiny"] + " --cuda")[0] == 0


@every_script
def test_help_holds_the_docstring_and_a_line_for_each_flag(script, run):
    code, output, _ = run(script, "--help")
    assert code == 0
    docstring = ast.get_docstring(ast.parse(read(script)))
    assert docstring.isascii()
    assert " ".join(docstring.split()) in " ".join(output.split())
    (args,) = (node for node in ast.parse(read(script)).body if isinstance(node, ast.ClassDef) and node.name == "Args")
    lines = [node for node in args.body if not isinstance(node, ast.FunctionDef)]  # without __post_init__
    for field, line in zip(lines[::2], lines[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign), f"line {field.lineno}: a flag and its help line take turns"
        assert isinstance(line, ast.Expr), f"line {line.lineno}: a flag and its help line take turns"


# --- the text of a script --------------------------------------------------------------------


def imported(tree: ast.AST) -> set[str]:
    """The modules that are imported anywhere below a node, without what comes after the first dot."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." if node.level else node.module.split(".")[0])
    return names


@every_script
def test_it_imports_no_neighbour_and_heavy_packages_where_they_are_used(script):
    tree = ast.parse(read(script))
    top = set().union(*(imported(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)))
    neighbours = {path.stem for path in ROOT.glob("[ag]*/*.py")} | {"algos", "gen", "tests", "benchmarks", "."}
    assert not imported(tree) & neighbours
    assert not top & LAZY


@every_script
def test_the_common_block_is_the_same_word_for_word(script):
    def blocks(path: str) -> dict[str, str]:
        common = COMMON + read(path).split(COMMON)[1]
        return {getattr(node, "name", "main"): ast.get_source_segment(common, node) for node in ast.parse(common).body}

    own = blocks(script)
    assert "main" in own
    assert script not in TRAININGS or "Run" in own
    for other in TRAININGS:
        theirs = blocks(other)
        different = [name for name in own.keys() & theirs.keys() if own[name] != theirs[name]]
        assert not [name for name in different if name != "main" or script in TRAININGS], other


@every_script
def test_a_reader_meets_the_algorithm_early_and_little_else(script):
    text = read(script)
    definitions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    common_line = text[: text.index(COMMON)].count("\n")
    own = [node.lineno for node in definitions if node.name != "Args" and node.lineno < common_line]
    assert len(definitions) <= (22 if script == "algos/trpo_parallel.py" else 14 if "algos" in script else 16)
    assert min(own) <= 120
    assert ast.get_docstring(ast.parse(text)).count("\n") <= 32
    test = ROOT / "tests" / f"test_{Path(script).stem}.py"
    assert test.read_text().count("\n") <= 1.1 * text.count("\n"), "longer than what it tests"


DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn", "fontTools": "fonttools"}
PINNED = {
    requirement.name: requirement
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if (text := line.split("#")[0].strip())
    for requirement in [Requirement(text)]
}


@every_script
def test_the_inline_metadata_names_what_is_imported_and_fits_the_requirements(script):
    (block,) = re.findall(r"^# /// script\n((?:#.*\n)+?)# ///$", read(script), re.MULTILINE)
    metadata = tomllib.loads("\n".join(line[1:].strip() for line in block.splitlines()))
    named = {requirement.name: requirement for requirement in map(Requirement, metadata["dependencies"])}
    needed = imported(ast.parse(read(script))) - set(sys.stdlib_module_names)
    assert {DISTRIBUTIONS.get(module, module) for module in needed} - {"mujoco"} <= named.keys()
    for name, requirement in named.items():
        (pin,) = PINNED[name].specifier
        assert requirement.specifier.contains(pin.version)
        assert requirement.extras <= PINNED[name].extras
        assert not any(specifier.operator == "==" for specifier in requirement.specifier), "floors, no pins"


@pytest.mark.parametrize("script", [s for s in TRAININGS if '"digits"' in read(s)])
def test_no_digit_is_both_a_training_and_a_test_image(script):
    module = load(script)
    data = getattr(module, "load_images", getattr(module, "load_data", None))(module.Args())
    data = [data] if isinstance(data, torch.Tensor) else list(data)
    counts = {x if isinstance(x, int) else len(x) for x in data}  # of 1,797; a number says how many are to train on
    assert counts in ({1500, 297}, {1500}, {1797, 1500})


# --- what is said about the scripts ----------------------------------------------------------


def script_calls(line: str) -> list[tuple[str, list[str]]]:
    """The calls of scripts in one line of shell: (script, its flags) of each."""
    calls = []
    for command in re.split(r"&&|\|\||;|\|", line.strip().removeprefix("$ ")):
        words = shlex.split(command, comments=True)
        for i, word in enumerate(words):
            called = any(before.startswith(("python", "torchrun", "uv")) for before in words[:i])
            if called and re.fullmatch(r"(algos|gen)/\w+\.py", word):
                calls.append((word, [w for w in words[i + 1 :] if w != "&"]))
                break
    return calls


def complaints(lines: list[str], capsys) -> list[str]:
    """What is wrong with the calls of scripts in these lines of shell."""
    wrong = []
    for script, flags in [call for line in lines for call in script_calls(line)]:
        if not (ROOT / script).exists():
            wrong.append(f"{script}: no such file")
        elif script in SCRIPTS:
            try:
                tyro.cli(load(script).Args, args=flags)
            except SystemExit as end:
                if end.code != 0:
                    wrong.append(f"{shlex.join([script, *flags])}: {capsys.readouterr().err}")
    return wrong


def markdown_commands(text: str) -> list[str]:
    """The lines of fenced code blocks, continued ones joined, and the inline code."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in re.sub(r"\\\n", " ", block).splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", text)


def test_a_call_that_does_not_parse_is_noticed(capsys):
    wrong = [f"python {SCRIPTS[0]} --no-such-flag", f"uv run {SCRIPTS[0]} --seed one", "python algos/nowhere.py"]
    assert len(complaints(wrong, capsys)) == 3
    assert complaints([f"python {script} --seed 2 && ls" for script in TRAININGS], capsys) == []


PAGES = [str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("results/**/*.md")]]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_pages_parses(page, capsys):
    assert complaints([c for c in markdown_commands(read(page)) if ".py" in c], capsys) == []


@every_script
def test_every_command_of_the_docstring_parses(script, capsys):
    lines = ast.get_docstring(ast.parse(read(script))).splitlines()
    commands = [line.strip() for line in lines if re.match(r"\s*(python|torchrun|uv) ", line)]
    assert commands
    assert complaints(commands, capsys) == []


@cache
def benchmark_list() -> list[str]:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "benchmark.sh", "--list"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_line_of_the_benchmark_parses(capsys):
    assert complaints(benchmark_list(), capsys) == []


@every_script
def test_it_is_presented_measured_and_tested(script):
    assert script in read("README.md"), "README.md does not name it"
    assert script not in TRAININGS or any(script in line for line in benchmark_list()), "never benchmarked"
    assert (ROOT / "tests" / f"test_{Path(script).stem}.py").exists(), "it has no tests"
    assert about(script), "add tests/scripts/<file>.toml: tiny, more, and at least ten mutations"
    mutations = about(script).get("mutation", [])
    assert len(mutations) >= (10 if script in TRAININGS else 3)
    for mutation in mutations:
        old, new = mutation["old"], mutation["new"]
        assert read(script).count(old) == 1, f"must occur exactly once ({mutation['reason']}): {old}"
        ast.parse(read(script).replace(old, new))  # a broken file would fail every test for nothing
