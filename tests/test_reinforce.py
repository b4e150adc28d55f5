"""REINFORCE: its gradient against the exact one by enumeration, its gridworld against the exact values."""

import csv
import itertools
import json
import subprocess
import sys
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch

from algos import reinforce
from algos.reinforce import (
    GRIDWORLD,
    LOOKS,
    NEXT_CELL,
    REWARDS,
    AliasedGridworld,
    Args,
    CategoricalPolicy,
    Envs,
    GaussianPolicy,
    NetworkValue,
    UsageError,
    best_deterministic,
    estimate_advantages,
    evaluate,
    freeze,
    gridworld_probs,
    gridworld_values,
    mean_of_others,
    policy_gradient_loss,
    rewards_to_go,
    train,
    update_networks,
)

CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")
COMBINATIONS = list(itertools.product(["return", "reward-to-go"], ["none", "mean", "value"]))
SMALL = {"num_envs": 4, "total_timesteps": 400, "checkpoint_every": 2, "value_epochs": 2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


# --- a small world, whose episodes can all be counted ----------------------------------------

HORIZON, START_BONUS = 3, 10.0


def outcomes(state: int, action: int) -> list[tuple[float, int | None, float]]:
    """Probability, next state (None: the end) and reward. Every reward has 10 added, as in the lecture."""
    if action == 1:
        return [(1.0, 1 - state, START_BONUS + 1.0 - 3 * state)]
    return [(0.3, None, START_BONUS - 2.0), (0.7, state, START_BONUS + 2.0 * state)]


def episodes(state: int, steps: int = 0):
    """All that can happen: lists of (state, action, reward, probability that it goes so)."""
    if steps == HORIZON or state is None:
        yield []
        return
    for action in range(2):
        for probability, following, reward in outcomes(state, action):
            for rest in episodes(following, steps + 1):
                yield [(state, action, reward, probability), *rest]


EPISODES = list(episodes(0))
TABLE = torch.tensor([[0.3, -0.4], [-0.2, 0.7]], dtype=torch.float64)  # logits [state, action]


def probability(episode, table):
    log_p = table.log_softmax(dim=1)
    return torch.stack([p * log_p[s, a].exp() for s, a, _, p in episode]).prod()


def exact_gradient(objective) -> torch.Tensor:
    """The derivative of sum over episodes of p(tau) times objective(tau) in the logits, [4]."""
    table = TABLE.clone().requires_grad_()
    total = sum(probability(episode, table) * objective(episode) for episode in EPISODES)
    return torch.autograd.grad(total, table)[0].reshape(-1)


@cache
def score(state: int, action: int) -> torch.Tensor:
    """grad log pi(a|s) of a softmax table: the action minus the probabilities, in the state's row."""
    result = torch.zeros(2, 2, dtype=torch.float64)
    result[state] = -TABLE[state].softmax(0)
    result[state, action] += 1
    return result.reshape(-1)


class TableValue:
    """A value of state and time. With exact=True what is to be expected there under the policy and this credit."""

    def __init__(self, credit: str, exact: bool, gamma: float = 1.0):
        self.table = torch.randn(2, HORIZON, generator=generator(3), dtype=torch.float64) * 5
        if exact:
            seen = {}
            for episode in EPISODES:
                p = probability(episode, TABLE).item()
                for t, (state, *_) in enumerate(episode):
                    begin = t if credit == "reward-to-go" else 0
                    got = sum(gamma ** (k - begin) * step[2] for k, step in enumerate(episode) if k >= begin)
                    seen.setdefault((state, t), []).append((p, got))
            for place, found in seen.items():
                self.table[place] = sum(p * got for p, got in found) / sum(p for p, _ in found)

    def __call__(self, obs, steps):
        return self.table[obs[..., 1].long(), steps.long()]


def as_batch(several) -> dict:
    """Episodes as gather returns them, one-hot observations, in float64."""
    time, n = max(map(len, several)), len(several)
    batch = {name: torch.zeros(time, n, dtype=torch.float64) for name in ("rewards", "steps")}
    batch |= {"alive": torch.zeros(time, n, dtype=torch.bool)}
    batch |= {"obs": torch.zeros(time, n, 2, dtype=torch.float64), "actions": torch.zeros(time, n, 1)}
    for i, episode in enumerate(several):
        for t, (state, action, reward, _) in enumerate(episode):
            batch["obs"][t, i, state], batch["actions"][t, i, 0] = 1, action
            batch["rewards"][t, i], batch["steps"][t, i], batch["alive"][t, i] = reward, t, True
    return batch


@cache
def all_pairs() -> list:
    """Every two episodes, as a batch, and the probability of both."""
    p = [probability(episode, TABLE) for episode in EPISODES]
    indices = list(itertools.product(range(len(EPISODES)), repeat=2))
    return [([EPISODES[i], EPISODES[j]], as_batch([EPISODES[i], EPISODES[j]]), p[i] * p[j]) for i, j in indices]


def estimates(credit: str, baseline: str, exact_value: bool, gamma: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient that each pair of episodes gives, [pairs, 4], and the pairs' probabilities [pairs]."""
    args = Args(credit=credit, baseline=baseline, gamma=gamma, num_envs=2)
    value, gradients, probabilities = TableValue(credit, exact_value, gamma), [], []
    for pair, arrays, both in all_pairs():
        batch = estimate_advantages(arrays, value, args)
        gradient = torch.zeros(4, dtype=torch.float64)
        for i, episode in enumerate(pair):
            for t, (state, action, *_) in enumerate(episode):
                gradient += batch["advantages"][t, i] * score(state, action) / 2
        gradients.append(gradient)
        probabilities.append(both)
    return torch.stack(gradients), torch.stack(probabilities)


@pytest.mark.parametrize("credit, baseline", COMBINATIONS)
def test_every_combination_has_the_exact_policy_gradient_as_its_mean(credit, baseline):
    """All pairs of episodes of the small world, weighted by their probabilities; the value baseline is arbitrary."""
    gradients, probabilities = estimates(credit, baseline, exact_value=False)
    assert probabilities.sum().item() == pytest.approx(1)
    exact = exact_gradient(lambda episode: sum(step[2] for step in episode))
    torch.testing.assert_close(probabilities @ gradients, exact)


@pytest.mark.parametrize("credit", ["return", "reward-to-go"])
def test_the_discount_counts_from_the_start_or_from_the_action(credit):
    gradients, probabilities = estimates(credit, "mean", exact_value=False, gamma=0.6)
    if credit == "return":
        exact = exact_gradient(lambda episode: sum(0.6**k * step[2] for k, step in enumerate(episode)))
    else:  # no derivative of anything: what an action is followed by, times its score
        exact = torch.zeros(4, dtype=torch.float64)
        for episode in EPISODES:
            for t, (state, action, *_) in enumerate(episode):
                to_go = sum(0.6 ** (k - t) * episode[k][2] for k in range(t, len(episode)))
                exact += probability(episode, TABLE) * to_go * score(state, action)
    torch.testing.assert_close(probabilities @ gradients, exact)


def test_variances_order_as_the_lecture_says():
    variance = {}
    for credit, baseline in COMBINATIONS:
        gradients, probabilities = estimates(credit, baseline, exact_value=True)
        mean = probabilities @ gradients
        variance[credit, baseline] = (probabilities @ (gradients - mean) ** 2).sum().item()
    for credit in ("return", "reward-to-go"):
        assert variance[credit, "none"] > 2 * variance[credit, "mean"] > 2 * variance[credit, "value"]
    for baseline in ("none", "mean", "value"):
        assert variance["return", baseline] > variance["reward-to-go", baseline]


def test_the_loss_has_the_sum_of_weighted_scores_as_its_gradient():
    policy = CategoricalPolicy([2, 2], generator()).double()
    with torch.no_grad():
        policy.net[0].weight.copy_(TABLE.T)
    pair = [EPISODES[1], EPISODES[-1]]
    batch = estimate_advantages(as_batch(pair), None, Args(baseline="mean", num_envs=2))
    flat = {name: x[batch["alive"]] for name, x in batch.items()}
    policy_gradient_loss(policy, flat["obs"], flat["actions"], flat["advantages"], 2).backward()
    expected = torch.zeros(4, dtype=torch.float64)
    for i, episode in enumerate(pair):
        for t, (state, action, *_) in enumerate(episode):
            expected += batch["advantages"][t, i] * score(state, action) / 2
    torch.testing.assert_close(-policy.net[0].weight.grad.T.reshape(-1), expected)


# --- returns and baselines -------------------------------------------------------------------


def test_rewards_to_go_by_brute_force():
    rewards = torch.randn(7, 3, generator=generator(), dtype=torch.float64)
    expected = [[sum(0.8 ** (k - t) * rewards[k, i] for k in range(t, 7)) for i in range(3)] for t in range(7)]
    torch.testing.assert_close(rewards_to_go(rewards, 0.8), torch.tensor(expected))


def test_the_mean_is_that_of_the_others_that_are_under_way():
    returns, alive = (
        torch.tensor([[1.0, 2, 6], [3, 5, 0], [4, 0, 0]]),
        torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0]]),
    )
    means = mean_of_others(returns, alive)
    assert means[0].tolist() == [4, 3.5, 1.5]
    assert means[1, :2].tolist() == [5, 3]
    assert means[2, 0] == 0


def test_the_value_that_judges_a_batch_has_not_seen_it():
    policy = CategoricalPolicy([2, 2], generator())
    value = NetworkValue([3, 8, 1], 0.05, generator(), CPU)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    args, several = Args(num_envs=3, value_epochs=20), [EPISODES[0], EPISODES[3], EPISODES[-1]]
    batch = {name: x if name == "alive" else x.float() for name, x in as_batch(several).items()}
    before = value(batch["obs"], batch["steps"]).detach()
    batch = estimate_advantages(batch, value, args)
    torch.testing.assert_close(batch["advantages"], batch["returns"] - before)
    update_networks(policy, optimizer, value, batch, args)
    after, alive = value(batch["obs"], batch["steps"]).detach(), batch["alive"]
    errors = [((values - batch["returns"])[alive] ** 2).mean().item() for values in (before, after)]
    assert errors[1] < 0.7 * errors[0]


def test_what_follows_an_end_changes_nothing():
    def updated(noise):
        policy, value = CategoricalPolicy([2, 2], generator()), NetworkValue([3, 8, 1], 0.05, generator(), CPU)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
        args = Args(num_envs=2, value_epochs=2)
        batch = {name: x if name == "alive" else x.float() for name, x in as_batch([EPISODES[0], EPISODES[-1]]).items()}
        batch["obs"][~batch["alive"]] += noise
        batch["actions"][~batch["alive"]] = 1
        losses = update_networks(policy, optimizer, value, estimate_advantages(batch, value, args), args)
        return [*policy.parameters(), *value.parameters()], losses

    (a, losses), (b, others) = updated(0.0), updated(7.0)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) and losses == others


def test_distributions_agree_with_torchs():
    a, actions = torch.randn(5, 6, generator=generator()), torch.randn(5, 3, generator=generator(1))
    normal = torch.distributions.Normal(a[:, :3], a[:, 3:].exp())
    torch.testing.assert_close(GaussianPolicy.log_prob(a, actions), normal.log_prob(actions).sum(1))
    torch.testing.assert_close(GaussianPolicy.entropy(a), normal.entropy().sum(1))
    categorical, chosen = torch.distributions.Categorical(logits=a), torch.tensor([[0.0], [1], [2], [3], [5]])
    torch.testing.assert_close(CategoricalPolicy.log_prob(a, chosen), categorical.log_prob(chosen[:, 0]))
    torch.testing.assert_close(CategoricalPolicy.entropy(a), categorical.entropy())


@pytest.mark.parametrize("gaussian", [False, True])
def test_the_frozen_policy_draws_from_the_policys_distribution(gaussian):
    policy = GaussianPolicy([3, 8, 2], -0.7, generator()) if gaussian else CategoricalPolicy([3, 8, 3], generator())
    with torch.no_grad():
        policy.net[-1].weight *= 200  # else all actions are as likely
    frozen, obs = freeze(policy), np.tile(np.array([[0.5, -1.0, 2.0]], np.float32), (40_000, 1))
    actions = frozen.act(obs, frozen.noise(np.random.default_rng(0), (len(obs),)))
    params = policy(torch.from_numpy(obs[:1])).detach()[0]
    if gaussian:
        assert np.allclose(actions.mean(axis=0), params[:2], atol=0.02)
        assert np.allclose(actions.std(axis=0), np.exp(-0.7), rtol=0.02)
        assert np.allclose(frozen.act(obs[:1], 0)[0], params[:2], atol=1e-5)
    else:
        shares = np.bincount(actions[:, 0], minlength=3) / len(obs)
        assert np.allclose(shares, params.softmax(0), atol=0.01) and 0.05 < shares.max() < 0.95
        assert frozen.act(obs[:1], 0)[0, 0] == params.argmax()


# --- environments ----------------------------------------------------------------------------


class Ladder(gym.Env):
    """Observes the number of the episode and the step. Action 6 ends it; rewards are 10 x step + action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Discrete(3, start=5)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action):
        assert action in self.action_space
        reward = 10 * self.count + action
        self.count += 1
        return np.array([self.episode, self.count]), float(reward), action == 6, False, {}


gym.register("Ladder-v0", entry_point=Ladder, max_episode_steps=6)


def test_gather_takes_one_whole_episode_of_each_environment_and_no_more():
    envs = Envs("Ladder-v0", 5)
    policy = freeze(CategoricalPolicy([2, 3], generator()))
    for batch_number in (1, 2):
        batch = envs.gather(policy, np.random.default_rng(batch_number))
        length = batch["alive"].sum(axis=0)
        assert len(batch["alive"]) == length.max() and len(set(length.tolist())) > 1
        for i in range(5):
            alive = batch["alive"][:, i]
            assert alive[: length[i]].all() and not alive[length[i] :].any()
            assert len(set(batch["obs"][alive, i, 0].tolist())) == 1
            assert batch["obs"][alive, i, 1].tolist() == batch["steps"][alive, i].tolist() == list(range(length[i]))
            actions = batch["actions"][alive, i, 0]
            assert (actions[:-1] != 1).all() and (actions[-1] == 1 or length[i] == 6)
            assert (batch["rewards"][alive, i] == 10 * np.arange(length[i]) + actions + 5).all()
            assert (batch["rewards"][~alive, i] == 0).all()
    envs.envs.close()


def test_gather_on_cartpoles_own_vector_is_cartpole():
    envs, env = Envs("CartPole-v1", 3), gym.make("CartPole-v1")
    assert not isinstance(envs.envs, gym.vector.SyncVectorEnv)
    batch = envs.gather(freeze(CategoricalPolicy([4, 2], generator())), np.random.default_rng(0))
    for i in range(3):
        alive = batch["alive"][:, i]
        env.reset(seed=0)
        env.unwrapped.state = batch["obs"][0, i].astype(np.float64)
        for t in range(alive.sum()):
            assert np.allclose(env.unwrapped.state, batch["obs"][t, i], atol=1e-4)
            _, reward, terminated, truncated, _ = env.step(int(batch["actions"][t, i, 0]))
            assert reward == batch["rewards"][t, i] == 1
            assert (terminated or truncated) == (t == alive.sum() - 1)


def test_continuous_actions_are_clipped_for_the_environment_only():
    envs = Envs("InvertedPendulum-v5", 2)
    assert envs.for_envs(np.array([[-30.0], [0.7]], np.float32)).ravel().tolist() == pytest.approx([-3, 0.7])
    batch = envs.gather(freeze(GaussianPolicy([4, 1], 3.0, generator())), np.random.default_rng(0))
    assert abs(batch["actions"]).max() > 10 and batch["actions"].dtype == np.float32
    envs.envs.close()


# --- the gridworld ---------------------------------------------------------------------------

PICTURE = ["#######", "#.....#", "#s#t#s#", "#######"]  # walls, corridor, skulls, treasure


def place(x: int, y: int) -> str:
    return PICTURE[y][x]


def test_the_gridworld_is_the_one_of_the_picture():
    moves = [(0, -1), (1, 0), (0, 1), (-1, 0)]  # north, east, south, west
    for cell in range(5):
        for action, (dx, dy) in enumerate(moves):
            entered = place(1 + cell + dx, 1 + dy)
            assert LOOKS[cell, action] == (entered == "#")
            assert REWARDS[cell, action] == {"s": -1, "t": 1}.get(entered, 0)
            following = {"#": cell, ".": cell + dx, "s": 5 if cell == 0 else 7, "t": 6}[entered]
            assert NEXT_CELL[cell, action] == following
    assert (LOOKS[1] == LOOKS[3]).all() and len({tuple(look) for look in LOOKS}) == 4


def test_exact_values_by_hand():
    g = 0.9
    best = best_deterministic(g)
    assert sorted(gridworld_values(best, g)) == pytest.approx([0, 0, g**2, g, 1])
    assert (best[1] == best[3]).all() and set(best.reshape(-1)) == {0, 1}
    half = np.zeros((5, 4))
    half[0, 1] = half[2, 2] = half[4, 3] = 1
    half[[1, 3], 1] = half[[1, 3], 3] = 0.5
    grey = 0.5 * g / (1 - 0.5 * g**2)  # half the time on to the treasure, else back from the corner
    assert gridworld_values(half, g) == pytest.approx([g * grey, grey, 1, grey, g * grey])


def test_the_gridworlds_copies_play_by_its_tables():
    envs = AliasedGridworld(50)
    looks, _ = envs.reset(seed=1)
    rng, ended, count, starts, cut = np.random.default_rng(0), np.zeros(50, bool), np.zeros(50, int), [], 0
    for _ in range(300):
        before, actions = envs.cells.copy(), rng.choice([1, 1, 1, 3, 2, 0], size=50)
        actions[:10] = 0  # walk against a wall for ever
        assert (looks[~ended] == LOOKS[before[~ended]]).all()
        looks, rewards, terminations, truncations, _ = envs.step(actions)
        count = np.where(ended, 0, count + 1)
        goes_to = NEXT_CELL[before, actions]
        assert (rewards == np.where(ended, 0, REWARDS[before, actions])).all()
        assert (terminations == (~ended & (goes_to >= 5))).all() and (truncations == (~ended & (count >= 100))).all()
        going = ~ended & ~terminations
        assert (envs.cells[going] == goes_to[going]).all()
        starts += envs.cells[ended].tolist()
        cut += truncations.sum()
        ended = terminations | truncations
    assert np.bincount(starts, minlength=5).min() > 0.15 * len(starts) and cut >= 20


def exact_grid_gradient(policy, credit: str, gamma: float) -> torch.Tensor:
    """The expected REINFORCE estimate, by the policy gradient theorem: visits times grad pi(a|s) Q(s, a)."""
    pi = policy(torch.from_numpy(LOOKS)).double().softmax(1)
    probs = pi.detach().numpy()
    values = np.append(gridworld_values(probs, gamma), [0, 0, 0])
    q = REWARDS + gamma * values[NEXT_CELL]
    chain = np.array([[probs[s, NEXT_CELL[s] == following].sum() for following in range(5)] for s in range(5)])
    counted = gamma if credit == "return" else 1.0  # of the discounted return; reward-to-go forgets the time
    visits = np.linalg.solve((np.eye(5) - counted * chain).T, np.full(5, 0.2))
    objective = (torch.from_numpy(visits)[:, None] * pi * torch.from_numpy(q)).sum()
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(objective, list(policy.parameters()))]).double()


def test_sampled_gradients_lie_around_the_exact_one_in_every_combination():
    """Everything together: playing, masks, credit, baseline, loss. 60 batches of 32 episodes, 4.5 standard errors."""
    policy, value = CategoricalPolicy([4, 4], generator()), NetworkValue([5, 8, 1], 0.1, generator(2), CPU)
    with torch.no_grad():
        policy.net[0].weight += torch.randn(4, 4, generator=generator(1)) * 0.5
    envs, found = Envs(GRIDWORLD, 32), {}
    for number in range(60):
        arrays = envs.gather(freeze(policy), np.random.default_rng(number))
        for credit, baseline in COMBINATIONS:
            args = Args(credit=credit, baseline=baseline, gamma=0.9, num_envs=32)
            batch = estimate_advantages({name: torch.from_numpy(x) for name, x in arrays.items()}, value, args)
            flat = {name: x[batch["alive"]] for name, x in batch.items()}
            loss = policy_gradient_loss(policy, flat["obs"], flat["actions"], flat["advantages"], 32)
            gradient = torch.autograd.grad(-loss, list(policy.parameters()))
            found.setdefault((credit, baseline), []).append(torch.cat([g.reshape(-1) for g in gradient]).double())
    for (credit, baseline), gradients in found.items():
        exact = exact_grid_gradient(policy, credit, 0.9)
        mean, error = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / 60**0.5
        assert ((mean - exact).abs() <= 4.5 * error + 1e-6).all(), (credit, baseline)
        assert (exact.abs() > 4.5 * error).any(), "the errors are small enough to tell"


def test_where_two_cells_look_alike_it_learns_to_toss_a_coin(tmp_path):
    """Better than any deterministic policy, and half east, half west."""
    flags = {"policy": "linear", "baseline": "mean", "gamma": 0.9, "num_envs": 8, "learning_rate": 0.1}
    row = train(Args(env_id=GRIDWORLD, total_timesteps=24_000, run_dir=tmp_path / "run", **flags))
    best = gridworld_values(best_deterministic(0.9), 0.9).mean()
    assert row["eval/exact_return"] > 0.68 > 1.2 * best
    assert 0.25 < row["eval/east_where_alike"] < 0.75
    files = {"args.json", "metrics.csv", "checkpoint.pt", "curve.png", "gridworld.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files


# --- training --------------------------------------------------------------------------------


def test_it_learns_cartpole(tmp_path):
    """Random play gets 22 a game."""
    row = train(Args(total_timesteps=8_000, learning_rate=0.01, value_epochs=5, run_dir=tmp_path / "run"))
    assert row["charts/episodic_return_100"] > 40 and row["eval/episodic_return"] > 100


class Aim(gym.Env):
    """One step: hit the number that is shown. The best action is the observation itself."""

    observation_space, action_space = (gym.spaces.Box(-1, 1, (1,), np.float32) for _ in range(2))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = self.np_random.uniform(-0.8, 0.8, size=1).astype(np.float32)
        return self.shown, {}

    def step(self, action):
        return self.shown, -float(((action - self.shown) ** 2).sum()), True, False, {}


gym.register("Aim-v0", entry_point=Aim, max_episode_steps=1)


def test_it_learns_continuous_actions(tmp_path):
    """Never moving gets -0.21, and what the noise costs at first is 0.37."""
    flags = {"policy": "linear", "baseline": "mean", "num_envs": 32, "learning_rate": 0.05, "log_std_init": -0.5}
    row = train(Args(env_id="Aim-v0", total_timesteps=10_000, run_dir=tmp_path / "run", **flags))
    assert row["eval/episodic_return"] > -0.01 and row["charts/episodic_return_100"] > -0.08


def test_a_row_counts_steps_and_episodes_of_the_batch(tmp_path, monkeypatch):
    seen, shipped = [], Envs.gather

    def spy(*args, **kwargs):
        seen.append(shipped(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(Envs, "gather", spy)
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    steps = count = 0
    running = 10.0
    for batch, row in zip(seen, rows(tmp_path / "run"), strict=False):
        steps, count = steps + batch["alive"].sum(), count + 4
        returns = batch["rewards"].sum(axis=0)
        for episodic_return in returns:  # pytorch/examples' criterion
            running = 0.05 * episodic_return + 0.95 * running
        assert int(row["global_step"]) == steps and int(row["charts/episodes"]) == count
        assert float(row["charts/episodic_return"]) == pytest.approx(returns.mean())
        assert float(row["charts/running_return"]) == pytest.approx(running)
    assert steps >= 400 > int(rows(tmp_path / "run")[-2]["global_step"])


@pytest.mark.parametrize("flags", [{}, {"env_id": GRIDWORLD, "policy": "linear", "gamma": 0.9, "baseline": "mean"}])
def test_the_seed_decides_every_number(tmp_path, flags):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(**SMALL | flags, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path, monkeypatch):
    train(Args(**SMALL, run_dir=tmp_path / "whole"))
    log, logged = reinforce.Run.log, []

    def interrupted(run, row):
        logged.append(row)
        if len(logged) == 4:
            raise KeyboardInterrupt
        log(run, row)

    with monkeypatch.context() as patch:
        patch.setattr(reinforce.Run, "log", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(Args(**SMALL, run_dir=tmp_path / "half"))
    assert len(rows(tmp_path / "half")) == 3  # one more than the checkpoint counts
    train(Args(resume=tmp_path / "half"))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    whole, half = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "half"))
    assert all(torch.equal(whole["policy"][key], half["policy"][key]) for key in whole["policy"])
    assert all(torch.equal(whole["value"]["net"][key], half["value"]["net"][key]) for key in whole["value"]["net"])


def test_evaluate_repeats_the_score_of_the_last_row(tmp_path):
    row = train(Args(**SMALL, run_dir=tmp_path / "run"))
    assert evaluate(tmp_path / "run")[0] == row["eval/episodic_return"]


def test_the_learned_probabilities_are_the_policys():
    policy = CategoricalPolicy([4, 4], generator())
    assert gridworld_probs(policy) == pytest.approx(policy(torch.from_numpy(LOOKS)).softmax(1).detach().numpy())


def test_losses_that_are_no_numbers_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(reinforce, "update_networks", lambda *args: {"losses/entropy": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="diverged"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"env_id": "FrozenLake-v1"}, "flat observations"),
        ({"env_id": "NoSuchEnv-v0"}, "--env-id"),
        ({"env_id": GRIDWORLD, "gamma": 1.0}, "--gamma below 1"),
        ({"num_envs": 0}, "--num-envs"),
        ({"num_envs": 1, "baseline": "mean"}, "--baseline mean"),
        ({"gamma": 0.0}, "--gamma"),
        ({"gamma": float("nan")}, "--gamma"),
        ({"learning_rate": -1.0}, "--learning-rate"),
        ({"value_learning_rate": float("inf")}, "--value-learning-rate"),
        ({"value_units": ()}, "--value-units"),
        ({"log_std_init": 30.0}, "--log-std-init"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_resumed_says_so(tmp_path):
    with pytest.raises(UsageError, match="no run to load"):
        train(Args(resume=tmp_path / "nothing"))
    train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(**SMALL, run_dir=tmp_path / "run"))
    with pytest.raises(UsageError, match="finished"):
        train(Args(resume=tmp_path / "run"))
    saved = tmp_path / "run/args.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"policy": "linear"}))
    for verb in (lambda: train(Args(resume=tmp_path / "run")), lambda: evaluate(tmp_path / "run")):
        with pytest.raises(UsageError, match="does not fit CartPole-v1"):
            verb()


def test_the_command_line_says_it_in_one_message_without_a_traceback(tmp_path):
    command = [sys.executable, "algos/reinforce.py", "--resume", tmp_path / "x", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1 and "--resume" in done.stderr and "Traceback" not in done.stderr
