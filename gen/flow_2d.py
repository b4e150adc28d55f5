# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib", "pydantic>=2", "torch>=2.4", "tqdm", "tyro>=0.9", "wandb"]
# ///
"""RealNVP in the plane: affine couplings fitted to densities that are known exactly, so that the error is known, too.

    python gen/flow_2d.py
    python gen/flow_2d.py --dataset rings --couplings 24 --batch-size 1000 --updates 3000

A coupling keeps one coordinate, and a small network of it scales and shifts the other; the coordinates take turns. The
sources are mixtures of isotropic Gaussians along a curve. The mean of log q(x) - log p(x) over test points of q, the
source, estimates KL(q || p), p the flow's density: 0 only if both are the same. A flow is a homeomorphism and cannot
change topology: thin filaments connect the modes of separate Gaussians, and rings keep a cut.

Dinh, Sohl-Dickstein & Bengio 2016, "Density estimation using Real NVP" (arXiv 1605.08803), equations 7 and 8.
Differences: SiLU in place of ReLU networks, whose densities have folds; the learning rate decreases linearly to 0.
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
        self.s_scale, self.networks = nn.Parameter(torch.ones(couplings)), nn.ModuleList()
        for _ in range(couplings):
            output = nn.Linear(hidden, 2)
            nn.init.zeros_(output.weight)  # the flow starts as the identity
            nn.init.zeros_(output.bias)
            layers = nn.Linear(1, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), output
            self.networks.append(nn.Sequential(*layers))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z = f(x) and log |det df/dx| [n]."""
        kept, changed = x.chunk(2, dim=1)
        log_det = torch.zeros_like(kept)
        for network, s_scale in zip(self.networks, self.s_scale, strict=True):
            s, t = network(kept).chunk(2, dim=1)
            s = s_scale * s.tanh()  # bounded, by learned limits
            kept, changed = changed * s.exp() + t, kept  # the next coupling keeps what this one has changed
            log_det = log_det + s
        return torch.cat([kept, changed], dim=1), log_det.squeeze(1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """x = f^-1(z)."""
        kept, changed = z.chunk(2, dim=1)
        for network, s_scale in zip(reversed(self.networks), self.s_scale.flip(0), strict=True):
            s, t = network(changed).chunk(2, dim=1)
            kept, changed = changed, (kept - t) * (-s_scale * s.tanh()).exp()
        return torch.cat([kept, changed], dim=1)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) [n] by the change of variables."""
        z, log_det = self.encode(x)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1)


# --- the sources -----------------------------------------------------------------------------


def circle(turns: torch.Tensor) -> torch.Tensor:
    """Points [k, 2] of the unit circle: turns [k]."""
    return torch.stack([torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)], dim=1)


class Source:
    """A mixture of equally likely round Gaussians with these means [k, 2] and this standard deviation."""

    def __init__(self, dataset: str, device: torch.device):
        t = (torch.arange(400) + 0.5) / 400
        moon = 2 * circle(t / 2) - torch.tensor([1.0, 0.5])
        arm = 2.5 * t.sqrt().unsqueeze(1) * circle(1.25 * t.sqrt())
        means, self.std = {
            "moons": (torch.cat([moon, -moon]), 0.2),
            "rings": (torch.cat([circle(t), 2 * circle(t)]), 0.16),
            "spirals": (torch.cat([arm, -arm]), 0.16),
            "gaussians": (2 * circle(torch.arange(8) / 8), 0.25),
        }[dataset]
        self.means = means.to(device)

    def sample(self, n: int) -> torch.Tensor:
        means = self.means[torch.randint(len(self.means), (n,), device=self.means.device)]
        return means + self.std * torch.randn_like(means)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log q(x) [n], exactly."""
        squares = (x.unsqueeze(1) - self.means).square().sum(dim=2)  # [n, k]
        log_q = -0.5 * squares / self.std**2 - math.log(2 * math.pi * self.std**2)
        return log_q.logsumexp(dim=1) - math.log(len(self.means))


# --- training --------------------------------------------------------------------------------


@torch.no_grad()
def save_density(model: Flow, x: torch.Tensor, path: Path):
    """Three panels: source points x [n, 2] and samples, the density, a grid of latents as f^-1 warps it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    points, density, warped = figure.subplots(1, 3)
    points.scatter(*x.T.tolist(), s=2, linewidths=0, color="gray", label="source")
    samples = model.decode(torch.randn_like(x))
    points.scatter(*samples.T.tolist(), s=2, linewidths=0, color="tab:red", alpha=0.6, label="samples")
    points.legend(loc="upper right", markerscale=4, frameon=False)
    side = torch.linspace(-3.4, 3.4, 240, device=x.device)
    p = model.log_prob(torch.cartesian_prod(side, side)).exp().view(240, 240)  # [x, y]
    density.imshow(p.T.tolist(), extent=(-3.4, 3.4, -3.4, 3.4), origin="lower", cmap="magma")
    warped.scatter(*x.T.tolist(), s=2, linewidths=0, color="tab:blue")
    lines = torch.cartesian_prod(torch.linspace(-3, 3, 13), torch.linspace(-3, 3, 400)).view(13, 400, 2).to(x.device)
    for z in (*lines, *lines.flip(2)):
        warped.plot(*model.decode(z).T.tolist(), color="black", linewidth=0.6)
    for axes, title in zip(figure.axes, ("source and samples", "density p(x)", "f^-1 of a grid"), strict=True):
        axes.set(title=title, xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), aspect="equal")
    figure.savefig(path, dpi=110)


def train(args: Args) -> dict:
    """Train; returns the last row of metrics.csv."""
    torch.set_num_threads(1)  # so that results do not depend on the number of cores
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    source = Source(args.dataset, device)
    torch.manual_seed(0)
    test = source.sample(10_000)  # the same for every seed
    source_nll = -torch.cat([source.log_prob(x) for x in test.split(1000)]).mean().item()
    torch.manual_seed(args.seed)
    model = Flow(args.couplings, args.hidden).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate, fused=True)
    anneal = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, args.updates)
    run, start, losses = Run(args, args.dataset), time.perf_counter(), []

    for step in tqdm(range(1, args.updates + 1), unit="update", disable=None):
        loss = -model.log_prob(source.sample(args.batch_size)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        anneal.step()
        losses.append(loss.detach())
        if step % math.ceil(args.updates / 20) == 0 or step == args.updates:
            with torch.no_grad():
                nll = -model.log_prob(test).mean().item()
            row = {
                "global_step": step * args.batch_size,
                "losses/nll": torch.stack(losses).mean().item(),
                "eval/nll": nll,
                "eval/above_source": nll - source_nll,
                "charts/SPS": step * args.batch_size / (time.perf_counter() - start),
            }
            run.log(row)
            losses = []

    torch.save({"model": model.state_dict()}, run.dir / "model.pt")
    save_density(model, test[:4000], run.dir / "density.png")
    run.close("density.png")
    print(f"test -log p(x) {nll:.4f} nats, {nll - source_nll:.4f} above the source's {source_nll:.4f}: {run.dir}")
    return row


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


class Run:
    """runs/<name>/ with args.json and metrics.csv; with --track also Weights & Biases."""

    def __init__(self, args: Args, task: str):
        name = re.sub(r"[^\w.-]+", "_", f"{task}__{args.exp_name}__{args.seed}__{time.time():.3f}")
        self.dir, self.rows, self.wandb = args.run_dir or Path("runs", name), [], None
        if args.track:
            import wandb

            try:
                wandb.login()  # without a key it fails here, before the folder exists
            except wandb.Error as error:
                raise UsageError(f"--track: {error}") from None
        self.dir.mkdir(parents=True)
        (self.dir / "args.json").write_text(json.dumps(asdict(args), indent=2, default=str))
        self.file = (self.dir / "metrics.csv").open("w", newline="", buffering=1)
        if args.track:
            self.wandb, names = wandb, {"project": args.wandb_project_name, "entity": args.wandb_entity, "name": name}
            wandb.init(**names, config=asdict(args), dir=self.dir)

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
    except (UsageError, FloatingPointError, OSError, KeyboardInterrupt) as error:
        raise SystemExit(str(error) or "interrupted: the rows so far are in the run's folder") from None
