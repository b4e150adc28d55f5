# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "pydantic>=2.6", "torch>=2.4", "tqdm", "tyro>=0.9.2", "wandb"]
# ///
"""RealNVP in the plane: a normalizing flow fitted to densities that are known exactly, so that the error is known, too.

    python gen/flow_2d.py
    python gen/flow_2d.py --dataset rings --couplings 24 --batch-size 1000 --updates 3000

A coupling keeps one coordinate, and a small network of it scales and shifts the other; the coordinates take turns. The
sources are mixtures of isotropic Gaussians along a curve. The mean of log q(x) - log p(x) over test points of q, the
source, estimates KL(q || p), p the flow's density: 0 only if both are the same. A flow is a homeomorphism and cannot
change topology: thin filaments connect the modes of separate Gaussians, and the rings stay cut open.

Dinh, Sohl-Dickstein & Bengio 2016, "Density estimation using Real NVP" (arXiv 1605.08803), equations 7 and 8.
Differences: SiLU in place of ReLU, whose densities have kinks; gradients are clipped; the learning rate decreases
linearly to 0.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from tqdm import tqdm


@dataclass(config={"allow_inf_nan": False})
class Args:
    exp_name: str = Path(__file__).stem
    """name of the experiment"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """seed of the experiment"""
    cuda: bool = False
    """use a GPU if there is one; these networks are too small to gain from it"""
    track: bool = False
    """log to Weights & Biases as well"""
    wandb_project_name: str = "classics"
    """Weights & Biases project"""
    wandb_entity: str | None = None
    """Weights & Biases team"""
    run_dir: Path | None = None
    """folder for the results; default: a new one under runs/"""

    dataset: Literal["moons", "rings", "spirals", "gaussians"] = "moons"
    """source of the points"""
    updates: PositiveInt = 4000
    """gradient steps, each on new points"""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 250
    """points per update"""
    learning_rate: PositiveFloat = 5e-3
    """Adam's learning rate, annealed to 0"""
    couplings: Annotated[int, Field(ge=1, le=1000)] = 12
    """coupling layers"""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """units of both hidden layers of each coupling's network"""


# --- the model -------------------------------------------------------------------------------


class Flow(nn.Module):
    """Points x [n, 2] <-> Gaussian latents z [n, 2]."""

    def __init__(self, couplings: int, hidden: int):
        super().__init__()
        self.networks = nn.ModuleList()
        for _ in range(couplings):
            first, second = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
            self.networks.append(nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), nn.Linear(hidden, 2)))
            self.networks[-1][-1].weight.data.zero_()  # at first a coupling is the same affine map everywhere

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z = f(x) and log |det df/dx| [n]."""
        kept, changed = x.chunk(2, dim=1)
        log_det = torch.zeros_like(kept)
        for network in self.networks:
            s, t = network(kept).chunk(2, dim=1)
            s = s.tanh()  # bounded
            kept, changed = changed * s.exp() + t, kept  # the next coupling keeps what this one has changed
            log_det = log_det + s
        return torch.cat([kept, changed], dim=1), log_det.squeeze(1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """x = f^-1(z)."""
        kept, changed = z.chunk(2, dim=1)
        for network in reversed(self.networks):
            s, t = network(changed).chunk(2, dim=1)
            kept, changed = changed, (kept - t) * (-s.tanh()).exp()
        return torch.cat([kept, changed], dim=1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) [n] by the change of variables."""
        z, log_det = self.encode(x)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1)


# --- the sources -----------------------------------------------------------------------------


def circle(turns: torch.Tensor) -> torch.Tensor:
    """Points [k, 2] of the unit circle at these angles [k], in turns."""
    return torch.stack([torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)], dim=1)


def make_source(dataset: str, device: torch.device) -> MixtureSameFamily:
    """A mixture of equally likely round Gaussians, close together on curves, or eight far apart."""
    t = (torch.arange(100) + 0.5) / 100
    moon = 2 * circle(t / 2) - torch.tensor([1.0, 0.5])
    arm = 2.5 * t.sqrt().unsqueeze(1) * circle(1.25 * t.sqrt())
    means, std = {
        "moons": (torch.cat([moon, -moon]), 0.2),
        "rings": (torch.cat([circle(t), 2 * circle(t)]), 0.16),
        "spirals": (torch.cat([arm, -arm]), 0.16),
        "gaussians": (2 * circle(torch.arange(8) / 8), 0.25),
    }[dataset]
    weights = Categorical(torch.ones(len(means), device=device))
    return MixtureSameFamily(weights, Independent(Normal(means.to(device), std), 1))


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def save_density(source: MixtureSameFamily, model: Flow, path: Path):
    """The densities of the source and of the flow, and samples of the flow, in a square."""
    from matplotlib.figure import Figure

    limit, device = 3.4, source.component_distribution.mean.device
    side = torch.linspace(-limit, limit, 200, device=device)
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    *panels, last = figure.subplots(1, 3)
    for axes, density, title in zip(panels, (source, model), ("source q(x)", "flow p(x)"), strict=True):
        p = density.log_prob(torch.cartesian_prod(side, side)).exp().view(200, 200)  # [x, y]
        axes.imshow(p.T.tolist(), extent=(-limit, limit, -limit, limit), origin="lower", cmap="magma")
        axes.set(title=title)
    last.scatter(*model.decode(torch.randn(4000, 2, device=device)).T.tolist(), s=2, linewidths=0)
    last.set(title="samples of the flow", xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    figure.savefig(path, dpi=110)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    source = make_source(args.dataset, device)
    torch.manual_seed(0)
    test = source.sample((10_000,))  # the same for every seed
    source_nll = -source.log_prob(test).mean().item()
    torch.manual_seed(args.seed)
    model = Flow(args.couplings, args.hidden).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.updates)
    run, start = Run(args, args.dataset), time.perf_counter()

    for step in tqdm(range(1, args.updates + 1), unit="update", disable=None):
        loss = -model.log_prob(source.sample((args.batch_size,))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        anneal.step()
        if step % math.ceil(args.updates / 20) == 0 or step == args.updates:
            with torch.no_grad():
                nll = -model.log_prob(test).mean().item()
            row = {
                "global_step": step * args.batch_size,
                "eval/nll": nll,
                "eval/above_source": nll - source_nll,
                "charts/SPS": step * args.batch_size / (time.perf_counter() - start),
            }
            run.log(row)

    torch.save({"model": model.state_dict()}, run.dir / "model.pt")
    save_density(source, model, run.dir / "density.png")
    run.close("density.png")
    print(f"test -log p(x) {nll:.4f} nats, {nll - source_nll:.4f} above the source's {source_nll:.4f}: {run.dir}")
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
