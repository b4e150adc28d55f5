"""Would the tests notice? Break a script in one place at a time, and see whether its tests fail.

    python tests/mutations.py algos/trpo.py

Every mutation is an old text that occurs exactly once in the file, the text that replaces it, and what is wrong then.
One that survives shows a hole in the tests. Works on copies: the project itself is not touched.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parent.parent

MUTATIONS: dict[str, list[tuple[str, str, str]]] = {
    "algos/trpo.py": [
        (
            "next_values * (1 - terminations) - values",
            "next_values * (1 - terminations) + values",
            "the TD error subtracts the value of the state it starts from",
        ),
        (
            "next_values * (1 - terminations) - values",
            "next_values * (1 - cuts) - values",
            "a truncated episode would have gone on: its last value is bootstrapped",
        ),
        (
            "discount = gamma * gae_lambda * (1 - cuts)",
            "discount = gamma * gae_lambda * (1 - terminations)",
            "advantages must not leak over a truncation into the episode before it",
        ),
    ],
}


def run_tests(script: str, mutation: tuple[str, str, str] | None, time_limit: float) -> str:
    """Test a copy of the script with one mutation, or without: "failed", "passed", or what kept the tests from running.

    A test that hangs counts as failed.
    """
    text = (ROOT / script).read_text(encoding="utf-8")
    if mutation:
        old, new, _ = mutation
        if text.count(old) != 1:
            return f"does not apply: its old text occurs {text.count(old)} times"
        text = text.replace(old, new)
        try:
            compile(text, script, "exec")
        except SyntaxError as error:
            return f"does not apply: {error}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        for name in ("algos", "gen", "tests"):
            if (ROOT / name).exists():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / script).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        command.append(f"tests/test_{Path(script).stem}.py")
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TMPDIR": folder}
        try:
            done = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=time_limit, check=False)
        except subprocess.TimeoutExpired:
            return "failed"
    if done.returncode > 1:  # pytest's own codes: interrupted, internal error, wrong usage, no tests
        return f"cannot be tested: {(done.stdout + done.stderr)[-2000:].decode()}"
    return "failed" if done.returncode else "passed"


def main(
    scripts: tyro.conf.Positional[tuple[str, ...]] = (),
    jobs: Annotated[int, tyro.conf.arg(help="copies that are tested side by side")] = len(os.sched_getaffinity(0)),
    time_limit: Annotated[float, tyro.conf.arg(help="seconds after which a copy's tests count as failed")] = 600,
) -> int:
    """Scripts to break, such as algos/trpo.py (default: all). Returns the number of mutations that were not noticed."""
    unknown = [script for script in scripts if script not in MUTATIONS]
    if unknown:
        raise SystemExit(f"no mutations of {' '.join(unknown)}; there are some of {' '.join(MUTATIONS)}")
    unnoticed = 0
    for script in scripts or MUTATIONS:
        # Unless the tests pass on the script as it is, that they fail on a mutation would not mean anything.
        outcome = run_tests(script, None, time_limit)
        if outcome != "passed":
            print(f"{script}: its tests do not pass without any mutation ({outcome})")
            unnoticed += len(MUTATIONS[script])
            continue
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = pool.map(partial(run_tests, script, time_limit=time_limit), MUTATIONS[script])
            for (old, new, reason), outcome in zip(MUTATIONS[script], outcomes, strict=True):
                noticed = outcome == "failed"
                unnoticed += not noticed
                print(f"{'noticed ' if noticed else 'SURVIVED'} {script}: {reason}", flush=True)
                if not noticed:
                    print(f"    - {old}\n    + {new}\n    {outcome}")
    total = sum(len(MUTATIONS[script]) for script in scripts or MUTATIONS)
    print(f"{total} mutations, {unnoticed} not noticed")
    return unnoticed


if __name__ == "__main__":
    raise SystemExit(bool(tyro.cli(main, description=__doc__)))
