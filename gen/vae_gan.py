# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""VAE/GAN: a VAE whose reconstruction error is measured in the features of a GAN's discriminator, not in pixels.

    python gen/vae_gan.py
    python gen/vae_gan.py --dataset cifar10 --noise-std 0.5 --latent-dim 128 --epochs 10
    python gen/vae_gan.py --dataset folder --data-dir photos --noise-std 0.5

The squared error of pixels punishes a sharp edge in the wrong place twice, so a VAE blurs what it is unsure of. Here
the error is that of the discriminator's last convolution, while the discriminator learns to tell real images from
reconstructions and from samples; the decoder is also the generator of that game. eval/sharpness, the squared difference
of neighbouring pixels divided by that of real images, shows what is gained, eval/squared_error what it costs.

Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric" (arXiv 1512.09300): algorithm 1. All
three losses are computed with the same parameters, and only then all three networks are updated. The encoder minimizes
L_prior + L_llike, the decoder gamma L_llike - L_GAN, the discriminator L_GAN, here its cross-entropy.
Differences: (1) DCGAN's networks for 28 and 32 pixels, and Adam. (2) The decoder maximizes log D, which does not
saturate. (3) A feature has the standard deviation --noise-std given the code, where the paper has 1: the more features,
the less the KL term weighs. 3 is for digits; CIFAR-10 needs 0.5, or the posterior nearly collapses.
"""

import csv
import gzip
import json
import math
import re
import tarfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    torch_deterministic: bool = True
    """deterministic convolutions on a GPU"""
    cuda: bool = True
    """use a GPU if there is one"""
    bf16: bool = False
    """train in bfloat16 by autocast"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["digits", "mnist", "cifar10", "folder"] = "digits"
    """scikit-learn's digits; MNIST or CIFAR-10, downloaded on first use; or the images below --data-dir"""
    data_dir: Path = Path("data")
    """where MNIST and CIFAR-10 are kept, or a folder of images"""
    epochs: PositiveInt = 20
    """passes over the training set"""
    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 64
    """images per update"""
    learning_rate: PositiveFloat = 5e-4
    """Adam's learning rate (DCGAN: 2e-4)"""
    width: Annotated[int, Field(ge=1, le=512)] = 32
    """channels at the highest resolution, doubled at each lower one"""
    latent_dim: Annotated[int, Field(ge=1, le=10_000)] = 32
    """dimensions of the code z"""
    noise_std: PositiveFloat = 3.0
    """standard deviation of a feature given the code"""
    error_weight: PositiveFloat = 0.05
    """gamma: weight of the features' error in the decoder's loss"""


# --- the model -------------------------------------------------------------------------------

SHAPES = {28: (7, 2), 32: (4, 3)}  # side of the smallest feature maps, and how often it is doubled


class Discriminator(nn.Module):
    """DCGAN's layers that halve the side: images [n, c, size, size] in [-1, 1] -> features of the last convolution
    [n, k], and a linear function of them [n, outputs]: the logit of being a real image. An encoder has 2 * latent_dim
    outputs, mean and log-variance of q(z|x)."""

    def __init__(self, width: int, channels: int, size: int, outputs: int = 1):
        super().__init__()
        side, levels = SHAPES[size]
        widths = [width * 2**i for i in range(levels)]
        layers = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.layers, self.head = nn.Sequential(*layers, nn.Flatten()), nn.Linear(widths[-1] * side**2, outputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.layers(x)
        return features.float(), self.head(features).float()


def make_decoder(latent_dim: int, width: int, channels: int, size: int) -> nn.Sequential:
    """Codes [n, latent_dim] -> images in [-1, 1]; the generator of the GAN."""
    side, levels = SHAPES[size]
    widths = [width * 2**i for i in reversed(range(levels))]
    layers = [nn.Unflatten(1, (latent_dim, 1, 1)), nn.ConvTranspose2d(latent_dim, widths[0], side, bias=False)]
    for before, after in pairwise(widths):
        layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers)


def initialize(module: nn.Module):
    """DCGAN: weights from N(0, 0.02), scales of batch normalization from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def losses(networks: nn.ModuleList, x: torch.Tensor, noise_std: float) -> dict[str, torch.Tensor]:
    """Algorithm 1 for images x [n, c, size, size] in [-1, 1]: sums over dimensions, means over images."""
    encoder, decoder, discriminator = networks
    mu, logvar = encoder(x)[1].chunk(2, dim=1)
    z = mu + (0.5 * logvar).exp() * torch.randn_like(mu)
    recon, fake = decoder(torch.cat([z, torch.randn_like(z)])).chunk(2)  # of codes from q(z|x), and from the prior
    (features, on_real), (recon_features, on_recon), (_, on_fake) = map(discriminator, (x, recon, fake))
    return {
        "kl": 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1).mean(),  # L_prior
        "errors": 0.5 * ((features - recon_features) / noise_std).square().sum(1).mean(),  # L_llike
        "discriminator": (F.softplus(-on_real) + F.softplus(on_recon) + F.softplus(on_fake)).mean(),  # L_GAN
        "deception": (F.softplus(-on_recon) + F.softplus(-on_fake)).mean(),  # in place of -L_GAN, difference 2
    }


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SHA256 = {
    "mnist": {
        MNIST_URL + "train-images-idx3-ubyte.gz": "440fcabf73cc546f",
        MNIST_URL + "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79",
    },
    "cifar10": {"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a"},
}


def read_folder(folder: Path) -> torch.Tensor:
    """The readable images below a folder, cut to squares: uint8 [n, 3, 32, 32]."""
    from PIL import Image, ImageOps

    images, skipped = [], []
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        try:
            with Image.open(path) as image:
                images.append(np.asarray(ImageOps.fit(image.convert("RGB"), (32, 32))))
        except Exception as error:  # no image, or damaged, over which PIL raises nearly anything
            skipped.append(f"{path} ({error})")
    if len(images) < 100:
        raise UsageError(f"--data-dir {folder}: needs 100 readable images, has {len(images)} and {len(skipped)} others")
    if skipped:
        print(f"--data-dir {folder}: {len(skipped)} unreadable files are skipped, the first is {skipped[0]}")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def load_images(args: Args) -> list[torch.Tensor]:
    """Training and test images, uint8 [n, channels, size, size]; of a folder every tenth is a test image."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        images = torch.from_numpy(load_digits().images).float().unsqueeze(1) * (255 / 16)
        return F.interpolate(images, size=28, mode="bilinear").round().byte().split(1500)
    if args.dataset == "folder":
        images = read_folder(args.data_dir)
        test = torch.arange(len(images)) % 10 == 9
        return [images[~test], images[test]]
    splits = []
    for url, sha256 in SHA256[args.dataset].items():
        path = args.data_dir / url.rpartition("/")[2]
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
            if args.dataset == "mnist":
                content = bytearray(gzip.decompress(path.read_bytes()))
                splits.append(torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28))
            else:
                with tarfile.open(path, "r:gz") as tar:  # data_batch_1.bin to data_batch_5.bin, test_batch.bin
                    files = [tar.extractfile(name).read() for name in sorted(tar.getnames()) if name.endswith(".bin")]
                rows = torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8).view(-1, 3073)
                splits = rows[:, 1:].unflatten(1, (3, 32, 32)).split(len(rows) * 5 // 6)  # without the labels
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {url}: {error}") from None
    return splits


# --- training --------------------------------------------------------------------------------


def sharpness(images: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels of [n, c, h, w] in [0, 1]; not 0, as it is divided by."""
    return max(1e-9, (images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()).item())


def save_grid(images: torch.Tensor, columns: int, path: Path):
    """Images [n, c, h, w] in [0, 1] as a grid."""
    from PIL import Image, ImageOps

    rows = F.pad(images.expand(-1, 3, -1, -1), (1, 1, 1, 1), value=0.5).unflatten(0, (-1, columns))
    grid = (rows.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1) * 255).byte().cpu().numpy()
    ImageOps.scale(Image.fromarray(grid), 2, Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    images, test = (x.to(device) for x in load_images(args))  # your own: uint8 [n, channels, size, size], size 28 or 32
    channels, size = images.shape[1:3]
    encoder = Discriminator(args.width, channels, size, 2 * args.latent_dim)
    decoder = make_decoder(args.latent_dim, args.width, channels, size)
    discriminator = Discriminator(args.width, channels, size)
    networks = nn.ModuleList([encoder, decoder, discriminator]).apply(initialize).to(device)
    optimizer = torch.optim.Adam(networks.parameters(), lr=args.learning_rate, betas=(0.5, 0.999), fused=True)
    eval_rng = torch.Generator(device).manual_seed(0)  # evaluating does not change the training
    fixed, seen = torch.randn(1000, args.latent_dim, generator=eval_rng, device=device), test[:2000] / 255
    run, start = Run(args, args.dataset), time.perf_counter()

    for epoch in tqdm(range(1, args.epochs + 1), unit="epoch", disable=None):
        sums = torch.zeros(4, device=device)
        networks.train()
        for idx in torch.randperm(len(images), device=device).split(args.batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
                terms = losses(networks, images[idx] / 127.5 - 1, args.noise_std)
            decoder_loss = args.error_weight * terms["errors"] + terms["deception"]
            totals = terms["kl"] + terms["errors"], decoder_loss, terms["discriminator"]
            optimizer.zero_grad()
            for network, total in zip(networks, totals, strict=True):  # all gradients with the same parameters
                total.backward(inputs=list(network.parameters()), retain_graph=True)
            optimizer.step()
            sums += torch.stack(list(terms.values())).detach() * len(idx)

        networks.eval()
        with torch.no_grad():
            mu, _ = encoder(seen * 2 - 1)[1].chunk(2, dim=1)
            recon, samples = (decoder(z) * 0.5 + 0.5 for z in (mu, fixed))
        row = {
            "global_step": epoch * len(images),
            "charts/epoch": epoch,
            **{f"losses/{name}": mean for name, mean in zip(terms, (sums / len(images)).tolist(), strict=True)},
            "charts/SPS": epoch * len(images) / (time.perf_counter() - start),
            "eval/squared_error": (recon - seen).square().flatten(1).sum(1).mean().item(),
            "eval/sharpness": sharpness(samples) / sharpness(seen),
            "eval/sharpness_recon": sharpness(recon) / sharpness(seen),
        }
        run.log(row)
        states = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
        torch.save(states | {"discriminator": discriminator.state_dict()}, run.dir / "model.pt")

    save_grid(torch.cat([seen[:10], recon[:10], samples[:80]]), 10, run.dir / "samples.png")
    run.close("samples.png")
    print(f"sharpness of samples {row['eval/sharpness']:.2f}, squared error {row['eval/squared_error']:.2f}: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name[:50]}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            try:
                wandb.init(**names, config=asdict(args))  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)

    def log(self, row: dict):
        """Append a row to metrics.csv. The first row names the columns; None is an empty cell."""
        for name, value in row.items():
            if value is not None and not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {row['global_step']}: training diverged")
        self.rows.append(row)
        writer = csv.DictWriter(self.file, self.rows[0])
        if len(self.rows) == 1:
            writer.writeheader()
        writer.writerow(row)
        if self.wandb:
            self.wandb.log(row)

    def close(self, *pictures: str):
        self.file.close()
        if self.wandb:
            self.wandb.log({name: self.wandb.Image(str(self.dir / name)) for name in pictures})
            self.wandb.finish()


if __name__ == "__main__":
    try:
        train(tyro.cli(Args, description=__doc__))
    except (UsageError, FloatingPointError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
