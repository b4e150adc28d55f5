"""The steps of the post "Variational autoencoders explained", each with the decoder of gen/vae.py.

    python -m benchmarks.vae_steps --run-dir runs/vae-steps

1. A decoder whose input is always a vector of ones memorises one image.
2. With one-hot inputs it memorises ten: one row of its first layer for each.
3. An autoencoder (gen/vae.py --kl-weight 0): an encoder finds the codes; which others stand for images is open.
4. The VAE (gen/vae.py): codes are close to N(0, I), so samples of it are decoded to new images.

metrics.csv has a row per step: the squared error of its reconstructions of the test images shown, summed over pixels.
steps.png shows them, and samples of N(0, I) decoded by both autoencoders.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import tyro

from benchmarks.rows import write_rows
from gen import vae


def memorise(codes: torch.Tensor, images: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Train a decoder on pairs of codes [n, k] and images [n, 784]: what it makes of the codes, ten times meanwhile."""
    torch.manual_seed(seed)
    model = vae.VAE(torch.full((784,), 0.5), 400, codes.shape[1])  # from grey, so that learning is seen
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-3)
    shown, times = [], {round(300 * (i / 9) ** 2) for i in range(9)}  # ever rarer
    for update in range(300):
        if update in times:
            shown.append(model.decode(codes).detach())
        loss = F.mse_loss(model.decode(codes), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*shown, model.decode(codes).detach()]


def autoencode(args: vae.Args, test: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Train gen/vae.py: reconstructions of test images, and ten decoded samples of N(0, I)."""
    vae.train(args)
    model = vae.VAE(test.mean(0), 400, 20)
    model.load_state_dict(torch.load(args.run_dir / "model.pt", map_location="cpu")["model"])
    torch.manual_seed(args.seed)
    with torch.no_grad():
        return model.decode(model.encode(test).mean), model.decode(torch.randn(10, 20))


def main(run_dir: Path, seed: int = 1, epochs: int = 10):
    """Epochs of the autoencoder and of the VAE."""
    flags = {"seed": seed, "dataset": "mnist", "epochs": epochs}
    test = vae.load_images(vae.Args(**flags))[1][:10].flatten(1) / 255
    one = memorise(torch.ones(1, 20), test[:1], seed)
    ten = memorise(torch.eye(10), test, seed)[-1]
    autoencoder, codes = autoencode(vae.Args(**flags, kl_weight=0, run_dir=run_dir / "autoencoder"), test)
    variational, samples = autoencode(vae.Args(**flags, run_dir=run_dir / "vae"), test)
    shown = [test, torch.cat(one), ten, autoencoder, variational, codes, samples]
    vae.save_grid(torch.cat(shown), 10, run_dir / "steps.png")
    made = [one[-1], ten, autoencoder, variational]
    errors = [(images - test[: len(images)]).square().sum(1).mean().item() for images in made]
    write_rows(run_dir, [{"global_step": i, "squared_error": error} for i, error in enumerate(errors, start=1)])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
