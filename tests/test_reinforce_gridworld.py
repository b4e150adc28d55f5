"""REINFORCE in the aliased gridworld: the world against its picture, values by hand, gradients against exact ones."""

import csv

import pytest
import torch

from algos import reinforce_gridworld
from algos.reinforce_gridworld import (
    NEXT_CELL,
    OBSERVATION,
    REWARD,
    Args,
    exact_objective,
    exact_values,
    policy_gradient_loss,
    rollout,
    train,
)
from benchmarks.figures.reinforce_gridworld import best_deterministic

PICTURE = ["#######", "#.....#", "#s#t#s#", "#######"]  # walls, corridor, skulls, treasure
MOVES = [(0, -1), (1, 0), (0, 1), (-1, 0)]  # north, east, south, west
G = 0.9


def test_the_world_is_the_one_of_the_picture():
    walls = []
    for cell in range(5):
        entered = [PICTURE[1 + dy][1 + cell + dx] for dx, dy in MOVES]
        walls.append(tuple(place == "#" for place in entered))
        for action, (place, (dx, _)) in enumerate(zip(entered, MOVES, strict=True)):
            assert REWARD[cell, action] == {"s": -1, "t": 1}.get(place, 0)
            following = {"#": cell, ".": cell + dx, "s": 5 if cell == 0 else 7, "t": 6}[place]
            assert NEXT_CELL[cell, action] == following
    for a in range(5):
        for b in range(5):
            assert (OBSERVATION[a] == OBSERVATION[b]) == (walls[a] == walls[b])


def test_exact_values_by_hand():
    best = best_deterministic(G)
    assert sorted(exact_values(best, G).tolist()) == pytest.approx([0, 0, G**2, G, 1])
    assert torch.equal(best[1], best[3])
    coin = best_deterministic(G)
    coin[[0, 2, 4]] = torch.eye(4, dtype=coin.dtype)[[1, 2, 3]]
    coin[[1, 3]] = torch.tensor([0, 0.5, 0, 0.5], dtype=coin.dtype)
    grey = 0.5 * G / (1 - 0.5 * G**2)  # half the time on to the treasure, else back from the corner
    assert exact_values(coin, G).tolist() == pytest.approx([G * grey, grey, 1, grey, G * grey])


def test_an_episode_follows_the_tables_and_stops_at_an_end(monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(4, 4)
    obs, actions, rewards, mask = rollout(logits, 500)
    assert obs.shape == actions.shape == rewards.shape == mask.shape and len(mask) <= 100
    assert (mask[0] == 1).all() and (mask[1:] <= mask[:-1]).all()  # once an end is reached, nothing counts
    assert (rewards[mask == 0] == 0).all()
    for i in range(100):
        length = int(mask[:, i].sum())
        possible = [c for c in range(5) if OBSERVATION[c] == obs[0, i]]
        for t in range(length):  # the cells that fit what was seen, followed through the table
            followed = [(c, int(NEXT_CELL[c, actions[t, i]])) for c in possible]
            expected = {float(REWARD[c, actions[t, i]]) for c, _ in followed}
            assert float(rewards[t, i]) in expected
            if t + 1 < length:
                possible = [n for _, n in followed if n < 5 and OBSERVATION[n] == obs[t + 1, i]]
                assert possible
            elif length < len(mask):
                assert any(n >= 5 for _, n in followed)
    starts = torch.bincount(obs[0], minlength=4) / 500
    assert torch.allclose(starts, torch.tensor([0.2, 0.4, 0.2, 0.2]), atol=0.08)
    frequency = torch.bincount(actions[obs == 2][mask[obs == 2] == 1], minlength=4).float()
    assert torch.allclose(frequency / frequency.sum(), logits[2].softmax(0), atol=0.1)
    monkeypatch.setattr(reinforce_gridworld, "TIME_LIMIT", 3)
    assert len(rollout(torch.tensor([[9.0, 0, 0, 0]]).expand(4, 4), 10)[0]) == 3  # north into the wall for ever


def test_the_loss_by_hand():
    """Two episodes; log pi is log 1/4 everywhere, so the loss is log 4 times the mean of the sums of gamma^t G_t."""
    rewards = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 1.0]])
    zeros = torch.zeros(3, 2, dtype=torch.int64)
    loss = policy_gradient_loss(torch.zeros(4, 4), zeros, zeros, rewards, 0.5)
    sums = (1 + 1 + 1) + (1 + 1) + 1 + 3 * 0.25
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item() * sums / 2)


def test_the_exact_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    logits, eps = torch.randn(4, 4, dtype=torch.float64, requires_grad=True), 1e-6
    (gradient,) = torch.autograd.grad(exact_objective(logits, G), logits)
    for i in range(16):
        shift = torch.zeros(16, dtype=torch.float64)
        shift[i] = eps
        above, below = (exact_objective(logits.detach() + sign * shift.view(4, 4), G) for sign in (1, -1))
        assert gradient.view(-1)[i].item() == pytest.approx(((above - below) / (2 * eps)).item(), abs=1e-7)


def test_the_sampled_gradient_is_the_exact_one_on_average():
    torch.manual_seed(2)
    logits = torch.randn(4, 4).requires_grad_()
    loss = policy_gradient_loss(logits, *rollout(logits.detach(), 20_000)[:3], G)
    (sampled,) = torch.autograd.grad(loss, logits)
    (exact,) = torch.autograd.grad(exact_objective(logits, G), logits)
    assert torch.allclose(-sampled, exact, atol=0.012) and exact.abs().max() > 0.05  # four times the tolerance


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_it_learns_to_toss_a_coin_and_writes_its_folder(tmp_path):
    row = train(Args(total_timesteps=20_000, run_dir=tmp_path / "run"))
    assert row["eval/exact_return"] > 0.7 and 0.3 < row["eval/east_where_alike"] < 0.7  # deterministic: 0.542
    last = rows(tmp_path / "run")[-1]
    assert float(last["charts/episodic_return"]) > 0.8
    logits = torch.load(tmp_path / "run/model.pt")["logits"]
    assert float(last["eval/exact_return"]) == exact_objective(logits, G).item()  # of the policy that is saved
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "model.pt", "curve.png"}


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(total_timesteps=1000, num_envs=8, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


@pytest.mark.parametrize("args", [{"gamma": 1.0}, {"gamma": -0.1}, {"num_envs": 0}, {"learning_rate": float("nan")}])
def test_what_cannot_work_is_refused_before_anything_is_written(args, tmp_path):
    with pytest.raises(ValueError, match=next(iter(args))):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
