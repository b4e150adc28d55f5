"""The classifier's natural gradient: both Fisher matrices against the closed form, invariance to units, its descent."""

import csv

import pytest
import torch

from benchmarks.classifier_natural_gradient import descend, fisher_from_kl, fisher_from_scores, main


def data():
    torch.manual_seed(0)
    x, theta = torch.randn(20, 4, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    return x, theta, torch.randint(3, (20,))


@pytest.mark.parametrize("fisher", [fisher_from_kl, fisher_from_scores])
def test_the_fisher_matrix_is_the_closed_form(fisher):
    """Of a linear softmax: the mean of x x^T (Kronecker) diag(p) - p p^T."""
    x, theta, _ = data()
    p = (x @ theta.view(4, 3)).softmax(1)
    expected = sum(
        torch.kron(torch.outer(a, a), torch.diag(b) - torch.outer(b, b)) for a, b in zip(x, p, strict=True)
    ) / len(x)
    assert torch.allclose(fisher(theta, x), expected, atol=1e-12)


def test_the_natural_gradient_is_invariant_to_units_and_the_plain_one_is_not():
    x, theta, y = data()
    scales = torch.tensor([10.0, 1, 0.1, 1], dtype=torch.float64)
    other = (theta.view(4, 3) / scales[:, None]).flatten()
    for natural in (True, False):
        a, *_ = descend(theta, x, y, natural, 0.2, updates=10)
        b, *_ = descend(other, x * scales, y, natural, 0.2, updates=10)
        assert (torch.tensor(a) - torch.tensor(b)).abs().max() < 1e-8 if natural else abs(a[-1] - b[-1]) > 0.01
        assert a[0] == pytest.approx(b[0]) and a[-1] < a[0]


def test_a_natural_step_of_length_one_is_newtons_method():
    """The Fisher matrix of a linear softmax is the Hessian of its cross-entropy: near the optimum one step suffices."""
    x, theta, y = data()
    losses, best, difference = descend(torch.zeros_like(theta), x, y, True, 0.3, updates=60)
    start = best + 0.05 * torch.randn(12, dtype=torch.float64)
    near, _, _ = descend(start, x, y, True, 1.0, updates=2)
    assert near[1] - losses[-1] < 0.05 * (near[0] - losses[-1]) and difference < 1e-10


def test_it_leaves_its_rows_and_its_picture(tmp_path):
    main(tmp_path / "run")
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        last = list(csv.reader(file))[-1]
    plain_cm, natural_cm, plain_mm, natural_mm = map(float, last[1:])
    assert natural_cm == pytest.approx(natural_mm, rel=1e-6) and natural_cm < 0.1 * plain_cm < 0.1 * plain_mm
    assert (tmp_path / "run/classifier.png").exists()
