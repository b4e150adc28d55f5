"""Train gen/gan.py, infogan.py or vae_gan.py, and add to the last row how far its samples are from real images.

    python -m benchmarks.frechet gen/gan.py --dataset mnist --updates 5700

What follows the script are its own flags. The Frechet distance (Heusel et al. 2017, arXiv 1706.08500) is taken here in
the features of a small classifier, so that the numbers compare with each other, not with those of Inception's features.
It is trained on one half of the labelled training images; the other half is the reference. eval/frechet is of 2,000
samples, eval/frechet_real of test images, eval/frechet_recon of their reconstructions (vae_gan.py).
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import nn

from benchmarks.rows import add_to_last_row
from gen import infogan

NUM = 2000


def load_labelled(dataset: str, data_dir: Path) -> list[torch.Tensor]:
    """Training images, uint8 [n, c, h, w], and labels [n], then those of the test set."""
    if dataset != "cifar10":
        return infogan.load_images(infogan.Args(dataset=dataset, data_dir=data_dir))
    paths = sorted(Path(data_dir, "cifar-10-batches-bin").glob("*_batch*.bin"))  # the test batch is the last
    rows = torch.from_numpy(np.concatenate([np.fromfile(path, np.uint8) for path in paths])).view(-1, 3073)
    labels, images = rows[:, 0], rows[:, 1:].reshape(-1, 3, 32, 32)
    return [images[:50_000], labels[:50_000], images[50_000:], labels[50_000:]]


def train_classifier(images: torch.Tensor, labels: torch.Tensor, updates: int = 600) -> nn.Sequential:
    """A small network that learns the labels [n] of uint8 [n, c, h, w]; the same for every --seed of the script."""
    torch.manual_seed(0)
    side = -(-images.shape[2] // 8)
    layers = [nn.Conv2d(images.shape[1], 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * side**2, 64), nn.ReLU()]
    classifier = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3, fused=True)
    for _ in range(updates):
        idx = torch.randint(len(images), (128,))
        loss = F.cross_entropy(classifier(images[idx].float() / 255), labels[idx].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier


@torch.no_grad()
def features(classifier: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """What the last layer reads of images in [0, 1] or uint8 [n, c, h, w]: [n, 64]."""
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat([classifier[:-1](part.float() / scale) for part in images.split(500)])


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of features [n, k] and [m, k]."""
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    between = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * between).item()


class Judge:
    """The classifier and its reference, for one data set."""

    def __init__(self, dataset: str, data_dir: Path):
        images, labels, test, _ = load_labelled(dataset, data_dir)
        half = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).chunk(2)
        self.classifier, self.test = train_classifier(images[half[0]], labels[half[0]]), test[:NUM]
        self.reference = features(self.classifier, images[half[1]][:10_000])

    def distance(self, images: torch.Tensor) -> float:
        return frechet_distance(features(self.classifier, images), self.reference)


@torch.no_grad()
def generate(module, args, test: torch.Tensor) -> dict[str, torch.Tensor]:
    """Column -> images in [0, 1], of the networks that the run has left."""
    states = torch.load(args.run_dir / "model.pt", map_location="cpu")
    channels, size = test.shape[1:3]
    if module.__name__ == "gen.gan":
        generator = module.make_generator(args.latent_dim, args.width, channels, args.image_size)
        latents = {"frechet": torch.rand(NUM, args.latent_dim) * 2 - 1}
    elif module is infogan:
        generator = module.make_generator(args.latent_dim + args.codes + 2, args.width)
        latents = {"frechet": module.sample_latents(NUM, args, torch.device("cpu"))}
    else:
        encoder = module.Discriminator(args.width, channels, size, 2 * args.latent_dim).eval()
        encoder.load_state_dict(states["encoder"])
        generator = module.make_decoder(args.latent_dim, args.width, channels, size)
        latents = {"frechet": torch.randn(NUM, args.latent_dim)}
        latents["frechet_recon"] = encoder(test / 127.5 - 1)[1][:, : args.latent_dim]
    generator.load_state_dict(states["decoder" if "decoder" in states else "generator"])
    generator.eval()
    return {f"eval/{name}": generator(z) * 0.5 + 0.5 for name, z in latents.items()}


def main():
    path = Path(sys.argv[1])
    module = importlib.import_module(f"{path.parent.name}.{path.stem}")
    args = tyro.cli(module.Args, args=sys.argv[2:])
    if args.run_dir is None or args.dataset == "folder":
        raise SystemExit("needs --run-dir, and a --dataset with labels")
    module.train(args)
    judge = Judge(args.dataset, args.data_dir)
    torch.manual_seed(args.seed)
    found = {name: judge.distance(images) for name, images in generate(module, args, judge.test).items()}
    add_to_last_row(args.run_dir, found | {"eval/frechet_real": judge.distance(judge.test)})


if __name__ == "__main__":
    main()
