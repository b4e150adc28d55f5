"""The CartPole post's policy gradient by the criterion of the searches: the first episode that solves the task.

    python benchmarks/policy_gradient_post.py --run-dir runs/policy-gradient

A linear softmax policy (Adam, learning rate 0.01) and a value network 4-10-1 with ReLU (Adam, 0.1), one step of each
after every episode, discount 0.97. algos/reinforce.py is the better program; this one keeps what the post ran: no bias
in the policy, advantages as they are, TensorFlow's initialization of that time (uniform within sqrt(3 / inputs), a bias
counting as one input). All trials play their k-th episodes side by side, so that Adam counts the same steps in each.

Takes the flags of algos/random_search.py and leaves the same files; the weights are logits of right minus left.
"""

import math
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos import random_search

GAMMA = 0.97


def initial(shape: tuple, rng: np.random.Generator) -> torch.Tensor:
    """TensorFlow's uniform unit scaling of shape[1:], for each of shape[0] trials."""
    limit = math.sqrt(3 / math.prod(shape[1:-1]))
    return torch.tensor(rng.uniform(-limit, limit, shape), dtype=torch.float32, requires_grad=True)


def networks(num_runs: int, obs_dim: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The parameters of every trial: `policy` and, of the value network, `w1 b1 w2 b2`."""
    shapes = {"policy": (obs_dim, 2), "w1": (obs_dim, 10), "b1": (10,), "w2": (10, 1), "b2": (1,)}
    return {name: initial((num_runs, *shape), rng) for name, shape in shapes.items()}


def values(net: dict[str, torch.Tensor], obs: torch.Tensor) -> torch.Tensor:
    """obs [runs, steps, obs] -> values [runs, steps]."""
    hidden = torch.relu(obs @ net["w1"] + net["b1"][:, None])
    return (hidden @ net["w2"] + net["b2"][:, None]).squeeze(2)


def loss(net: dict, obs, actions, rewards, mask, gamma: float) -> torch.Tensor:
    """The losses of the policy and of the value network, summed over the trials, whose gradients are independent.

    obs [runs, steps, obs], the others [runs, steps]; rewards and mask are 0 after an episode's end.
    """
    returns, running = torch.empty_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    value = values(net, obs)
    advantages = returns - value.detach()
    log_probs = (obs @ net["policy"]).log_softmax(dim=2).gather(2, actions[:, :, None]).squeeze(2)
    return (mask * (0.5 * (value - returns) ** 2 - advantages * log_probs)).sum()


def play(envs: gym.vector.VectorEnv, weights: np.ndarray, running: np.ndarray, rng: np.random.Generator) -> tuple:
    """An episode of the trials that are running [runs], weights [runs, obs]: what the loss takes."""
    obs, _ = envs.reset(seed=int(rng.integers(2**31)))
    steps = []
    while running.any():
        logits = np.einsum("no,no->n", weights, obs)
        actions = (logits + rng.logistic(size=len(logits)) >= 0).astype(np.int64)
        next_obs, rewards, terminations, truncations, _ = envs.step(actions)
        steps.append((obs, actions, np.float32(rewards * running), np.float32(running)))
        obs, running = next_obs, running & ~(terminations | truncations)
    return tuple(torch.from_numpy(np.stack(column, axis=1)) for column in zip(*steps, strict=True))


def search(envs: gym.vector.VectorEnv, args, rng: np.random.Generator) -> tuple:
    """In place of random_search.search, with the same results; every trial has an environment of its own."""
    net = networks(args.num_runs, envs.single_observation_space.shape[0], rng)
    groups = [
        {"params": [net["policy"]], "lr": 0.01},
        {"params": [net[k] for k in ("w1", "b1", "w2", "b2")], "lr": 0.1},
    ]
    optimizer = torch.optim.Adam(groups)
    episodes, solved, steps = np.zeros(args.num_runs, int), np.zeros(args.num_runs, bool), 0
    weights = np.zeros((args.num_runs, len(net["policy"][0])))
    while (running := ~solved & (episodes < args.max_episodes)).any():
        policy = net["policy"].detach().numpy()
        weights[running] = (policy[:, :, 1] - policy[:, :, 0])[running]
        batch = play(envs, weights, running, rng)
        i = np.flatnonzero(running)
        optimizer.zero_grad()
        loss({name: x[i] for name, x in net.items()}, *(x[i] for x in batch), GAMMA).backward()
        optimizer.step()
        episodes[i] += 1
        steps += int(batch[3].sum())
        solved[i] = batch[2].sum(1)[i].numpy() >= args.max_episode_steps
    return episodes, solved, weights, steps


def main(args: random_search.Args):
    random_search.search = search
    random_search.train(args)


if __name__ == "__main__":
    main(tyro.cli(random_search.Args, description=__doc__, default=random_search.Args(num_runs=100)))
