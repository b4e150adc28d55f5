"""GAN: its distance against closed forms, its batch statistics against loops, its training against real digits."""

import numpy as np
import pytest
import scipy.linalg
import torch

from gen import gan
from gen.gan import frechet_distance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the Frechet distance --------------------------------------------------------------------


def test_the_frechet_distance_is_that_of_gaussians_in_closed_form_and_with_a_matrix_root():
    rng = generator()
    a = torch.randn(400, 5, generator=rng) @ torch.randn(5, 5, generator=rng) + 1
    b = torch.randn(300, 5, generator=rng) @ torch.randn(5, 5, generator=rng)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    means, covs = zip(*((x.double().mean(0).numpy(), np.cov(x.double().numpy().T)) for x in (a, b)), strict=True)
    root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(covs[0] + covs[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6) == pytest.approx(frechet_distance(b, a))

    white = torch.randn(5000, 3, generator=rng).double()  # made exactly N(0, 1), then stretched: the standard
    white = (white - white.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T  # deviations differ
    stretched = white * torch.tensor([1.0, 3.0, 0.0]) + torch.tensor([0.0, 2.0, 0.0])
    assert frechet_distance(white, stretched) == pytest.approx(4 + 0 + 4 + 1)


def test_the_classifier_learns_the_digits_and_its_features_are_what_it_decides_by():
    train, labels, test, test_labels = gan.load_digits_28()
    train, test = train.unsqueeze(1), test.unsqueeze(1)
    classifier = gan.train_classifier(train, labels, 120)
    assert gan.classifier_accuracy(classifier, test, test_labels) > 0.85
    features = gan.classifier_features(classifier, train)
    assert features.shape == (1500, 64)
    assert torch.allclose(classifier[-1](features[:9]), classifier(train[:9].float() / 255), atol=1e-4)
    again, other = (gan.train_classifier(train, labels, num) for num in (2, 2))
    assert torch.equal(again[0].weight, other[0].weight)
    blurred = torch.nn.functional.avg_pool2d(train[:750].float(), 5, 1, 2).byte()
    blurred = gan.classifier_features(classifier, blurred)
    assert 3 * frechet_distance(features[:750], features[750:]) < frechet_distance(blurred, features[750:])
