"""What people really bring: wrong flags, foreign environments, damaged files. A mistake ends with one message
that names the flag or the file, and nothing is written; what is merely unusual works."""

import gzip
import io
import math
import re
import resource
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from PIL import Image

from test_house import ROOT, SCRIPTS, TRAININGS, about, contents, load, read_metrics, run  # noqa: F401

MISTAKES = [
    # scripts and groups; alternative flags, which follow those of the tiny training; what the message says
    ("TRAININGS", "--run-dir kept", "File exists: .kept"),
    ("TRAININGS", "--no-such-flag", "no-such-flag"),
    ("TRAININGS", "--seed -1", "seed"),
    ("TORCH", "--seed 100000000000000000000", "seed"),
    ("mcts", "--run-dir ''", "File exists"),
    ("td_lambda vae", "--run-dir text", "File exists: .text"),
    ("sarsa nice", "--run-dir text/run", "Not a directory: .text/run"),
    ("mcts flow_2d", "--track", "--track"),
    ("STEPPING TABLES sarsa_lambda", "--env-id NoSuchEnv-v0 | --env-id nowhere:Env-v0 | --env-id a:b:c", "--env-id"),
    ("STEPPING TABLES sarsa_lambda", "--env-id '' | --env-id Hopper-v3", "--env-id"),
    ("POLICIES trpo_parallel es dqn tile_coding", "--env-id FrozenLake-v1", "observations"),
    ("POLICIES dqn tile_coding", "--env-id test_inputs:FromOne-v0", "actions"),
    ("POLICIES es dqn", "--capture-video --env-id test_inputs:OneStep-v0", "--capture-video"),
    ("POLICIES es dqn", "--total-timesteps 1e6", "--total-timesteps"),
    ("dqn", "--buffer-size 15", "^--buffer-size must be"),
    ("trpo_parallel", "--value linear --value-epochs 5", "^--value linear has no"),
    ("trpo_parallel", "--adapt-margin 0.1", "^--adapt-margin"),
    ("es", "--sigma 1e300 | --learning-rate 1e20", "sigma|learning_rate"),
    ("tile_coding", "--num-tilings 1000000000", "--num-tiles"),
    ("td_lambda", "--learning-rate | --learning-rate 1e20", "learning.rate"),
    ("mcts", "--search simple --exploration 3", "^--exploration"),
    ("mcts_batched", "--exploration 1e300", "exploration"),
    ("draw draw_color flow_2d nice vae", "--hidden", "--hidden"),
    ("pixelcnn realnvp vae_gan gan infogan", "--batch-size 100000000", "batch.size"),
    ("draw_color", "--image-size 1 | --noise-std 1e300", "image_size|noise_std"),
    ("chat_rnn", "--temperature 1e300", "temperature"),
    ("chat_rnn", "--data few", "--data: .* too few"),
    ("chat_rnn", "--talk garbage", "--talk garbage"),
    ("chat_demo colorizer_demo", "--model garbage | --model nowhere", "--model (garbage|nowhere)"),
    ("chat_collect", "--file nowhere/chat --channels a", "--file nowhere/chat"),
    ("chat_collect", "--file few --channels", "channels"),
    ("chat_collect", "--file few --channels a --server 127.0.0.1 --port 1", "--server"),
    ("MNIST", "--dataset mnist --data-dir garbage | --dataset mnist --data-dir damaged", "garbage|damaged"),
    ("nice vae reinforce_mnist", "--dataset mnist --data-dir text", "text"),
    ("vae_gan pixelcnn realnvp", "--dataset cifar10 --data-dir garbage", "garbage"),
    ("vae_gan gan", "--dataset folder --data-dir nowhere", "--data-dir nowhere: .*readable images"),
    ("colorizer draw_color", "--data-dir nowhere", "--data-dir.*nowhere"),
    # arrays that no memory holds
    ("POLICIES trpo_parallel dqn reinforce_gridworld", "--num-envs 1000000000000", "num_envs"),
    ("actor_critic natural_gradient trpo ppo trpo_parallel draw draw_color", "--num-steps 1000000000000", "num_steps"),
    ("sarsa q_learning sarsa_lambda dyna_q td_lambda", "--num-runs 1000000000000", "num_runs"),
    ("tile_coding hill_climbing random_search", "--num-runs 1000000000000", "num_runs"),
    ("sarsa q_learning sarsa_lambda tile_coding mcts_batched", "--total-episodes 1000000000000", "total_episodes"),
    ("es es_mnist", "--population 1000000000000", "population"),
    ("mcts mcts_batched", "--simulations 1000000000000", "simulations"),
    ("dyna2", "--num-games 1000000000000", "num_games"),
    ("dqn", "--buffer-size 1000000000000", "buffer_size"),
    ("reinforce_mnist flow_2d", "--batch-size 1000000000000", "batch_size"),
    ("draw draw_color flow_2d iwae nice vae", "--hidden 1000000000000", "hidden"),
    ("draw draw_color iwae vae vae_gan", "--latent-dim 1000000000000", "latent_dim"),
    ("chat_rnn colorizer vae_gan", "--width 1000000000000", "width"),
    ("pixelcnn realnvp", "--channels 1000000000000", "channels"),
    ("iwae", "--stages 1000000000000", "stages"),
]
GROUPS = {
    "TRAININGS": " ".join(Path(script).stem for script in TRAININGS),
    "TORCH": "POLICIES dqn trpo_parallel dyna2 es_mnist node_perturbation_mnist reinforce_mnist mcts_batched chat_rnn "
    "reinforce_gridworld colorizer draw draw_color flow_2d iwae nice pixelcnn realnvp vae vae_gan gan infogan revnet "
    "deconvnet",
    "STEPPING": "POLICIES trpo_parallel es dqn tile_coding",
    "TABLES": "sarsa q_learning dynamic_programming",
    "MNIST": "es_mnist node_perturbation_mnist reinforce_mnist draw iwae nice pixelcnn vae vae_gan gan infogan",
    "POLICIES": "reinforce actor_critic natural_gradient trpo ppo",
}


def scripts(names: str) -> list[str]:
    """The paths of scripts, whose names may be those of groups."""
    for group, members in GROUPS.items():
        names = names.replace(group, members)
    return [next(script for script in SCRIPTS if Path(script).stem == name) for name in names.split()]


class World(gym.Env):
    """What people bring: two random observations, two actions, a reward per step, and one peculiarity."""

    def __init__(self, kind: str, render_mode: str | None = None):
        self.kind, self.all_steps, self.observation_space = kind, 0, Box(-1, 1, (2,), np.float32)
        self.action_space = Discrete(2, start=1 if kind == "FromOne" else 0)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(2, size=2), {}  # the observations that follow are floats

    def step(self, action):
        assert self.action_space.contains(action)
        self.all_steps += 1
        if self.kind == "Raises" and self.all_steps == 70:
            raise RuntimeError("the simulator crashed")
        reward = {"NoReward": None, "NaN": math.nan, "OneStep": 1e-4}.get(self.kind, 1.0)
        return self.np_random.uniform(-1, 1, 2), reward, self.kind == "OneStep", False, {}


for kind in ("OneStep", "Endless", "Raises", "NoReward", "NaN", "FromOne"):
    gym.register(f"{kind}-v0", partial(World, kind), max_episode_steps=None if kind == "Endless" else 50)


def snapshot() -> dict[Path, bytes | None]:
    """All that is there; runs/ itself may be empty."""
    paths = [path for path in Path().rglob("*") if path != Path("runs")]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def bring():
    """Files and folders, all of them useless, in the working directory."""
    Path("few").write_text("hello again\n" * 20)
    Path("text").write_text("x")
    names = ["file", "checkpoint.pt", "model.pt", "args.json", "vocabulary.json", "cifar-10-binary.tar.gz"]
    names += [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    for folder, content in {"kept": b"x", "garbage": b"garbage", "damaged": gzip.compress(bytes(9_000))[:-9]}.items():
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).write_bytes(content)


ROWS = [
    (script, flag, words) for names, flags, words in MISTAKES for script in scripts(names) for flag in flags.split("|")
]


@pytest.mark.parametrize("script, flags, words", ROWS)
def test_a_mistake_ends_in_one_message_and_writes_nothing(script, flags, words, run, monkeypatch, tmp_path):  # noqa: F811
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no key of Weights & Biases there either
    bring()
    shutil.copy(ROOT / script, ".")
    before = snapshot()
    code, _, errors = run(script, f"{about(script).get('tiny', '')} {flags}")
    assert code in (1, 2), errors
    assert re.search(words, errors), errors
    assert code == 2 or len(errors.splitlines()) == 1, errors
    assert "Traceback" not in errors and "ArgsKwargs" not in errors
    assert snapshot() == before


@pytest.mark.parametrize("kind", ["Raises", "NoReward", "NaN"])
@pytest.mark.parametrize("script", scripts("STEPPING"))
def test_a_failing_environment_ends_in_one_message_and_the_rows_are_kept(script, kind, run):  # noqa: F811
    code, _, errors = run(script, f"{about(script)['more']} --env-id test_inputs:{kind}-v0 --run-dir run")
    assert code == 1 and len(errors.splitlines()) == 1, errors
    assert re.search("--env-id| is nan at step|not finite", errors), errors
    assert {"args.json", "metrics.csv"} <= contents(Path("run"))
    assert kind != "Raises" or script not in scripts("POLICIES") or read_metrics(Path("run"))


@pytest.mark.parametrize(
    "script, flags",
    [(script, "--env-id test_inputs:OneStep-v0") for script in scripts("POLICIES trpo_parallel es dqn")]
    + [(script, "--env-id test_inputs:FromOne-v0") for script in scripts("trpo_parallel es")]
    + [(script, f"--exp-name {name}") for script in scripts("mcts") for name in ("'a:b/$c d'", "../../up", "ä" * 260)]
    + [(script, "--seed 100000000000000000000") for script in scripts("q_learning")],
)
def test_what_is_unusual_works_and_leaves_a_folder_for_each_run(script, flags, run):  # noqa: F811
    for number in (1, 2):  # within a second
        code, output, errors = run(script, f"{about(script)['tiny']} {flags}")
        assert (code, errors) == (0, "") and len(output.splitlines()) == 1
        assert contents(Path()) == {Path(script).name, "runs"} and len(contents(Path("runs"))) == number
    for folder in Path("runs").iterdir():
        assert re.fullmatch(r"[\w.-]+", folder.name)


@pytest.mark.parametrize("script", scripts("reinforce ppo"))
def test_an_episode_without_end_is_cut(script):
    module, args = load(script), load(script).Args(env_id="test_inputs:Endless-v0")
    envs = module.make_envs(args, 1)
    policy = module.Policy(module.Standardize(2), 2, Discrete(2), -1.0)
    assert module.evaluate(envs, policy, np.array([1])).tolist() == [10_000]
    if "reinforce" in script:
        (_, _, rewards, _), episodes = module.rollout(envs, policy)
        assert len(rewards) == 10_000 and episodes == []


@pytest.mark.parametrize("script", scripts("mcts trpo"))
def test_a_disk_that_takes_nothing_ends_in_one_message(script, tmp_path):
    command = [sys.executable, ROOT / script, *shlex.split(about(script)["tiny"])]
    nothing = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))  # of bytes in a file
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=nothing, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and re.fullmatch(r"\[Errno \d+\] .*\n", done.stderr), done.stderr


@pytest.mark.parametrize("output, message", [(">&-", ""), ("| true", "Broken pipe"), ("", "'ascii' codec")])
def test_an_output_that_is_closed_or_of_8_bits_costs_no_file(output, message, monkeypatch, tmp_path):
    command = f"{sys.executable} {ROOT}/algos/mcts.py {about('algos/mcts.py')['tiny']} --run-dir прогон {output}"
    monkeypatch.setenv("PYTHONIOENCODING", "" if output else "ascii")
    done = subprocess.run(command, cwd=tmp_path, shell=True, capture_output=True, text=True, check=False)
    assert message in done.stderr and len(done.stderr.splitlines()) == (message != "")
    assert contents(tmp_path / "прогон") == {"args.json", "metrics.csv", "search.png"}


@pytest.mark.parametrize(
    "script, flags",
    [
        ("gen/vae_gan.py", "--epochs 1 --width 2 --batch-size 8 --dataset folder"),
        ("gen/draw_color.py", "--epochs 1 --hidden 8 --num-steps 1 --image-size 8"),
        ("gen/colorizer.py", "--epochs 1 --width 1 --batch-size 8"),
    ],
)
def test_unreadable_images_are_skipped_named_and_counted(script, flags, run):  # noqa: F811
    for folder, number in (("train", 290), ("test", 30)):
        Path("images", folder).mkdir(parents=True)
        for i in range(number):
            Image.effect_noise((32, 32), 50).save(Path("images", folder, f"{i}.png"))
        Path("images", folder, "bad.png").write_text("no image")
    code, output, errors = run(script, f"{flags} --data-dir images")
    assert code == 0, errors
    assert re.search(r"--data-dir.*: [12] unreadable files are skipped, the first is .*bad\.png", output), output


def test_talking_needs_a_standard_input(run, monkeypatch):  # noqa: F811
    assert run("gen/chat_rnn.py", about("gen/chat_rnn.py")["tiny"] + " --run-dir chat")[0] == 0
    monkeypatch.setattr("sys.stdin", None)
    code, _, errors = run("gen/chat_rnn.py", "--talk chat")
    assert code == 1 and errors.startswith("--talk") and len(errors.splitlines()) == 1


@pytest.mark.parametrize("script", scripts("dynamic_programming q_learning mcts td_lambda random_search"))
def test_the_result_is_not_glued_to_the_progress_bar(script, run, monkeypatch):  # noqa: F811
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    assert run(script, about(script)["tiny"])[0] == 0
    assert "\r" in terminal.getvalue()
    assert re.fullmatch(r"[^\r]+: runs/\S+", terminal.getvalue().splitlines()[-1])
