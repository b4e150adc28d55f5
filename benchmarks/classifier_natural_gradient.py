"""The natural gradient of a classifier: three kinds of iris for the apple, the banana and the orange of the post.

    python -m benchmarks.classifier_natural_gradient --run-dir runs/classifier

A softmax classifier takes plain and natural gradient steps from one start, with features in cm or the first in mm. The
Fisher matrix is the average outer product of the scores, the gradients of log p(class | x), and compared with the
Hessian of the KL divergence. The plain gradient has the best learning rate of eight.
"""

from pathlib import Path

import torch
import tyro
from sklearn.datasets import load_iris

from benchmarks.plot import figure
from benchmarks.rows import write_rows


def log_probs(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """theta [features * 3], x [n, features] -> log p(class | x) [n, 3]."""
    return (x @ theta.view(-1, 3)).log_softmax(1)


def fisher_from_kl(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Hessian of the mean KL(p_theta || p_other) by the other's parameters, where both are the same."""
    p = log_probs(theta, x).exp()
    return torch.func.hessian(lambda other: (p * (p.log() - log_probs(other, x))).sum(1).mean())(theta)


def fisher_from_scores(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean over x of sum_y p(y | x) score score^T."""
    scores = torch.func.jacrev(log_probs)(theta, x)  # [n, 3, parameters]
    return torch.einsum("ny,nyi,nyj->ij", log_probs(theta, x).exp(), scores, scores) / len(x)


def descend(theta, x: torch.Tensor, y: torch.Tensor, natural: bool, learning_rate: float, updates: int = 60) -> tuple:
    """Cross-entropy before each update [updates], final parameters, largest difference of the two Fisher matrices."""
    losses, difference = [], 0.0
    for _ in range(updates):
        gradient, loss = torch.func.grad_and_value(lambda t: -log_probs(t, x).gather(1, y[:, None]).mean())(theta)
        if natural:
            fisher = fisher_from_scores(theta, x)
            difference = max(difference, (fisher - fisher_from_kl(theta, x)).abs().max().item())
            gradient = torch.linalg.pinv(fisher, rtol=1e-12, hermitian=True) @ gradient  # the matrix is singular
        theta, losses = theta - learning_rate * gradient, [*losses, loss.item()]
    return losses, theta, difference


def main(run_dir: Path, seed: int = 1):
    torch.manual_seed(seed)
    start, (x, y) = 0.1 * torch.randn(5, 3).double(), map(torch.from_numpy, load_iris(return_X_y=True))
    cm, curves = torch.cat([x, torch.ones(len(x), 1)], dim=1), {}
    for unit, scale in {"cm": 1, "first feature in mm": 10}.items():
        scales = torch.tensor([scale, 1, 1, 1, 1])
        theta = (start / scales[:, None]).flatten()  # the same probabilities in other units
        for name, rates in {"plain": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2], "natural": [0.2]}.items():
            runs = {rate: descend(theta, cm * scales, y, name == "natural", rate) for rate in rates}
            best = min(runs, key=lambda rate: runs[rate][0][-1])
            losses, _, difference = runs[best]
            curves[f"{name} gradient, {unit}, learning rate {best}"] = losses
    steps = zip(*curves.values(), strict=True)
    write_rows(run_dir, ({"global_step": i} | dict(zip(curves, x, strict=True)) for i, x in enumerate(steps)))
    with figure(run_dir / "classifier.png") as (axes,):
        for name, losses in curves.items():
            axes.plot(losses, "--" if "mm" in name else "-", label=name)
        axes.set(xlabel="updates", ylabel="cross-entropy (nats)", yscale="log", title="iris, 15 parameters")
    print(f"cross-entropy {losses[-1]:.3f}; the Fisher matrices differ by {difference:.0e} at most: {run_dir}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
