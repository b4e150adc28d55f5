"""Would the tests notice? Break a script in one place at a time and run its tests on the broken copy.

    python tests/mutations.py              every script
    python tests/mutations.py trpo es      these

tests/scripts/<file>.toml lists the mutations of a script: a text that occurs exactly once, the wrong text, the reason.
A mutant that survives shows a hole in the tests. Prints each outcome; exit status 1 if one survives.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# a server without threads imports once what takes longer than most tests, and forks for each mutant
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["gymnasium", "matplotlib.figure", "pytest", "torch", "tyro"])


def run_tests(script: Path, text: str) -> str:
    """Outcome of the script's tests with this text in its place: "failed", "passed", or why they could not run."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("algos", "gen", "benchmarks", "tests"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        Path(folder, script).write_text(text)
        process = SERVER.Process(target=pytest_in, args=(folder, script.stem))
        process.start()
        process.join(timeout=300)
        if process.exitcode is None:
            process.kill()
            return "failed"  # a mutant that hangs is noticed
        if process.exitcode > 1:  # pytest was interrupted, found no tests, or could not import them
            return Path(folder, "output").read_text()[-2000:]
        return "failed" if process.exitcode else "passed"


def pytest_in(folder: str, name: str):
    """Run the tests of a script in a copy of the project; the exit status is pytest's."""
    os.chdir(folder)
    os.environ |= {"TMPDIR": folder}
    tempfile.tempdir = folder
    sys.path[0] = folder
    with open("output", "w") as output, redirect_stdout(output), redirect_stderr(output):
        sys.exit(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"tests/test_{name}.py"]))


def main(names: list[str]) -> int:
    """Returns the number of mutants that survived."""
    survived = 0
    for path in sorted(ROOT.glob("tests/scripts/*.toml")):
        if names and path.stem not in names:
            continue
        (script,) = (s.relative_to(ROOT) for s in ROOT.glob(f"[ag]*/{path.stem}.py"))
        text, mutations = (ROOT / script).read_text(), tomllib.loads(path.read_text())["mutation"]
        if (outcome := run_tests(script, text)) != "passed":
            raise SystemExit(f"{script}: its tests do not pass on the script as it is: {outcome}")
        for mutation in mutations:
            if text.count(mutation["old"]) != 1:
                raise SystemExit(f"{script}: occurs {text.count(mutation['old'])} times: {mutation['old']}")
        mutants = [text.replace(mutation["old"], mutation["new"]) for mutation in mutations]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for mutation, outcome in zip(mutations, pool.map(lambda m: run_tests(script, m), mutants), strict=True):  # noqa: B023
                survived += outcome != "failed"
                print(f"{'noticed ' if outcome == 'failed' else 'SURVIVED'} {script}: {mutation['reason']}", flush=True)
                if outcome != "failed":
                    print(f"    - {mutation['old']}\n    + {mutation['new']}\n    {outcome}")
    return survived


if __name__ == "__main__":
    raise SystemExit(min(main(sys.argv[1:]), 1))
