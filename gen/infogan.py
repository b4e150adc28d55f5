# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow", "pydantic>=2.6", "scikit-learn", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""InfoGAN: a GAN that learns latent codes without labels, by maximizing the mutual information of code and image.

    python gen/infogan.py
    python gen/infogan.py --dataset mnist --updates 5700 --log-every 300 --bf16

The generator's input is noise, a categorical code and two continuous ones. A network Q, which shares the
discriminator's layers, infers the codes c from the image. G and Q both minimize -log Q(c|G(z, c)); the entropy of c
minus its mean is a lower bound of the mutual information of code and image. On MNIST the ten values of the categorical
code become the ten digits: eval/code_error is the error of Q as a classifier of test images, where each code stands for
the digit that most training images assigned to it show; labels are used for that alone. codes.png has a code in each
column and the same noise in each row; in its last two rows a continuous code goes from -1 to 1.

Chen et al. 2016, "InfoGAN" (arXiv 1606.03657): equation 6; the networks of appendix C.1, the error of section 7.2, 5 %.
Differences: (1) Networks are narrower (paper: --width 64, DENSE = 1024). (2) Q learns without changing shared layers,
which are to tell real from generated images; when they learned from both losses, codes had little to do with digits.
(3) Q's Gaussians for the continuous codes have a fixed standard deviation of 1. (4) Leaky ReLUs of 0.2 (paper: 0.1).
"""

import csv
import gzip
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

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

    dataset: Literal["digits", "mnist"] = "digits"
    """scikit-learn's digits, enlarged to 28x28, or MNIST, downloaded on first use"""
    data_dir: Path = Path("data")
    """where MNIST is kept"""
    updates: PositiveInt = 1000
    """updates of each network"""
    batch_size: Annotated[int, Field(ge=2, le=10_000)] = 64
    """images per update"""
    learning_rate: PositiveFloat = 2e-4
    """Adam's learning rate for the discriminator and Q"""
    generator_learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate for the generator"""
    width: PositiveInt = 32
    """channels at 14x14, doubled at 7x7 (the paper: 64)"""
    latent_dim: PositiveInt = 62
    """dimensions of the noise z, uniform in [-1, 1]"""
    codes: Annotated[int, Field(ge=2)] = 10
    """values of the categorical code"""
    log_every: PositiveInt = 100
    """updates between rows of metrics.csv"""


# --- the model -------------------------------------------------------------------------------

DENSE = 256  # units of the dense layer that both networks have (the paper: 1,024)


def make_generator(size: int, width: int) -> nn.Sequential:
    """Noise and codes [n, size] -> images [n, 1, 28, 28] in [-1, 1]."""
    return nn.Sequential(
        nn.Unflatten(1, (size, 1, 1)),
        *(nn.Conv2d(size, DENSE, 1, bias=False), nn.BatchNorm2d(DENSE), nn.ReLU()),
        *(nn.ConvTranspose2d(DENSE, 2 * width, 7, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU()),
        *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh()),
    )


class Discriminator(nn.Module):
    """Images [n, 1, 28, 28] -> features -> logit of being a training image [n]; Q's logits and means [n, num_codes]."""

    def __init__(self, num_codes: int, width: int):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(2 * width, DENSE, 7, bias=False), nn.BatchNorm2d(DENSE), nn.LeakyReLU(0.2)),
        )
        self.logit = nn.Sequential(nn.Conv2d(DENSE, 1, 1), nn.Flatten(0))
        hidden = nn.Conv2d(DENSE, 128, 1, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)
        self.q = nn.Sequential(*hidden, nn.Conv2d(128, num_codes, 1), nn.Flatten())


def initialize(module: nn.Module):
    """DCGAN: weights from N(0, 0.02), scales of batch normalization from N(1, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sample_latents(num: int, args: Args, device: torch.device) -> torch.Tensor:
    """Noise, one-hot code and two continuous codes [num, latent_dim + codes + 2]."""
    noise = torch.rand(num, args.latent_dim, device=device) * 2 - 1
    code = F.one_hot(torch.randint(args.codes, (num,), device=device), args.codes)
    return torch.cat([noise, code, torch.rand(num, 2, device=device) * 2 - 1], dim=1)


def code_nll(q: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log Q(c|x) of the categorical code and of the continuous ones, but for a constant: q and c [n, codes + 2]."""
    return F.cross_entropy(q[:, :-2], c[:, :-2]), 0.5 * (q[:, -2:] - c[:, -2:]).square().sum(1).mean()


# --- data ------------------------------------------------------------------------------------

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546f",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbe",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6d",
}


def load_images(args: Args) -> list[torch.Tensor]:
    """Training images, uint8 [n, 1, 28, 28], and labels [n], then those of the test set."""
    if args.dataset == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images = F.interpolate(pixels.float().view(-1, 1, 8, 8) * (255 / 16), size=28, mode="bilinear").round().byte()
        return [images[:1500], labels[:1500], images[1500:], labels[1500:]]
    tensors = []
    for name, sha256 in MNIST_SHA256.items():
        path = args.data_dir / name
        try:
            if not path.exists():
                args.data_dir.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(MNIST_URL + name, str(path), hash_prefix=sha256)
            header, shape = (16, (-1, 1, 28, 28)) if "images" in name else (8, (-1,))
            content = bytearray(gzip.decompress(path.read_bytes()))
            tensors.append(torch.frombuffer(content, dtype=torch.uint8, offset=header).view(shape))
        except Exception as error:  # no connection, or a damaged or foreign file
            raise UsageError(f"--data-dir: cannot read {path}, or download it from {MNIST_URL}: {error}") from None
    return tensors


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def code_error(discriminator: Discriminator, data: list[torch.Tensor], codes: int) -> float:
    """Error of the categorical code as a classifier: data are training images and labels, test images and labels.

    In training mode, with the batch statistics of a thousand real images: the running ones mix in generated images.
    """
    images, labels, test, test_labels = data[0][:10_000], data[1][:10_000].long(), data[2], data[3].long()
    q = [discriminator.q(discriminator.features(part / 127.5 - 1)) for x in (images, test) for part in x.split(1000)]
    found, test_found = torch.cat(q)[:, :codes].argmax(1).tensor_split([len(images)])
    counts = F.one_hot(found, codes).T.float() @ F.one_hot(labels).float()  # [code, digit]
    return (counts.argmax(1)[test_found] != test_labels).float().mean().item()


def save_grid(images: torch.Tensor, columns: int, path: Path):
    """Images [n, 1, 28, 28] in [0, 1] as a grid."""
    from PIL import Image, ImageOps

    grid = F.pad(images, (1, 1, 1, 1), value=0.5).view(-1, columns, 30, 30).transpose(1, 2).flatten(2).flatten(0, 1)
    ImageOps.scale(Image.fromarray((grid * 255).byte().cpu().numpy()), 2, Image.Resampling.NEAREST).save(path)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    torch.backends.cudnn.deterministic = args.torch_deterministic
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    data = [tensor.to(device) for tensor in load_images(args)]  # your own: uint8 [n, 1, 28, 28], labels [n], twice
    images, num_codes = data[0], args.codes + 2
    generator = make_generator(args.latent_dim + num_codes, args.width).apply(initialize).to(device)
    discriminator = Discriminator(num_codes, args.width).apply(initialize).to(device)
    adam_g = torch.optim.Adam(generator.parameters(), lr=args.generator_learning_rate, betas=(0.5, 0.999), fused=True)
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=args.learning_rate, betas=(0.5, 0.999), fused=True)
    run, start = Run(args, args.dataset), time.perf_counter()

    for update in tqdm(range(1, args.updates + 1), unit="update", disable=None):
        real = images[torch.randint(len(images), (args.batch_size,), device=device)] / 127.5 - 1
        latents = sample_latents(args.batch_size, args, device)
        c = latents[:, args.latent_dim :]
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            fake = generator(latents)
            on_real = discriminator.logit(discriminator.features(real))
            features = discriminator.features(fake.detach())
            on_fake, q = discriminator.logit(features), discriminator.q(features.detach())
        loss_d = (F.softplus(-on_real.float()) + F.softplus(on_fake.float())).mean()  # -log D(x) - log(1 - D(G(z, c)))
        adam_d.zero_grad()
        (loss_d + sum(code_nll(q.float(), c))).backward()
        adam_d.step()

        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            features = discriminator.features(fake)
            on_fake, q = discriminator.logit(features), discriminator.q(features)
        categorical, continuous = code_nll(q.float(), c)
        loss_g = F.softplus(-on_fake.float()).mean() + categorical + continuous  # equation 6; the GAN's part: -log D
        adam_g.zero_grad()
        loss_g.backward(inputs=list(generator.parameters()))
        adam_g.step()

        if update % args.log_every == 0 or update == args.updates:
            row = {
                "global_step": update,
                "losses/discriminator": loss_d.item(),
                "losses/generator": loss_g.item(),
                "losses/information": math.log(args.codes) - categorical.item(),  # bound of I(c; x), c categorical
                "charts/SPS": update * args.batch_size / (time.perf_counter() - start),  # images
                "eval/code_error": code_error(discriminator, data, args.codes),
            }
            run.log(row)
            states = {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}
            torch.save(states, run.dir / "model.pt")

    z = sample_latents(12, args, device).unsqueeze(1).repeat(1, args.codes, 1)  # [row, column, latents]
    z[:10, :, args.latent_dim : -2] = torch.eye(args.codes, device=device)
    z[10, :, -2] = z[11, :, -1] = torch.linspace(-1, 1, args.codes, device=device)
    save_grid(generator.eval()(z.flatten(0, 1)) * 0.5 + 0.5, args.codes, run.dir / "codes.png")  # running statistics
    run.close("codes.png")
    print(f"code error {row['eval/code_error']:.1%} on test images after {args.updates} updates: {run.dir}")
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
