"""Run the table that benchmark.sh holds: see there for what a row means. Standard library only.

    ./benchmark.sh [name ...] [options]

Each run is a process with a folder of its own, runs/benchmark/<name>/seed<k>/. Its summary.json is written last, with
a digest of the script's code and the command: a run whose summary holds the digest of today is finished and skipped,
any other folder is removed and its run made again. Comments and docstrings do not count as code.
"""

import argparse
import ast
import concurrent.futures
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
import threading
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RUNS, PEERS = Path("runs", "benchmark"), Path("runs", "peers")
PACKAGES = ["torch", "numpy", "gymnasium", "mujoco"]  # whose versions every summary names, if they are there
SCRIPTS = ("algos.", "gen.")  # how the names of modules begin whose changes make those who import them stale
ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")


class TableError(ValueError):
    """The table or a name on the command line makes no sense."""


class RunError(RuntimeError):
    """A run cannot be made, or went wrong."""


# --- the table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One row of the table, its braces expanded."""

    name: str
    section: str
    seeds: tuple[int, ...]
    alone: bool
    min_cores: int
    command: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One seed of an entry."""

    entry: Entry
    seed: int

    @property
    def folder(self) -> Path:
        return RUNS / self.entry.name / f"seed{self.seed}"

    @property
    def script(self) -> Path | None:
        """The script that is measured: the last one, where another runs it."""
        return next((Path(word) for word in reversed(self.entry.command) if word.endswith(".py")), None)

    @property
    def peer(self) -> str | None:
        """Name of the environment that a script of benchmarks/peers/ runs in: what stands before the underscore."""
        is_peer = self.script and self.script.parent.name == "peers"
        return self.script.stem.split("_")[0] if is_peer else None

    def words(self, python: str = "python") -> list[str]:
        """The command in full."""
        head = [python if word == "python" else word for word in self.entry.command[:1]]
        return [*head, *self.entry.command[1:], "--seed", str(self.seed), "--run-dir", self.folder.as_posix()]

    def __str__(self):
        return f"{self.entry.name} seed {self.seed}"


def parse_table(text: str) -> list[Entry]:
    """Rows `name | seeds | cores | command` under `[section]` lines -> entries. Raises TableError."""
    entries, section = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            for row in expand_braces(line):
                cells = [cell.strip() for cell in row.split("|", 3)]
                if len(cells) != 4 or not section or not re.fullmatch(r"1|all|\d+\+", cells[2]):
                    raise TableError(f"not a row of a section, name | seeds | cores | command: {line}")
                name, seeds, cores, command = cells
                min_cores = int(cores.rstrip("+")) if cores != "all" else 1
                words = tuple(shlex.split(command))
                entries.append(Entry(name.lower(), section, parse_seeds(seeds), cores != "1", min_cores, words))
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"two rows are called {name}")
    return entries


def expand_braces(line: str) -> list[str]:
    """The lists {a,b,...} of a line are walked together: one line per item."""
    lists = [group.split(",") for group in re.findall(r"\{([^{}]*,[^{}]*)\}", line)]
    if not lists:
        return [line]
    if len({len(items) for items in lists}) > 1:
        raise TableError(f"lists of different lengths: {line}")
    lines = []
    for items in zip(*lists, strict=True):
        rest = iter(items)
        lines.append(re.sub(r"\{[^{}]*,[^{}]*\}", lambda _, rest=rest: next(rest), line))
    return lines


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "1-3,7" -> (1, 2, 3, 7)."""
    seeds = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match:
            raise TableError(f"not seeds, such as 1-3 or 1,5: {text}")
        first, last = int(match[1]), int(match[2] or match[1])
        seeds += range(first, last + 1)
    return tuple(seeds)


def select(entries: list[Entry], names: list[str]) -> list[Entry]:
    """The entries that the names stand for, in the order of the table; all of them without names. Raises TableError."""
    chosen = set()
    for name in names:
        exactly = [entry for entry in entries if entry.name == name]
        matches = exactly or [
            entry
            for entry in entries
            if entry.section == name or entry.name.startswith(name) or fnmatch.fnmatch(entry.name, name)
        ]
        if not matches:
            raise TableError(f"no row is called {name}: ./benchmark.sh --list shows them all")
        chosen |= set(matches)
    return [entry for entry in entries if entry in chosen or not names]


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
    """The dependencies that a script's inline metadata (PEP 723) names."""
    block = re.search(r"^# /// script$(.*?)^# ///$", script.read_text(), re.MULTILINE | re.DOTALL)
    return tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))["dependencies"] if block else []


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
def code_digest(script: Path, with_packages: bool) -> str:
    """Digest of a script's code and of what it imports; for a peer, of its pinned versions, too. Raises RunError."""
    try:
        tree = ast.parse(script.read_text())
        imported = [canonical(ast.parse(other.read_text())) for other in imported_scripts(tree)]
        parts = [canonical(tree), *(pinned_packages(script) if with_packages else []), *imported]
    except (OSError, SyntaxError) as error:
        raise RunError(f"cannot read {script}: {error}") from None
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def digest(run: Run) -> str:
    """Digest of the code and the command."""
    code = code_digest(run.script, run.peer is not None) if run.script else ""
    return hashlib.sha256("\n".join([code, *run.words()]).encode()).hexdigest()


def is_finished(run: Run) -> bool:
    """Whether the summary, which is written last, is there and belongs to today's code and command."""
    try:
        return json.loads((run.folder / "summary.json").read_text())["digest"] == digest(run)
    except (OSError, ValueError, KeyError, RunError):
        return False


# --- environments of the peers ---------------------------------------------------------------


def peer_python(run: Run) -> str:
    """The interpreter of a peer's environment in runs/peers/, installed if need be. Raises RunError."""
    folder, packages = PEERS / run.peer, pinned_packages(run.script)
    python, installed, log = folder / "bin" / "python", folder / "installed.txt", folder.with_suffix(".log")
    PEERS.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other runs, of this program or another, wait until it is complete
        present = set(installed.read_text().splitlines()) if installed.exists() else set()
        if not present or set(packages) - present:
            print(f"installing {' '.join(packages)} into {folder}", flush=True)
            commands = [[sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", *packages]]
            try:
                with log.open("w") as file:
                    for words in commands[python.exists() :]:
                        subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=True)
            except (OSError, subprocess.CalledProcessError):
                raise RunError(f"cannot install {run.peer}, see {log}") from None
            names = {package_name(package) for package in packages}
            kept = {line for line in present if package_name(line) not in names}
            installed.write_text("\n".join(sorted(kept | set(packages))) + "\n")
    return str(python.absolute())


def package_name(requirement: str) -> str:
    """ "gymnasium[mujoco]==1.4.0" -> "gymnasium"."""
    return re.match(r"[\w.-]+", requirement)[0]


# --- one run ---------------------------------------------------------------------------------


class Children:
    """The processes under way, so that Ctrl-C can end them."""

    def __init__(self):
        self.lock, self.running, self.stopping = threading.Lock(), {}, False

    def run(self, words: list[str], log, env: dict) -> tuple[int, "os.struct_rusage"]:
        """Run to the end -> exit status and what it used, its own children included."""
        with self.lock:
            if self.stopping:
                raise RunError("interrupted")
            # a session of its own: a signal to its group reaches the processes that it starts, too
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)
            self.running[process.pid] = process
        _, status, usage = os.wait4(process.pid, 0)
        with self.lock:
            del self.running[process.pid]
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage

    def stop(self):
        """Interrupt them all; kill those that are still there after ten seconds."""
        with self.lock:
            self.stopping = True
        for sent in (signal.SIGINT, signal.SIGKILL):
            with self.lock:
                for pid in self.running:
                    os.killpg(pid, sent)
            for _ in range(100):
                if not self.running:
                    return
                time.sleep(0.1)


def execute(run: Run, children: Children) -> dict:
    """Make a run in an empty folder; write its summary and return it. Raises RunError."""
    run_digest = digest(run)  # before it starts: what is edited meanwhile did not run
    python = peer_python(run) if run.peer else sys.executable
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log_path = run.folder.with_suffix(".log")  # beside the folder, which the script itself makes
    date, load, start = datetime.now(UTC), os.getloadavg()[0], time.perf_counter()
    with log_path.open("w") as log:
        try:
            env = os.environ | ({} if run.entry.alone else ONE_THREAD)
            status, usage = children.run(run.words(python), log, env)
        except OSError as error:
            raise RunError(f"cannot start: {error}") from None
    seconds = time.perf_counter() - start
    if status:
        last_lines = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        raise RunError(f"exit status {status}, {' '.join(last_lines)[:300]} ({log_path})")
    try:
        with (run.folder / "metrics.csv").open(newline="") as file:
            *_, final = csv.DictReader(file)
    except (OSError, ValueError):
        raise RunError(f"left no rows in {run.folder / 'metrics.csv'}") from None
    summary = {
        "name": run.entry.name,
        "section": run.entry.section,
        "seed": run.seed,
        "command": shlex.join(run.words()),
        "alone": run.entry.alone,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_memory_mb": round(usage.ru_maxrss / 1024, 1),  # of the largest of its processes
        "load_before": round(load, 2),
        "date": date.isoformat(timespec="seconds"),
        "commit": commit_of(run.script),
        "hardware": hardware(),
        "versions": versions(python, tuple(map(package_name, pinned_packages(run.script))) if run.peer else ()),
        "code": code_digest(run.script, run.peer is not None) if run.script else None,
        "digest": run_digest,
        "final": final,
        "result": next(iter(log_path.read_text(errors="replace").strip().splitlines()[-1:]), ""),  # what it printed
    }
    unfinished = run.folder / "summary.tmp"
    unfinished.write_text(json.dumps(summary, indent=2) + "\n")
    unfinished.replace(run.folder / "summary.json")
    return summary


@functools.cache
def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python, and of PACKAGES and these where they are installed beside it."""
    program = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name'].lower().replace('-', '_'): d.version for d in m.distributions()}\n"
        "wanted = {p: found.get(p.lower().replace('-', '_')) for p in sys.argv[1:]}\n"
        "print(json.dumps({'python': platform.python_version()} | {p: v for p, v in wanted.items() if v}))"
    )
    words = [python, "-c", program, *dict.fromkeys([*PACKAGES, *packages])]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    return json.loads(answer.stdout) if answer.returncode == 0 else {}


@functools.cache
def hardware() -> dict:
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.*)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    gpus = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        gpus = answer.stdout.splitlines() if answer.returncode == 0 else []
    return {"cpu": models[0] if models else platform.machine(), "cores": count_cores(), "gpus": gpus}


def commit_of(script: Path | None) -> str | None:
    """The last commit that changed the script; with "-dirty" where it was edited since."""
    where = ["--", str(script or ".")]
    try:
        words = ["git", "log", "-1", "--format=%h", *where]
        commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
        edited = subprocess.run(["git", "diff", "--quiet", "HEAD", *where], capture_output=True, check=False).returncode
    except OSError:
        return None
    return (commit + "-dirty" * bool(edited)) or None


def count_cores() -> int:
    return len(os.sched_getaffinity(0))


# --- all of them -----------------------------------------------------------------------------


def run_all(runs: list[Run], jobs: int) -> list[str]:
    """First those that need the machine to themselves, one by one, then the others side by side. Returns the failures.

    The former go seed by seed, not row by row: what is compared is measured close together in time.
    """
    alone = sorted((run for run in runs if run.entry.alone), key=lambda run: run.seed)
    shared = [run for run in runs if not run.entry.alone]
    children, failures, done = Children(), [], 0
    for stopping in (signal.SIGINT, signal.SIGTERM):  # in a shell's background Ctrl-C is ignored, here and in children
        signal.signal(stopping, signal.default_int_handler)
    for phase, workers in ((alone, 1), (shared, jobs)):
        executor = concurrent.futures.ThreadPoolExecutor(workers)
        futures = {executor.submit(execute, run, children): run for run in phase}
        try:
            for future in concurrent.futures.as_completed(futures):
                run, done = futures[future], done + 1
                try:
                    found = future.result()
                    print(f"[{done}/{len(runs)}] {run}: {found['seconds']:,.0f} s, {found['result'][:100]}", flush=True)
                except Exception as error:  # whatever it was, the other runs go on, and the end names this one
                    message = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
                    failures.append(f"{run}: {message}")
                    print(f"[{done}/{len(runs)}] {run}: FAILED, {message}", flush=True)
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
        executor.shutdown()
    return failures


def slurm(runs: list[Run]) -> str:
    """An array job with a task for each run; every task has its machine to itself if one of the runs needs that."""
    RUNS.mkdir(parents=True, exist_ok=True)  # for the logs
    names = "\n".join(f'    "{run.entry.name} {run.seed}"' for run in runs)
    cores = "--exclusive" if any(run.entry.alone for run in runs) else "--cpus-per-task=1"
    return f"""#!/usr/bin/env bash
#SBATCH --job-name=benchmark --array=0-{len(runs) - 1} --nodes=1 {cores} --output={RUNS}/slurm-%A_%a.txt
runs=(
{names}
)
read -r name seed <<<"${{runs[SLURM_ARRAY_TASK_ID]}}"
exec ./benchmark.sh --no-plot --jobs 1 --seeds "$seed" "$name"
"""


def try_out(script: Path) -> tuple[Path, float, subprocess.CompletedProcess]:
    """Run a script of algos/ or gen/ with its toy budget, that of its tests; a tool, which has none, with --help."""
    about = tomllib.loads(Path("tests", "scripts", f"{script.stem}.toml").read_text())
    words = [sys.executable, str(script.absolute()), *shlex.split(about.get("tiny", "--help"))]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        env = os.environ | ONE_THREAD
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
        return script, time.perf_counter() - start, done


def quick(jobs: int) -> int:
    """Try every script out; a line for each. Returns 1 if one fails."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
        scripts = sorted([*Path("algos").glob("*.py"), *Path("gen").glob("*.py")])
        for script, seconds, done in executor.map(try_out, scripts):
            failed |= done.returncode != 0
            last = re.findall(r".*\w.*", done.stdout + done.stderr)[-1:]  # words, not the frame around --help
            print(f"{'FAILED ' * bool(done.returncode)}{script}  {seconds:.1f} s  {''.join(last)}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmark.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="a row, how rows begin, a pattern, or a section")
    parser.add_argument("--list", action="store_true", help="print the commands, one a line, and do nothing")
    parser.add_argument("--jobs", type=int, default=count_cores(), help="runs side by side (default: the cores)")
    parser.add_argument("--seeds", help="other seeds than the table's, such as 1-3 or 1,5")
    parser.add_argument("--slurm", action="store_true", help="print an array job of all unfinished runs, for sbatch")
    parser.add_argument("--quick", action="store_true", help="every script at a toy budget, and nothing of the table")
    parser.add_argument("--no-plot", action="store_true", help="leave results/ and README.md as they are")
    args = parser.parse_args()
    if args.quick:
        return quick(args.jobs)
    try:
        entries = select(parse_table(sys.stdin.read()), args.names)
        seeds = parse_seeds(args.seeds) if args.seeds else None
    except TableError as error:
        parser.error(str(error))
    runs = [Run(entry, seed) for entry in entries for seed in seeds or entry.seeds]
    if args.list:
        for run in runs:
            python = (PEERS / run.peer / "bin" / "python").as_posix() if run.peer else "python"
            print(shlex.join(run.words(python)))
        return 0
    unfinished = [run for run in runs if not is_finished(run)]
    fitting = [run for run in unfinished if run.entry.min_cores <= count_cores()]
    if args.slurm:
        print(slurm(unfinished), end="")
        return 0
    print(f"{len(runs) - len(unfinished)} of {len(runs)} runs are finished", flush=True)
    for entry in dict.fromkeys(run.entry for run in unfinished if run not in fitting):
        print(f"{entry.name}: skipped, needs {entry.min_cores} cores", flush=True)
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
