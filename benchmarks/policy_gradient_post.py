"""The CartPole post's policy gradient, by the same criterion as algos/hill_climbing.py: its first solved episode.

    python benchmarks/policy_gradient_post.py --run-dir runs/policy-gradient

A linear softmax policy (Adam, step size 0.01) and a value network 4-10-1 with ReLU (Adam, 0.1), each moved once after
every episode, discount 0.97. algos/reinforce.py is the better program; this one keeps what the post ran, so that it can
be compared with the searches: no bias in the policy, advantages as they are, TensorFlow's initial weights of that time,
which are uniform within sqrt(3 / inputs), a bias counting as one input.

All trials play their k-th episodes side by side, so Adam counts the same number of steps in each. Leaves metrics.csv
with the columns of algos/hill_climbing.py; its evaluation takes the likeliest actions.
"""

import csv
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.hill_climbing import Args, Lockstep, Trials, describe, evaluate, make_envs, measure, summarize

CPU = torch.device("cpu")


@dataclass
class PolicyGradientArgs:
    seed: int = 1
    """seeds networks, actions and episodes"""
    run_dir: Path = Path("runs", "policy-gradient")
    """where metrics.csv goes"""
    env_id: str = "CartPole-v1"
    """Gymnasium environment with flat observations and discrete actions"""
    max_episode_steps: int = 200
    """steps after which an episode is cut off"""
    solved_return: float | None = None
    """return of the episode that ends a trial (not given: the most that CartPole pays)"""
    num_runs: int = 300
    """independent trials"""
    max_episodes: int = 2000
    """episodes after which a trial is given up"""
    eval_episodes: int = 100
    """new episodes that each trial's last policy is scored by"""
    learning_rate: float = 0.01
    """Adam step of the policy"""
    value_learning_rate: float = 0.1
    """Adam step of the value network"""
    gamma: float = 0.97
    """discount per step"""


def initial(shape: tuple, generator: torch.Generator) -> torch.Tensor:
    """TensorFlow's uniform unit scaling of shape[1:], for each of shape[0] trials."""
    limit = math.sqrt(3 / math.prod(shape[1:-1]))
    return limit * (2 * torch.rand(shape, generator=generator) - 1)


def networks(runs: int, obs_dim: int, actions: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The parameters of every trial: `policy` and, of the value network, `w1 b1 w2 b2`."""
    shapes = {"policy": (obs_dim, actions), "w1": (obs_dim, 10), "b1": (10,), "w2": (10, 1), "b2": (1,)}
    return {name: initial((runs, *shape), generator).requires_grad_() for name, shape in shapes.items()}


def values(net: dict[str, torch.Tensor], obs: torch.Tensor) -> torch.Tensor:
    """obs [runs, steps, obs] -> values [runs, steps]."""
    hidden = torch.relu(obs @ net["w1"] + net["b1"][:, None])
    return (hidden @ net["w2"] + net["b2"][:, None]).squeeze(2)


def discounted(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """Returns from every step on, of rewards [runs, steps] that are 0 after an episode's end."""
    returns, running = torch.empty_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return returns


def loss(net: dict, obs, actions, rewards, mask, gamma: float) -> torch.Tensor:
    """The losses of the policy and of the value network: obs [runs, steps, obs], the others [runs, steps].

    Summed up over the trials: no trial's gradient depends on another's.
    """
    returns, value = discounted(rewards, gamma), values(net, obs)
    advantages = returns - value.detach()
    logprobs = (obs @ net["policy"]).log_softmax(dim=2).gather(2, actions[:, :, None]).squeeze(2)
    return (mask * (0.5 * (value - returns) ** 2 - advantages * logprobs)).sum()


def play(world: Lockstep, policy: torch.Tensor, alive: torch.Tensor, generator) -> tuple[torch.Tensor, ...]:
    """A new episode of every trial that is alive [runs], policy [runs, obs, actions].

    Returns obs [runs, steps, obs], actions [runs, steps], rewards [runs, steps] and where they count [runs, steps].
    """
    world.reset()
    obs, steps = world.obs, []
    while alive.any():
        logits = (obs[:, None] @ policy).squeeze(1)
        gumbel = -(-torch.rand(logits.shape, generator=generator).log()).log()
        actions = (logits + gumbel).argmax(dim=1)  # a sample of their softmax
        next_obs, rewards, terminations, truncations, _ = world.envs.step(actions.numpy())
        steps.append((obs, actions, torch.as_tensor(rewards, dtype=torch.float32) * alive, alive.float()))
        alive = alive & ~torch.as_tensor(terminations | truncations)  # what the environment does then does not count
        obs = torch.as_tensor(next_obs)
    return tuple(torch.stack(column, dim=1) for column in zip(*steps, strict=True))


def learn(args: PolicyGradientArgs, settings: Args) -> tuple[Trials, np.ndarray, float]:
    """All trials, the mean returns [runs] of their last policies, and the CPU seconds until the last was over."""
    envs, _ = make_envs(settings)
    starts, draws = map(np.random.default_rng, np.random.SeedSequence(args.seed).spawn(2))
    generator = torch.Generator().manual_seed(int(draws.integers(2**63)))
    world = Lockstep(envs, starts.integers(2**31, size=args.num_runs), CPU)
    actions, obs_dim = int(envs.single_action_space.n), envs.single_observation_space.shape[0]
    trials = Trials.start(settings, actions, obs_dim, CPU)
    net = networks(args.num_runs, obs_dim, actions, generator)
    groups = [{"params": net["policy"]}, *({"params": net[k], "lr": args.value_learning_rate} for k in list(net)[1:])]
    adam = torch.optim.Adam(groups, lr=args.learning_rate)
    start = time.process_time()
    while trials.searching.any():
        i = np.flatnonzero(trials.searching)
        with torch.no_grad():
            obs, chosen, rewards, mask = (
                x[i] for x in play(world, net["policy"], torch.as_tensor(trials.searching), generator)
            )
        trials.weights[i] = net["policy"].detach()[i].transpose(1, 2)
        world.returns[i], world.lengths[i] = rewards.sum(dim=1).numpy(), mask.sum(dim=1).numpy()
        trials.record(i, world, settings)
        adam.zero_grad()
        loss({name: x[i] for name, x in net.items()}, obs, chosen, rewards, mask, args.gamma).backward()
        adam.step()
    seconds = time.process_time() - start
    return trials, evaluate(world, trials.weights, args.eval_episodes), seconds


def main(args: PolicyGradientArgs):
    known = {name: value for name, value in asdict(args).items() if name in vars(Args())}
    settings = Args(**known)
    trials, scores, seconds = learn(args, settings)
    args.run_dir.mkdir(parents=True, exist_ok=True)
    last, logged, rows = int(trials.episodes.max()), 0, []
    for k in [k for k in range(1, last + 1) if k <= 100 or k % 10 == 0 or k == last]:
        summary = summarize(trials, scores)
        row = {"global_step": int(trials.lengths[:, :k].sum())} | measure(trials, logged, k) | {"time/cpu": seconds}
        rows.append(row | (summary if k == last else dict.fromkeys(summary)))
        logged = k
    with (args.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{describe(rows[-1])}; {args.num_runs} trials, {seconds:.2f} s of CPU time: {args.run_dir}")


if __name__ == "__main__":
    main(tyro.cli(PolicyGradientArgs, description=__doc__))
