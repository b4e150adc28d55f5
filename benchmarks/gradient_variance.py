"""Bias and variance of policy-gradient estimates on CartPole-v1, of one policy that is still learning.

    python -m benchmarks.gradient_variance --run-dir runs/gradient-variance

algos/reinforce.py trains for about 150 episodes. Then the policy is fixed, and for every discount a critic of its own
is fitted to one half of the episodes; each episode of the other half gives one estimate of the gradient with each kind
of advantage. A row per discount: noise/<advantage> is the number of episodes whose mean estimate has as much noise as
signal (trace of the covariance over the squared norm of the mean), cosine/<advantage> that between the mean estimate
and the first half's reward-to-go gradient without discount, critic/<...> the share of the returns' variance that the
values explain: of REINFORCE's own critic (its discount is .99), and of the one fitted here.
"""

from pathlib import Path

import torch
import tyro
from torch.nn.utils import parameters_to_vector

from algos import reinforce
from algos.actor_critic import gae
from benchmarks.rows import write_rows

GAMMAS = (0.9, 0.97, 0.99, 1.0)


def gradients(policy, obs, actions, advantages, mask) -> torch.Tensor:
    """The estimate of each episode [episodes, parameters]: all others are [time, episodes, ...]."""
    found = []
    for i in range(obs.shape[1]):
        alive = mask[:, i].bool()
        score = (policy(obs[alive, i]).log_prob(actions[alive, i]) * advantages[alive, i]).sum()
        found.append(parameters_to_vector(torch.autograd.grad(score, policy.parameters())))
    return torch.stack(found)


def measure(run_dir: Path, seed: int, num_episodes: int):
    args = reinforce.Args(seed=seed, total_timesteps=10_000, run_dir=run_dir / "reinforce")
    reinforce.train(args)
    envs = reinforce.make_envs(args, num_episodes)
    standardize = reinforce.Standardize(4)
    policy = reinforce.Policy(standardize, 4, envs.single_action_space, args.log_std_init)
    trained = reinforce.Critic(standardize, 4)
    for module, state in torch.load(args.run_dir / "model.pt", weights_only=True).items():
        {"policy": policy, "critic": trained}[module].load_state_dict(state)
    (first, _), (second, _) = reinforce.rollout(envs, policy), reinforce.rollout(envs, policy)
    reference = gradients(policy, first[0], first[1], reinforce.rewards_to_go(first[2], 1), first[3]).mean(0)
    obs, actions, rewards, mask = second
    ends = mask * (1 - torch.cat([mask[1:], torch.zeros_like(mask[:1])]))  # 1 at the last step of an episode
    for i, gamma in enumerate(GAMMAS, start=1):
        critic = reinforce.Critic(standardize, 4)
        seen = first[3].bool()
        optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
        critic.fit(optimizer, first[0][seen], reinforce.rewards_to_go(first[2], gamma)[seen], epochs=5)
        with torch.no_grad():
            values, before = critic(obs) * mask, trained(obs)
        next_values = torch.cat([values[1:], torch.zeros_like(values[:1])])
        returns = reinforce.rewards_to_go(rewards, gamma)
        advantages = {
            "return": returns[:1].expand_as(returns),
            "reward-to-go": returns,
            "reward-to-go - value": returns - values,
        }
        for name, trace in (("GAE .95", 0.95), ("TD error", 0.0)):
            advantages[name] = gae(rewards, values, next_values, ends, ends, gamma, trace)
        row = {"global_step": i, "gamma": gamma}
        for name, v in (("critic/reinforce", before), ("critic/fitted", values)):
            row[name] = (1 - (returns - v)[mask.bool()].var() / returns[mask.bool()].var()).item()
        for name, advantage in advantages.items():
            estimates = gradients(policy, obs, actions, advantage, mask)
            mean = estimates.mean(0)
            variance = estimates.var(0).sum()
            signal = mean @ mean - variance / num_episodes  # without the noise of the mean itself
            row[f"variance/{name}"] = variance.item()
            row[f"noise/{name}"] = (variance / signal).item()
            row[f"cosine/{name}"] = torch.cosine_similarity(mean, reference, 0).item()
        yield row


def main(run_dir: Path, seed: int = 1, num_episodes: int = 3000):
    write_rows(run_dir, measure(run_dir, seed, num_episodes))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
