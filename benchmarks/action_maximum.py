"""What a decision costs among many actions: the maximum of Q over all of them, or a sample of a policy.

    python -m benchmarks.action_maximum --run-dir runs/maximum

An action has 1 to 9 dimensions of five values each. Q sees the observation (17 numbers) and the action, the policy the
observation alone: it has a categorical distribution for each dimension. Both networks have two hidden layers of 64
units and random weights; all actions are one batch. A row per number of dimensions, in CPU seconds.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn
from torch.distributions import Categorical

from benchmarks.rows import write_rows

OBS, VALUES, REPETITIONS = 17, 5, 5


def make_net(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def seconds(decide: Callable) -> float:
    """Of one decision, the median."""
    times = []
    for _ in range(REPETITIONS + 1):
        times.append(time.process_time())
        decide()
    return float(np.median(np.diff([*times[1:], time.process_time()])))  # without the first


@torch.no_grad()
def main(run_dir: Path, seed: int = 1):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    obs, rows = torch.randn(OBS), []
    for d in range(1, 10):
        q, policy = make_net(OBS + d, 1), make_net(OBS, VALUES * d)
        actions = torch.tensor(list(itertools.product(np.linspace(-1, 1, VALUES), repeat=d)), dtype=torch.float32)
        inputs = torch.cat([obs.expand(len(actions), -1), actions], dim=1)
        maximum = seconds(lambda q=q, inputs=inputs: q(inputs).argmax())
        sample = seconds(lambda policy=policy, d=d: Categorical(logits=policy(obs).view(d, VALUES)).sample())
        rows.append({"global_step": len(actions), "time/maximum": maximum, "time/sample": sample})
    write_rows(run_dir, rows)
    print(f"{len(actions):,} actions: maximum {maximum:.3g} s, sample {sample:.3g} s")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
