"""Run the table that benchmark.sh holds: see there for what a row means. Standard library only.

    ./benchmark.sh [name ...] [options]

Each run is a process with a folder of its own, runs/benchmark/<name>/seed<k>/. Its summary.json is written last, with
a digest of the script's code and the command: a run whose summary holds the digest of today is finished and skipped,
any other folder is removed and its run made again. Comments and docstrings do not count as code.
"""

import argparse
import ast
import concurrent.futures
import contextlib
import csv
import fcntl
import fnmatch
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RUNS, PEERS = Path("runs", "benchmark"), Path("runs", "peers")
PACKAGES = ["torch", "numpy", "gymnasium", "mujoco"]  # whose versions every summary names, if they are there
SCRIPTS = ("algos.", "gen.")  # how the names of modules begin whose changes make those who import them stale
CORES = len(os.sched_getaffinity(0))
ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
LIST = r"\{([^{}]*,[^{}]*)\}"  # in a row of the table
UNDER_WAY: set[int] = set()  # ids of the processes


# --- the table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One seed of one row of the table, its braces expanded."""

    name: str
    section: str
    seed: int
    alone: bool
    min_cores: int
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return RUNS / self.name / f"seed{self.seed}"

    @property
    def script(self) -> Path:
        """The script that is measured: the last one, where another runs it; else python -m's module."""
        paths = [word for word in self.command if word.endswith(".py")] or [self.command[2].replace(".", "/") + ".py"]
        return Path(paths[-1])

    @property
    def peer(self) -> str | None:
        """Name of the environment that a script of benchmarks/peers/ runs in: what stands before the underscore."""
        return self.script.stem.split("_")[0] if self.script.parent.name == "peers" else None

    def words(self, python: str = "python") -> list[str]:
        """The command in full."""
        return [python, *self.command[1:], "--seed", str(self.seed), "--run-dir", self.folder.as_posix()]

    def __str__(self):
        return f"{self.name} seed {self.seed}"


def parse_table(text: str, seeds: list[int] | None = None) -> list[Run]:
    """Rows `name | seeds | cores | command` under `[section]` lines -> their runs, for the seeds given or their own."""
    runs, section = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            try:
                for row in expand_braces(line):
                    name, own_seeds, cores, command = (cell.strip() for cell in row.split("|", 3))
                    min_cores = 1 if cores == "all" else int(cores.removesuffix("+"))
                    for seed in seeds or parse_seeds(own_seeds):
                        words = tuple(shlex.split(command))
                        runs.append(Run(name.lower(), section, seed, cores != "1", min_cores, words))
            except ValueError as error:
                raise ValueError(f"not name | seeds | cores | command ({error}): {line}") from None
    return runs


def expand_braces(line: str) -> list[str]:
    """The lists {a,b,...} of a line are walked together: one line per item."""
    lists, lines = [items.split(",") for items in re.findall(LIST, line)], []
    for items in zip(*lists, strict=True):
        rest = iter(items)
        lines.append(re.sub(LIST, lambda _, rest=rest: next(rest), line))
    return lines or [line]


def parse_seeds(text: str) -> list[int]:
    """ "1-3,7" -> [1, 2, 3, 7]."""
    seeds = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def select(runs: list[Run], names: list[str]) -> list[Run]:
    """The runs that the names stand for, in the order of the table; all of them without names."""
    chosen = set() if names else set(runs)
    for name in names:
        exactly = [run for run in runs if run.name == name]
        alike = [run for run in runs if run.section == name or fnmatch.fnmatch(run.name, f"{name}*")]
        if not alike:
            raise ValueError(f"no row is called {name}: ./benchmark.sh --list shows them all")
        chosen |= set(exactly or alike)
    return [run for run in runs if run in chosen]


# --- what is finished ------------------------------------------------------------------------


def is_docstring(node) -> bool:
    """Any statement that is only a string: docstrings, and the help lines below a dataclass's fields."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def canonical(node) -> str:
    """A syntax tree as text, without docstrings; unlike ast.dump's, it does not change with Python's version."""
    if isinstance(node, list):
        return f"[{' '.join(canonical(item) for item in node if not is_docstring(item))}]"
    if isinstance(node, ast.AST):
        fields = [f"{key}={canonical(value)}" for key, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({' '.join(fields)})"
    return repr(node)


def pinned_packages(script: Path) -> list[str]:
    """The dependencies that a peer's inline metadata (PEP 723) names; none of other scripts."""
    if script.parent.name != "peers":
        return []
    block = re.search(r"^# /// script$(.*?)^# ///$", script.read_text(), re.MULTILINE | re.DOTALL)
    return tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))["dependencies"]


def imported_scripts(tree: ast.Module) -> list[Path]:
    """The project's own scripts that a script imports: `from algos.mcts import search` -> algos/mcts.py."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return sorted({Path(*name.split(".")[:2]).with_suffix(".py") for name in names if name.startswith(SCRIPTS)})


@functools.cache
def code_digest(script: Path) -> str:
    """Digest of a script's code and of what it imports; for a peer, of its pinned versions, too."""
    tree = ast.parse(script.read_text())
    imported = [canonical(ast.parse(other.read_text())) for other in imported_scripts(tree)]
    return hashlib.sha256("\n".join([canonical(tree), *pinned_packages(script), *imported]).encode()).hexdigest()


def digest(run: Run) -> str:
    """Digest of the code and the command."""
    return hashlib.sha256("\n".join([code_digest(run.script), *run.words()]).encode()).hexdigest()


def is_finished(run: Run) -> bool:
    """Whether the summary, which is written last, is there and belongs to today's code and command."""
    try:
        return json.loads((run.folder / "summary.json").read_text())["digest"] == digest(run)
    except (OSError, SyntaxError, ValueError, KeyError):
        return False


# --- one run ---------------------------------------------------------------------------------


def peer_python(run: Run) -> str:
    """The interpreter of a peer's environment in runs/peers/, where what the script names is installed once."""
    folder, packages = PEERS / run.peer, "\n".join(pinned_packages(run.script))
    python, installed = folder.absolute() / "bin" / "python", folder / f"{run.script.stem}.txt"
    PEERS.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock, folder.with_suffix(".log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other runs, of this program or another, wait until it is complete
        if not installed.exists() or installed.read_text() != packages:
            print(f"installing {packages.split()} into {folder}, see {log.name}", flush=True)
            venv, pip = [sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", *packages.split("\n")]
            for words in (venv, pip):
                subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=True)
            installed.write_text(packages)
    return str(python)


def execute(run: Run) -> dict:
    """Make a run in an empty folder; write its summary and return it."""
    run_digest = digest(run)  # before it starts: what is edited meanwhile did not run
    python = peer_python(run) if run.peer else sys.executable
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = run.folder.with_suffix(".log")  # beside the folder, which the script itself makes
    env = os.environ | ({} if run.alone else ONE_THREAD)
    date, load, start = datetime.now(UTC), os.getloadavg()[0], time.perf_counter()
    with log.open("w") as file:
        # a session of its own: a signal to its group reaches the processes that it starts, too
        words, session = run.words(python), {"start_new_session": True}
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=env, **session)
    UNDER_WAY.add(process.pid)
    _, status, usage = os.wait4(process.pid, 0)  # what it used, its own children included
    UNDER_WAY.remove(process.pid)
    seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    last_line = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
    if status:
        raise RuntimeError(f"exit status {process.returncode}, {last_line[:300]} ({log})")
    with (run.folder / "metrics.csv").open(newline="") as file:
        *_, final = csv.DictReader(file)
    summary = {
        "name": run.name,
        "section": run.section,
        "seed": run.seed,
        "command": shlex.join(run.words()),
        "alone": run.alone,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),  # of the largest of its processes
        "load_before": round(load, 2),
        "date": date.isoformat(timespec="seconds"),
        "commit": commit_of(run.script),
        "hardware": hardware(),
        "versions": versions(python, run.script),
        "code": code_digest(run.script),
        "digest": run_digest,
        "final": final,
        "result": last_line,
    }
    unfinished = run.folder / "summary.tmp"
    unfinished.write_text(json.dumps(summary, indent=2) + "\n")
    unfinished.replace(run.folder / "summary.json")
    return summary


@functools.cache
def versions(python: str, script: Path) -> dict[str, str]:
    """Versions of Python, and of PACKAGES and what a peer names where they are installed beside it."""
    program = (
        "import importlib.metadata as m, json, platform\n"
        "found = {d.metadata['Name'].lower().replace('-', '_'): d.version for d in m.distributions()}\n"
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    found = json.loads(subprocess.check_output([python, "-c", program], text=True))
    named = [re.match(r"\w+", package)[0] for package in pinned_packages(script)]
    return {name: found[name] for name in ["python", *PACKAGES, *named] if name in found}


@functools.cache
def hardware() -> dict:
    models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gpus = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = answer.stdout.splitlines() if answer.returncode == 0 else []
    return {"cpu": models[0] if models else platform.machine(), "cores": CORES, "gpus": gpus}


def commit_of(script: Path) -> str:
    """The last commit that changed the script; with "-dirty" where it was edited since."""
    log, diff = ["git", "log", "-1", "--format=%h", "--", script], ["git", "diff", "--quiet", "HEAD", "--", script]
    commit = subprocess.run(log, capture_output=True, text=True, check=False).stdout.strip()
    edited = subprocess.run(diff, capture_output=True, check=False).returncode
    return commit + "-dirty" * bool(edited)


# --- all of them -----------------------------------------------------------------------------


def run_all(runs: list[Run], jobs: int) -> list[str]:
    """First those that need the machine to themselves, one by one, then the others side by side. Returns the failures.

    The former go seed by seed, not row by row: what is compared is measured close together in time.
    """
    alone = sorted((run for run in runs if run.alone), key=lambda run: run.seed)
    shared = [run for run in runs if not run.alone]
    failures, done = [], 0
    for sent in (signal.SIGINT, signal.SIGTERM):  # in a shell's background Ctrl-C is ignored, here and in children
        signal.signal(sent, signal.default_int_handler)
    for phase, workers in ((alone, 1), (shared, jobs)):
        with concurrent.futures.ThreadPoolExecutor(workers) as executor:
            futures = {executor.submit(execute, run): run for run in phase}
            try:
                for future in concurrent.futures.as_completed(futures):
                    run, done = futures[future], done + 1
                    try:
                        found = future.result()
                        message = f"{found['seconds']:,.0f} s, {found['result'][:100]}"
                    except Exception as error:  # whatever it was, the other runs go on, and the end names this one
                        message = f"FAILED, {error}"
                        failures.append(f"{run}: {error}")
                    print(f"[{done}/{len(runs)}] {run}: {message}", flush=True)
            except KeyboardInterrupt:
                executor.shutdown(wait=False, cancel_futures=True)
                stop(list(futures))
                raise
    return failures


def stop(futures: list[concurrent.futures.Future]):
    """Interrupt all processes; kill those that are still there after ten seconds."""
    sent = signal.SIGINT
    while waiting := [future for future in futures if not future.done()]:
        for pid in list(UNDER_WAY):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, sent)
        concurrent.futures.wait(waiting, timeout=10)
        sent = signal.SIGKILL


def slurm(runs: list[Run]) -> str:
    """An array job with a task for each run; every task has its machine to itself if one of the runs needs that."""
    RUNS.mkdir(parents=True, exist_ok=True)  # for the logs
    names = "\n".join(f'    "{run.name} {run.seed}"' for run in runs)
    cores = "--exclusive" if any(run.alone for run in runs) else "--cpus-per-task=1"
    return f"""#!/usr/bin/env bash
#SBATCH --job-name=benchmark --array=0-{len(runs) - 1} --nodes=1 {cores} --output={RUNS}/slurm-%A_%a.txt
runs=(
{names}
)
read -r name seed <<<"${{runs[SLURM_ARRAY_TASK_ID]}}"
exec ./benchmark.sh --no-plot --jobs 1 --seeds "$seed" "$name"
"""


def try_out(script: Path) -> bool:
    """Run a script with its toy budget, that of its tests; a tool, which has none, with --help. Whether it fails."""
    about = tomllib.loads(Path("tests", "scripts", f"{script.stem}.toml").read_text())
    words, start = [sys.executable, script.absolute(), *shlex.split(about.get("tiny", "--help"))], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {"cwd": folder, "env": os.environ | ONE_THREAD, "capture_output": True, "text": True}
        done = subprocess.run(words, check=False, **options)
    last = re.findall(r".*\w.*", done.stdout + done.stderr)[-1:]  # words, not the frame around --help
    line = f"{'FAILED ' * bool(done.returncode)}{script}  {time.perf_counter() - start:.1f} s  {''.join(last)}\n"
    print(line, end="", flush=True)
    return done.returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmark.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="a row, how rows begin, a pattern, or a section")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and do nothing")
    parser.add_argument("--jobs", type=int, default=CORES, help="runs side by side (default: the cores)")
    parser.add_argument("--seeds", type=parse_seeds, help="other seeds than the table's, such as 1-3 or 1,5")
    parser.add_argument("--slurm", action="store_true", help="print an array job of all unfinished runs, for sbatch")
    parser.add_argument("--quick", action="store_true", help="every script at a toy budget, and nothing of the table")
    parser.add_argument("--no-plot", action="store_true", help="leave results/ and README.md as they are")
    args = parser.parse_args()
    if args.quick:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as executor:
            scripts = sorted([*Path("algos").glob("*.py"), *Path("gen").glob("*.py")])
            return max(executor.map(try_out, scripts))
    try:
        runs = select(parse_table(sys.stdin.read(), args.seeds), args.names)
    except ValueError as error:
        parser.error(str(error))
    if args.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # head takes what it wants
        for run in runs:
            python = (PEERS / run.peer / "bin" / "python").as_posix() if run.peer else "python"
            print(shlex.join(run.words(python)))
        return 0
    unfinished = [run for run in runs if not is_finished(run)]
    if args.slurm:
        print(slurm(unfinished), end="")
        return 0
    fitting = [run for run in unfinished if run.min_cores <= CORES]
    print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are finished", flush=True)
    for name, cores in dict.fromkeys((run.name, run.min_cores) for run in unfinished if run not in fitting):
        print(f"{name}: skipped, needs {cores} cores", flush=True)
    try:
        failures = run_all(fitting, args.jobs)
        if not args.no_plot:
            words = [sys.executable, str(Path(__file__).with_name("plot.py")), "--root", "."]
            if subprocess.run(words, check=False).returncode:
                failures.append("plot.py: see above")
    except KeyboardInterrupt:
        print("interrupted: what was under way starts over next time")
        return 130
    if failures:
        print("\n".join([f"{len(failures)} failed:", *failures]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
