"""The CartPole post's policy gradient by the criterion of the searches: the first episode that solves the task.

    python -m benchmarks.policy_gradient_post --run-dir runs/policy-gradient

A linear softmax policy (Adam, learning rate 0.01) and a value network 4-10-1 with ReLU (Adam, 0.1), one step of each
after every episode, discount 0.97. algos/reinforce.py is the better program; this one keeps what the post ran: no bias
in the policy, advantages as they are, TensorFlow's initialization of that time (uniform within sqrt(3 / inputs), a bias
counting as one input). All trials play their k-th episodes side by side.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

from algos import random_search
from benchmarks.rows import write_rows

GAMMA = 0.97


def networks(num_runs: int, obs_dim: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The parameters of every trial: `policy` and, of the value network, `w1 b1 w2 b2`."""
    shapes = {"policy": (obs_dim, 2), "w1": (obs_dim, 10), "b1": (10,), "w2": (10, 1), "b2": (1,)}
    net = {}
    for name, shape in shapes.items():
        limit = math.sqrt(3 / math.prod(shape[:-1]))
        initial = rng.uniform(-limit, limit, (num_runs, *shape))
        net[name] = torch.tensor(initial, dtype=torch.float32, requires_grad=True)
    return net


def values(net: dict[str, torch.Tensor], obs: torch.Tensor) -> torch.Tensor:
    """obs [runs, steps, obs] -> values [runs, steps]."""
    hidden = torch.relu(obs @ net["w1"] + net["b1"][:, None])
    return (hidden @ net["w2"] + net["b2"][:, None]).squeeze(2)


def loss(net: dict, obs, actions, rewards, gamma: float) -> torch.Tensor:
    """The losses of the policy and of the value network, summed over the trials, whose gradients are independent.

    obs [runs, steps, obs], the others [runs, steps]; rewards are 1, and 0 after an episode's end.
    """
    returns, running = torch.empty_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    value = values(net, obs)
    advantages = returns - value.detach()
    log_probs = (obs @ net["policy"]).log_softmax(dim=2).gather(2, actions[:, :, None]).squeeze(2)
    return (rewards * (0.5 * (value - returns) ** 2 - advantages * log_probs)).sum()


def play(envs: gym.vector.VectorEnv, weights: np.ndarray, running: np.ndarray, rng: np.random.Generator) -> tuple:
    """An episode of the trials that are running [runs], weights [runs, obs]: what the loss takes."""
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    steps = []
    while running.any():
        logits = np.einsum("no,no->n", weights, obs)
        actions = (logits + rng.logistic(size=len(logits)) >= 0).astype(np.int64)
        next_obs, _, terminations, truncations, _ = envs.step(actions)
        steps.append((obs, actions, np.float32(running)))
        obs, running = next_obs, running & ~(terminations | truncations)
    return tuple(torch.from_numpy(np.stack(column, axis=1)) for column in zip(*steps, strict=True))


def search(num_runs: int, obs_dim: int, max_episodes: int, limit: int, rng: np.random.Generator) -> Iterator[dict]:
    """Rows as of algos/random_search.py; every trial has an environment of its own."""
    envs = gym.make_vec("CartPole-v1", num_envs=num_runs, max_episode_steps=limit)
    net = networks(num_runs, obs_dim, rng)
    policy, *value = net.values()
    optimizer = torch.optim.Adam([{"params": [policy], "lr": 0.01}, {"params": value, "lr": 0.1}])
    running, steps, weights = np.ones(num_runs, bool), 0, np.zeros((num_runs, obs_dim))
    for episode in range(1, max_episodes + 1):
        weights[running] = policy.detach().diff().squeeze(2).numpy()[running]  # logits of right minus left
        batch = play(envs, weights, running, rng)
        i = np.flatnonzero(running)
        optimizer.zero_grad()
        loss({name: x[i] for name, x in net.items()}, *(x[i] for x in batch), GAMMA).backward()
        optimizer.step()
        steps += int(batch[2].sum())
        running[i] = batch[2].sum(1)[i].numpy() < limit
        shares = {"charts/share_solved": 1 - running.mean(), "charts/steps_per_trial": steps / num_runs}
        yield {"global_step": episode} | shares
        if not running.any():
            break
    print(f"return {random_search.run_episode(weights, limit, rng).mean():.1f} in new episodes")


def main(run_dir: Path, seed: int = 1, num_runs: int = 100):
    write_rows(run_dir, search(num_runs, random_search.OBS_DIM, 1000, 200, np.random.default_rng(seed)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
