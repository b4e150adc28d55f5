"""The steps of the post "Variational autoencoders explained", each with the decoder of gen/vae.py.

    python benchmarks/vae_steps.py --run-dir runs/vae-steps

1. A decoder whose input is always a vector of ones memorises one image.
2. With one-hot inputs it memorises ten: one row of its first layer for each.
3. An autoencoder (gen/vae.py --kl-weight 0): an encoder finds the codes, also of new images, but nothing says which
   other codes stand for images.
4. The VAE (gen/vae.py): codes are close to N(0, I), so samples of it are decoded to new images.

metrics.csv has a row per step: the squared error of its reconstructions, summed over pixels and averaged over the test
images shown. steps.png shows them, and samples of N(0, I) decoded by both autoencoders.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gen import vae  # noqa: E402


def memorise(codes: torch.Tensor, images: torch.Tensor, updates: int, seed: int) -> list[torch.Tensor]:
    """Train a decoder on pairs of codes [n, k] and images [n, 784]: what it makes of the codes, ten times meanwhile."""
    torch.manual_seed(seed)
    model = vae.VAE(images.mean(0) * 0 + 0.5, 400, codes.shape[1])  # from grey, so that learning is seen
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-3)
    shown = []
    for update in range(updates):
        if update in {round(updates * (i / 9) ** 2) for i in range(9)}:  # ever rarer
            shown.append(model.decode(codes).detach())
        loss = F.mse_loss(model.decode(codes), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*shown, model.decode(codes).detach()]


@torch.no_grad()
def autoencode(flags: argparse.Namespace, kl_weight: float, test: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Train gen/vae.py: reconstructions of ten test images, and ten decoded samples of N(0, I)."""
    folder = flags.run_dir / f"kl-weight-{kl_weight}"
    args = {"seed": flags.seed, "epochs": flags.epochs, "dataset": flags.dataset, "data_dir": flags.data_dir}
    with torch.enable_grad():
        vae.train(vae.Args(**args, kl_weight=kl_weight, run_dir=folder))
    model = vae.VAE(test.mean(0), 400, 20)
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu")["model"])
    torch.manual_seed(flags.seed)
    return model.decode(model.encode(test).mean), model.decode(torch.randn(10, 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dataset", choices=["digits", "mnist"], default="mnist")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data")
    parser.add_argument("--epochs", type=int, default=10, help="of the autoencoder and of the VAE")
    parser.add_argument("--updates", type=int, default=300, help="of the decoders that memorise")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv and the picture")
    flags = parser.parse_args()
    test = vae.load_images(vae.Args(dataset=flags.dataset, data_dir=flags.data_dir))[1][:10].flatten(1) / 255
    one = memorise(torch.ones(1, 20), test[:1], flags.updates, flags.seed)
    ten = memorise(torch.eye(10), test, flags.updates, flags.seed)[-1]
    autoencoder, autoencoder_samples = autoencode(flags, 0, test)
    variational, samples = autoencode(flags, 1, test)
    rows = [test, torch.cat(one), ten, autoencoder, variational, autoencoder_samples, samples]
    vae.save_grid(torch.cat(rows), 10, flags.run_dir / "steps.png")
    with (flags.run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["global_step", "squared_error"])
        for step, images in enumerate((one[-1], ten, autoencoder, variational), 1):
            writer.writerow([step, (images - test[: len(images)]).square().sum(1).mean().item()])


if __name__ == "__main__":
    main()
