"""REINFORCE as a classifier: its gradient against the lecture's and the exact expectation; its learning."""

import csv
import gzip

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from algos.reinforce_mnist import Args, UsageError, load_data, policy_loss, policy_network, train


def logits_gradient(logits, actions, advantages):
    logits = logits.clone().requires_grad_()
    loss = policy_loss(logits.log_softmax(1)[torch.arange(len(logits)), actions], advantages, "none")
    return torch.autograd.grad(loss, logits)[0]


def test_the_gradient_is_the_lectures():
    torch.manual_seed(0)
    logits, actions, advantages = torch.randn(6, 10), torch.randint(10, (6,)), torch.randn(6)
    expected = advantages[:, None] * (F.one_hot(actions, 10) - logits.softmax(1))  # r (a_k - y_k), to be ascended
    assert torch.allclose(logits_gradient(logits, actions, advantages), -expected / 6, atol=1e-6)


def test_with_labels_for_actions_it_is_the_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 10).requires_grad_(), torch.randint(10, (6,))
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    assert torch.allclose(logits_gradient(logits.detach(), labels, torch.ones(6)), expected, atol=1e-6)


@pytest.mark.parametrize("wrong, right", [(0.0, 1.0), (10.0, 11.0)])
def test_the_gradient_on_average_is_that_of_the_expected_reward(wrong, right):
    torch.manual_seed(0)
    logits, label = torch.randn(1, 10).requires_grad_(), 3
    rewards = torch.full((10,), wrong)
    rewards[label] = right
    (expected,) = torch.autograd.grad((logits.softmax(1) * rewards).sum(), logits)
    probs = logits.detach().softmax(1)[0]
    average = sum(probs[a] * logits_gradient(logits.detach(), torch.tensor([a]), rewards[a : a + 1]) for a in range(10))
    assert torch.allclose(average, -expected, atol=1e-5)
    shifted = sum(
        probs[a] * logits_gradient(logits.detach(), torch.tensor([a]), rewards[a : a + 1] - 7.0) for a in range(10)
    )
    assert torch.allclose(shifted, average, atol=1e-5)  # a baseline does not bias it


def test_a_baseline_is_the_mean_reward_of_the_others():
    torch.manual_seed(0)
    log_probs, rewards = torch.randn(5), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    advantages = torch.tensor([r - (rewards.sum().item() - r) / 4 for r in rewards.tolist()])
    assert torch.allclose(policy_loss(log_probs, rewards, "mean"), policy_loss(log_probs, advantages, "none"))
    assert torch.allclose(policy_loss(log_probs, rewards + 10, "mean"), policy_loss(log_probs, rewards, "mean"))


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "charts/SPS"} for row in csv.DictReader(file)]


def test_it_learns_to_classify_without_labels_and_writes_its_folder(tmp_path):
    row = train(Args(total_timesteps=40_000, learning_rate=0.3, run_dir=tmp_path / "run"))
    assert row["eval/test_accuracy"] > 0.5  # chance: 0.1
    policy = policy_network(64)
    policy.load_state_dict(torch.load(tmp_path / "run/model.pt")["policy"])
    images, labels, test_images, test_labels = load_data(Args())
    assert (policy(test_images).argmax(1) == test_labels).float().mean().item() == row["eval/test_accuracy"]
    assert len(images) == 1500 and len(test_images) == 297 and images.max() == 1 and len(labels) == 1500
    assert [row["global_step"] for row in rows(tmp_path / "run")] == ["10000", "20000", "30000", "40000"]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"args.json", "metrics.csv", "model.pt", "curve.png"}


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_an_update_follows_the_loss_and_its_changes_are_those_of_wrong_and_of_right_actions(baseline, tmp_path):
    row = train(Args(total_timesteps=100, reward_wrong=3, baseline=baseline, run_dir=tmp_path / "run"))
    torch.manual_seed(1)
    before, idx, (images, labels, *_) = policy_network(64), torch.randint(1500, (100,)), load_data(Args())
    actions = torch.distributions.Categorical(logits=before(images[idx])).sample()
    after = policy_network(64)
    after.load_state_dict(torch.load(tmp_path / "run/model.pt")["policy"])
    right = actions == labels[idx]
    old, new = (net(images[idx]).log_softmax(1)[torch.arange(100), actions] for net in (before, after))
    policy_loss(old, torch.where(right, 4.0, 3.0), baseline).backward()
    for p, q in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.allclose(p - 0.1 * p.grad, q, atol=1e-6)
    assert row["charts/right_more_likely"] == pytest.approx((new - old)[right].mean().item(), abs=1e-6)
    assert row["charts/wrong_more_likely"] == pytest.approx((new - old)[~right].mean().item(), abs=1e-6)


@pytest.mark.parametrize("wrong, sign", [(0, 0), (10, 1), (-10, -1)])
def test_without_a_baseline_the_constant_decides_what_becomes_of_wrong_actions(wrong, sign, tmp_path):
    """The lecture: wrong actions become more likely with rewards of 10 and 11, less likely with -10 and -9."""
    row = train(Args(total_timesteps=1000, reward_wrong=wrong, learning_rate=0.01, run_dir=tmp_path / "run"))
    change = row["charts/wrong_more_likely"]
    assert abs(change) < 0.001 if sign == 0 else sign * change > 0.004
    assert sign < 0 or row["charts/right_more_likely"] > 0.0005  # 1,000 decisions do not show by how much more


def test_a_baseline_makes_the_constant_irrelevant(tmp_path):
    weights = []
    for constant in (0, 64):
        folder = tmp_path / f"{constant}"
        row = train(Args(total_timesteps=500, baseline="mean", reward_wrong=constant, run_dir=folder))
        policy = torch.load(folder / "model.pt")["policy"]
        weights.append(torch.cat([x.flatten() for x in policy.values()]))
        assert row["charts/wrong_more_likely"] < 0 < row["charts/right_more_likely"]
    assert torch.allclose(*weights, atol=1e-4)  # rewards of 64 are rounded to 4e-6


def test_the_seed_decides_every_number(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(total_timesteps=2000, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def write_mnist(folder):
    rng, arrays = np.random.default_rng(0), {}
    for prefix, n in (("train", 120), ("t10k", 30)):
        arrays[prefix] = rng.integers(256, size=(n, 784), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)
        for name, header, x in zip(("images-idx3", "labels-idx1"), (16, 8), arrays[prefix], strict=True):
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(bytes(header) + x.tobytes()))
    return arrays


def test_mnist_is_read_as_it_was_written_and_a_damaged_file_is_refused(tmp_path):
    arrays = write_mnist(tmp_path)
    images, labels, test_images, test_labels = load_data(Args(dataset="mnist", data_dir=tmp_path))
    assert np.allclose(images * 255, arrays["train"][0]) and (labels.numpy() == arrays["train"][1]).all()
    assert np.allclose(test_images * 255, arrays["t10k"][0]) and (test_labels.numpy() == arrays["t10k"][1]).all()
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for damaged in (path.read_bytes()[:2000], b"nonsense", gzip.compress(bytes(1000))):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="--data-dir"):
            train(Args(dataset="mnist", data_dir=tmp_path, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_divergence_is_said(tmp_path):
    with pytest.raises(FloatingPointError, match="--learning-rate"):
        train(Args(learning_rate=1e30, run_dir=tmp_path / "run"))


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"reward_wrong": float("inf")}, "reward_wrong"),
        ({"baseline": "median"}, "baseline"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
