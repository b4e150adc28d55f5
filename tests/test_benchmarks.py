"""The benchmark's own logic: what counts as finished, what happens to failures, what tables make of results."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from algos import reinforce
from benchmarks import plot, run
from benchmarks.figures import trpo_parallel as parallel
from benchmarks.gradient_variance import gradients

ROOT = Path(__file__).resolve().parents[1]

TOY = '''
"""A script that notes when it ran and writes one row."""
import argparse, os, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--run-dir", type=Path)
parser.add_argument("--sleep", type=float, default=0)
parser.add_argument("--fail-on", type=int)
parser.add_argument("--silent", action="store_true")
args = parser.parse_args()
start = time.time()
args.run_dir.mkdir()
(args.run_dir / "pid").write_text(str(os.getpid()))
time.sleep(args.sleep)
if args.seed == args.fail_on:
    sys.exit("the toy broke")
if not args.silent:
    # a comment
    threads = os.environ.get("OMP_NUM_THREADS", "")
    text = f"global_step,threads\\n1,\\n{args.seed},{threads}\\n"
    (args.run_dir / "metrics.csv").write_text(text)
with open("calls.txt", "a") as file:
    file.write(f"{args.run_dir} {start} {time.time()}\\n")
'''


@pytest.fixture
def project(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def benchmark(project: Path, table: str, *options: str) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--no-plot", *options]
    return subprocess.run(words, input=f"[toy]\n{table}", cwd=project, capture_output=True, text=True, check=False)


def calls(project: Path) -> list[list[str]]:
    """Folder, start and end of every toy run so far."""
    path = project / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def summary(project: Path, name: str, seed: int) -> dict:
    return json.loads((project / "runs" / "benchmark" / name / f"seed{seed}" / "summary.json").read_text())


# --- the table -------------------------------------------------------------------------------


def test_lists_in_braces_are_walked_together():
    table = "[s]\na-{X,Y} | 1-2,7 | 1 | python f.py --env {X,Y} --n {1,2}\nb | 2 | 4+ | python g.py 'c d'"
    runs = run.parse_table(table)
    assert [(r.name, r.seed, r.alone, r.min_cores) for r in runs] == [
        *(("a-x", seed, False, 1) for seed in (1, 2, 7)),
        *(("a-y", seed, False, 1) for seed in (1, 2, 7)),
        ("b", 2, True, 4),
    ]
    assert runs[3].command == ("python", "f.py", "--env", "Y", "--n", "2")
    assert runs[6].command == ("python", "g.py", "c d")
    assert [r.seed for r in run.parse_table(table, [5])] == [5, 5, 5]


@pytest.mark.parametrize("row", ["a | 1 | 1", "a | x | 1 | f", "a | 1 | some | f", "{a,b} | 1 | 1 | {a,b,c}"])
def test_a_table_that_makes_no_sense_is_refused(row):
    with pytest.raises(ValueError, match=re.escape(row)):
        run.parse_table(f"[s]\n{row}")


def test_a_name_is_a_row_before_it_is_a_beginning_a_pattern_or_a_section():
    runs = run.parse_table("[s]\nab | 1 | 1 | f\nabc | 1 | 1 | f\nx-b | 1 | 1 | f\n[ab-section]\ny | 1 | 1 | f")

    def names(*patterns):
        return [selected.name for selected in run.select(runs, list(patterns))]

    assert names() == ["ab", "abc", "x-b", "y"]
    assert names("ab") == ["ab"]
    assert names("a") == ["ab", "abc"]
    assert names("*-b") == ["x-b"]
    assert names("ab-section", "x") == ["x-b", "y"]
    with pytest.raises(ValueError, match="nobody"):
        names("nobody")


def test_list_prints_every_command_in_full():
    words = ["bash", str(ROOT / "benchmark.sh"), "--list"]
    lines = subprocess.check_output(words, text=True, env=os.environ | {"PYTHON": sys.executable}).splitlines()
    folders = [line.split("--run-dir ")[1] for line in lines]
    assert len(set(folders)) == len(lines) > 100
    for line in lines:
        words = re.sub(r"-m (benchmarks[\w.]+)", lambda m: m[1].replace(".", "/") + ".py", line).split()
        script = [word for word in words if word.endswith(".py")][-1]
        source = (ROOT / script).read_text()
        if "peers/" in script:  # what they import is not here, so their flags are not parsed in tests/test_house.py
            known = {word.replace("_", "-") for word in re.findall(r"\w+", source)}
            assert set(re.findall(r" --([\w-]+)", line)) <= known, line
        assert line.startswith(("python algos/", "python gen/", "python benchmarks/", "python -m ", "runs/peers/"))
        assert not set("{}|$") & set(line)
    assert "python algos/trpo.py --env-id Ant --total-timesteps 1000000 --seed 5 " in "\n".join(lines)


def test_slurm_prints_an_array_job_with_a_task_for_every_unfinished_run(project):
    table = "shared | 1-2 | 1 | python toy.py\nalone | 1 | all | python toy.py"
    assert benchmark(project, table, "--seeds", "1", "shared").returncode == 0
    assert "--exclusive" not in benchmark(project, table, "--slurm", "shared").stdout
    script = benchmark(project, table, "--slurm").stdout
    assert "#SBATCH --job-name=benchmark --array=0-1 --nodes=1 --exclusive " in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (project / "benchmark.sh").write_text('#!/bin/sh\necho "$@"\n')
    (project / "benchmark.sh").chmod(0o755)
    for task, words in enumerate(("--seeds 2 shared", "--seeds 1 alone")):
        env = os.environ | {"SLURM_ARRAY_TASK_ID": str(task)}
        output = subprocess.check_output(["bash", "-c", script], cwd=project, env=env, text=True)
        assert output == f"--no-plot --jobs 1 {words}\n"


def test_quick_tries_every_script_with_the_flags_of_its_tests(project):
    scripts = {
        "algos/good.py": "import sys; print('much'); print(sys.argv[1:])",
        "gen/bad.py": "raise SystemExit('no')",
    }
    for path, text in scripts.items():
        for file, content in ((path, text), (f"tests/scripts/{Path(path).stem}.toml", "tiny = '--seed 1'")):
            (project / file).parent.mkdir(parents=True, exist_ok=True)
            (project / file).write_text(content)
    answer = benchmark(project, "", "--quick")
    assert answer.returncode == 1
    bad, good = sorted(answer.stdout.splitlines())
    assert good.startswith("algos/good.py  0.") and good.endswith("s  ['--seed', '1']")
    assert bad.startswith("FAILED gen/bad.py") and bad.endswith("no")


# --- what is finished ------------------------------------------------------------------------


def test_the_digest_ignores_comments_and_docstrings_and_sees_code(tmp_path):
    def digest(code: str) -> str:
        path = tmp_path / "f.py"
        path.write_text(code)
        run.code_digest.cache_clear()
        return run.code_digest(path)

    code = "class Args:\n    seed: int = 1\n\n\ndef f(x):\n    return x + 1\n"
    said = (
        '"""What it is."""\n# why\nclass Args:\n    "more"\n    seed: int = 1  # note\n    """help"""\n\n'
        'def f(x):\n    """f."""\n    return (x +\n            1)\n'
    )
    assert digest(code) == digest(said)
    for other in (code.replace("x + 1", "x - 1"), code.replace("= 1", "= 2"), code.replace("x + 1", "'x' + 1")):
        assert digest(other) != digest(code)
    assert digest("f('a')") != digest("f('b')")  # only a statement that is nothing but a string is no code
    assert digest("def f(x=None): pass") != digest("def f(x=0): pass")


def test_the_digest_sees_the_command_the_seed_and_a_peers_versions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = Path("peers", "toy_x.py")
    script.parent.mkdir()

    def digest(flags: str, seed: int, version: str) -> str:
        script.write_text(f'# /// script\n# dependencies = [\n#     "numpy=={version}",\n# ]\n# ///\nprint()\n')
        run.code_digest.cache_clear()
        (made,) = run.parse_table(f"[s]\na | {seed} | 1 | python peers/toy_x.py {flags}")
        return run.digest(made)

    digests = [digest("", 1, "1"), digest("--n 1", 1, "1"), digest("", 2, "1"), digest("", 1, "2")]
    assert len(set(digests)) == 4
    assert digest("", 1, "1") == digests[0]


@pytest.mark.parametrize("line", ["from algos.toy import f", "from algos import toy", "import algos.toy as t, os"])
def test_the_digest_sees_what_a_script_imports(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "algos").mkdir()

    def digest(imported: str) -> str:
        Path("algos", "toy.py").write_text(imported)
        Path("x.py").write_text(line)
        run.code_digest.cache_clear()
        return run.code_digest(Path("x.py"))

    assert digest("f = 1") == digest("f = 1  # a comment")
    assert digest("f = 1") != digest("f = 2")


def test_finished_runs_are_skipped_and_stale_or_unfinished_ones_made_again(project):
    table = "toy | 1-2 | 1 | python toy.py"
    assert benchmark(project, table).returncode == 0
    assert len(calls(project)) == 2
    (project / "toy.py").write_text(TOY.replace("# a comment", "# another"))
    assert "2 of 2 runs are finished" in benchmark(project, table).stdout
    assert len(calls(project)) == 2

    folder = project / "runs" / "benchmark" / "toy" / "seed1"
    (folder / "summary.json").unlink()
    (folder / "rest.txt").write_text("of an interrupted run")
    assert benchmark(project, table).returncode == 0
    assert len(calls(project)) == 3
    assert not (folder / "rest.txt").exists()

    (project / "toy.py").write_text(TOY.replace("1,\\n", "0,\\n"))
    assert benchmark(project, table).returncode == 0
    assert len(calls(project)) == 5


def test_the_summary_says_what_ran_where_and_how_it_ended(project):
    table = "shared | 3 | 1 | python toy.py --sleep 0.2\nalone | 3 | all | python toy.py"
    assert benchmark(project, table).returncode == 0
    found = summary(project, "shared", 3)
    assert found["command"] == "python toy.py --sleep 0.2 --seed 3 --run-dir runs/benchmark/shared/seed3"
    assert found["final"] == {"global_step": "3", "threads": "1"}
    assert summary(project, "alone", 3)["final"]["threads"] == os.environ.get("OMP_NUM_THREADS", "")
    assert 0.2 < found["seconds"] < 60
    assert 2 < found["peak_memory_mb"] < 500
    assert found["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert {"python", "torch", "numpy", "gymnasium", "mujoco"} <= set(found["versions"])
    assert str(project) not in json.dumps(found)


# --- failures --------------------------------------------------------------------------------


def test_a_failed_run_is_named_at_the_end_and_stops_no_other(project):
    table = """
        toy | 1-3 | 1 | python toy.py --fail-on 2
        silent | 1 | 1 | python toy.py --silent
        absent | 1 | all | python absent.py
        huge | 1 | 9999+ | python toy.py
    """
    answer = benchmark(project, table, "--jobs", "2")
    assert answer.returncode == 1
    *_, head, a, b, c = answer.stdout.splitlines()
    assert head == "3 failed:"
    failed = "\n".join(sorted([a, b, c]))
    assert "absent seed 1: [Errno 2] No such file or directory: 'absent.py'" in failed
    assert re.search("silent seed 1: .*runs/benchmark/silent/seed1/metrics.csv", failed)
    assert "toy seed 2: exit status 1, the toy broke (runs/benchmark/toy/seed2.log)" in failed
    assert "huge: skipped, needs 9999 cores" in answer.stdout
    assert summary(project, "toy", 1)
    assert summary(project, "toy", 3)
    assert not (project / "runs" / "benchmark" / "toy" / "seed2" / "summary.json").exists()
    assert not (project / "runs" / "benchmark" / "silent" / "seed1" / "summary.json").exists()


def test_ctrl_c_ends_the_children(project):
    words = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--no-plot", "--jobs", "2"]
    process = subprocess.Popen(words, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write("[toy]\ntoy | 1-4 | 1 | python toy.py --sleep 60")
    process.stdin.close()
    logs = project / "runs" / "benchmark" / "toy"
    deadline = time.time() + 20
    while sum(bool(path.read_text()) for path in logs.glob("*/pid")) < 2 and time.time() < deadline:
        time.sleep(0.05)
    start = time.time()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert time.time() - start < 15
    assert not calls(project)
    assert len(list(logs.glob("*.log"))) == 2  # and the others never began
    for path in logs.glob("*/pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_runs_that_ask_for_the_machine_get_it(project):
    table = """
        shared | 1-3 | 1   | python toy.py --sleep 0.3
        first  | 1-2 | all | python toy.py --sleep 0.2
        second | 1-2 | all | python toy.py
    """
    assert benchmark(project, table, "--jobs", "3").returncode == 0
    times = {folder: (float(start), float(end)) for folder, start, end in calls(project)}
    alone = [folder for folder in times if "shared" not in folder]
    # seed by seed, so that what is compared is measured close together
    assert [Path(folder).parts[-2:] for folder in alone] == [
        ("first", "seed1"), ("second", "seed1"), ("first", "seed2"), ("second", "seed2"),
    ]  # fmt: skip
    for folder in alone:
        for other in set(times) - {folder}:
            assert times[folder][1] <= times[other][0] or times[other][1] <= times[folder][0]
    assert times["runs/benchmark/shared/seed1"][1] > times["runs/benchmark/shared/seed2"][0]  # these ran side by side


def test_peers_run_in_their_own_environment(project):
    (project / "benchmarks" / "peers").mkdir(parents=True)
    pins = '# /// script\n# dependencies = ["numpy==0.0.1"]\n# ///\n'
    (project / "benchmarks" / "peers" / "toy_x.py").write_text(pins + TOY)
    python = project / "runs" / "peers" / "toy" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ntouch called\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (python.parents[1] / "toy_x.txt").write_text("numpy==0.0.1")
    table = "peer | 1 | 1 | python benchmarks/peers/toy_x.py"
    assert benchmark(project, table, "--list").stdout.startswith("runs/peers/toy/bin/python benchmarks/peers/toy_x.py ")
    assert not (project / "called").exists()
    assert benchmark(project, table).returncode == 0
    assert summary(project, "peer", 1)["command"].startswith("python benchmarks/peers/toy_x.py --seed 1 ")
    assert (project / "called").exists()


# --- collecting ------------------------------------------------------------------------------


def test_thinning_keeps_the_first_and_the_last_row_and_spaces_the_rest_evenly():
    for n in (1, 2, 399, 400, 401, 1000, 12_345):
        kept = plot.thin(list(range(n)))
        assert len(kept) == min(n, 400)
        assert kept[0] == 0
        assert kept[-1] == n - 1
        assert max(np.diff(kept), default=1) - min(np.diff(kept), default=1) <= 1


def test_floats_get_six_digits_and_whole_numbers_stay():
    cells = {
        "1234567": "1234567",
        "-3": "-3",
        "": "",
        "0.123456789": "0.123457",
        "-1234.56789": "-1234.57",
        "nan": "nan",
    }
    assert {cell: plot.shorten(cell) for cell in cells} == cells


def write_run(root: Path, name: str, seed: int, rows: list[dict], **more):
    """A finished run of the section trpo_parallel, as run.py leaves it."""
    folder = root / "runs" / "benchmark" / name / f"seed{seed}"
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    final = {key: str(value) for key, value in rows[-1].items()}
    found = {
        "name": name, "section": "trpo_parallel", "seed": seed, "code": "c", "peak_memory_mb": 321.0, "final": final,
        "cpu_seconds": 3.0, "date": "2026-11-30", "command": "python algos/trpo_parallel.py",
        "hardware": {"cpu": "Abacus", "cores": 2, "gpus": []}, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(found | more))


def race(seconds: float, updates: int = 10, crossing: int = 5) -> list[dict]:
    """Rows of a run that reaches -5 at one of its updates, of 5,000 steps each."""
    return [
        {
            "global_step": 5000 * i,
            "charts/episodic_return_100": -4.5 if i >= crossing else -20,
            "charts/SPS": 5000 / seconds,
            "time/rollout": 0.75 * seconds,
            "time/learn": 0.25 * seconds,
            "time/elapsed": i * seconds,
        }
        for i in range(1, updates + 1)
    ]


def load(root: Path) -> plot.Results:
    plot.collect(root / "runs" / "benchmark", root / "results", ["trpo_parallel"])
    return plot.Results(root / "results" / "trpo_parallel")


def test_collecting_keeps_what_thinning_would_blur(tmp_path):
    write_run(tmp_path, "trpo-to5-ours", 1, race(0.5, updates=1000, crossing=501))
    (result,) = load(tmp_path)["trpo-to5-ours"]
    assert len(result["update"]) == 400
    assert result["update"][-1] == 1000
    assert (result.at(1e6), result.at(4e6)) == (-20, -4.5)
    assert math.isnan(result.at(1e9))
    assert result.summary["facts"]["bar"] == {"global_step": 5000 * 501, "seconds": 250.5}  # exact, thinned or not
    assert result.summary["facts"]["updates"] == 1000
    assert result.summary["facts"]["median time/rollout"] == pytest.approx(0.375)
    assert np.isnan(result["no such column"]).all()


def test_the_bar_counts_only_over_a_hundred_episodes():
    columns = {
        "global_step": np.array([2000.0, 4000, 6000, 8000]),
        "charts/episodic_return_100": np.array([-4.0, -4, -4, -6]),
        "charts/episodic_length": np.array([50.0, 50, 50, 50]),
        "time/elapsed": np.array([1.0, 2, 3, 4]),
    }
    assert parallel.reached(columns, -5) == {"global_step": 6000, "seconds": 3.0}
    assert parallel.reached(columns, -3) is None
    columns["charts/episodic_length"][:] = np.nan  # no episode ended
    assert parallel.reached(columns, -5) is None


def test_the_gradients_of_episodes_have_reinforces_step_as_their_mean():
    args = reinforce.Args(log_std_init=0.0)
    envs = reinforce.make_envs(args, 3)
    policy = reinforce.Policy(reinforce.Standardize(4), 4, envs.single_action_space, 0.0)
    (obs, actions, rewards, mask), _ = reinforce.rollout(envs, policy)
    advantages, alive = torch.randn(rewards.shape), mask.bool()
    found = gradients(policy, obs, actions, advantages, mask).mean(0)
    before, sgd = parameters_to_vector(policy.parameters()).detach(), torch.optim.SGD(policy.parameters(), lr=1.0)
    reinforce.policy_gradient_step(policy, sgd, obs[alive], actions[alive], advantages[alive], 3)
    assert torch.allclose(parameters_to_vector(policy.parameters()) - before, found, atol=1e-4)


# --- tables ----------------------------------------------------------------------------------


def test_ratios_are_taken_seed_by_seed(tmp_path):
    for seed, (ours, theirs) in enumerate([(1.0, 10.0), (2.0, 24.0), (4.0, 44.0)], start=1):
        write_run(tmp_path, "trpo-to5-ours", seed, race(ours))
        write_run(tmp_path, "sb3-to5-best", seed, race(theirs))
        write_run(tmp_path, "trpo-speed-reacher", seed, race(ours))
        write_run(tmp_path, "sb3-speed-reacher", seed, race(theirs))
        write_run(tmp_path, "sb3-to5-ours", seed, race(6.0, crossing=99))  # never arrives, 60 seconds
    raw = {"global_step": 1, "raw/all_cores_SPS": 6000.0}
    write_run(tmp_path, "raw-stepping-reacher", 1, [raw])
    results = load(tmp_path)
    lines = parallel.race_table(results).splitlines()
    ours, best, settings = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert ours[1:5] == ["3 of 3", "25,000 (25,000 to 25,000)", "10.0 (5.00 to 20.0)", "1"]
    assert best[3:5] == ["120 (50.0 to 220)", "11.0x (10.0x to 12.0x)"]
    assert settings[1:5] == ["0 of 3", *["never (never to never)"] * 3]
    speed = parallel.speed_table(results).splitlines()[3].split("|")
    assert [cell.strip() for cell in speed[2:6]] == [
        "208 (114 to 500)", "11.0x (10.0x to 12.0x)", "278 (152 to 667)", "75 % (75 % to 75 %)",
    ]  # fmt: skip
    raw, ours = results["raw-stepping-reacher"], results["trpo-speed-reacher"]
    assert plot.ratios(ours, raw, parallel.gathering_rate, parallel.raw_rate) == pytest.approx([10 / 9])
    assert plot.ratios(ours, raw, parallel.steps_per_second, parallel.raw_rate) == pytest.approx([5 / 6])
    assert {"sb3-to5-same-kl", "trpo-post-start"} <= results.missing


def test_figures_and_blocks_come_from_results_alone_and_name_what_is_missing(tmp_path, monkeypatch, capsys):
    def draw(results: plot.Results, folder: Path) -> dict[str, str]:
        ours = {"trained": results["trpo-a"], "never run": results["trpo-b"]}
        with plot.figure(folder / "curves.png") as (axes,):
            plot.curves(axes, ours["trained"], "global_step", "charts/episodic_return_100", "trained")
        table = plot.beside("program", ours, {"return": "charts/episodic_return_100"}, [["theirs", "-3"]])
        return {"table": table, "number": "all is well"}

    for seed, end in ((1, -4.0), (2, -5.0)):
        rows = race(1.0, updates=20)
        rows[-1]["charts/episodic_return_100"] = end
        write_run(tmp_path, "trpo-a", seed, rows, code=f"version {seed}", date=f"2026-11-{27 + seed}")
    load(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "gone")
    page, readme = tmp_path / "results" / "trpo_parallel" / "README.md", tmp_path / "README.md"
    page.write_text("".join(f"<!-- begin: {name} -->\nold\n<!-- end: {name} -->\n" for name in ("table", "old")))
    readme.write_text("| x <!-- begin: trpo_parallel-number -->old<!-- end: trpo_parallel-number --> |\n")
    monkeypatch.setattr(plot, "figures_of", lambda section: SimpleNamespace(draw=draw, OLD="It was longer."))
    monkeypatch.setattr(sys, "argv", ["plot.py", "--root", str(tmp_path), "trpo_parallel"])
    assert plot.main() == 0
    output = capsys.readouterr().out
    assert "missing trpo-b" in output
    assert "no block <!-- begin: machines -->" in output
    header, _, ours, theirs = page.read_text().splitlines()[1:5]
    assert (header, ours, theirs) == ("| program | return |", "| trained | -4.50 ± 0.71 |", "| theirs | -3 |")
    assert "not yet again: trpo-a. It was longer." in page.read_text()
    assert readme.read_text().startswith("| x <!-- begin: trpo_parallel-number -->all is well<!-- end")
    assert (page.parent / "curves.png").exists()


def test_the_band_stays_among_the_seeds_and_narrows_with_their_number():
    values = np.random.default_rng(0).normal(size=(16, 50))
    low, high = plot.band(values[:3])
    assert (low == values[:3].min(axis=0)).all() and (high == values[:3].max(axis=0)).all()
    low, high = plot.band(values)
    error = values.std(axis=0, ddof=1) / 4
    assert np.allclose((high - low) / (2 * 1.96 * error), 0.96, atol=0.15)  # a bootstrap of 16 is a little narrower
    assert (low <= values.mean(axis=0)).all() and (values.mean(axis=0) <= high).all()


def test_numbers_keep_three_digits_and_say_what_is_not_known():
    values = [1234.5, 123.4, 12.34, 1.234, -4.321, 50, math.nan, math.inf, None]
    assert list(map(plot.number, values)) == ["1,234", "123", "12.3", "1.23", "-4.32", "50", "-", "never", "-"]
    assert plot.spread([100.0, 104.0]) == "102 ± 3"
    assert plot.spread([2.0]) == "2.00"
    assert plot.spread([2.0, math.inf]) == "never"
    assert plot.median([1.0, math.inf, math.inf]) == "never (1.00 to never)"
    assert plot.median([]) == "-"


def test_published_figures_name_their_sources():
    for path in set(plot.PUBLISHED.glob("*.csv")) - {plot.PUBLISHED / "matrix.csv"}:
        rows = plot.read_rows(path)
        assert rows
        for row in rows:
            assert row.get("source") or row["where"]
            assert None not in row
