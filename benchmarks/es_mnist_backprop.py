"""Backpropagation on the network of algos/es_mnist.py, which it takes for a linear one.

    python benchmarks/es_mnist_backprop.py --run-dir runs/backprop

Underflow passes gradients on as they are (straight-through): backpropagation differentiates the formulas.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos import es_mnist
from algos.es_mnist import Args, Run, accuracy, initial_parameters, load_data, network

UNDERFLOW = es_mnist.underflow


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--total-timesteps", type=int, default=600_000, help="images")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--log-every", type=int, default=600, help="updates between rows")
    flags = parser.parse_args()
    torch.manual_seed(flags.seed)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    es_mnist.underflow = lambda z: z + (UNDERFLOW(z) - z).detach()
    images, labels, test_images, test_labels = load_data(Args(dataset="mnist", data_dir=flags.data_dir))
    parameters = [p.requires_grad_() for p in initial_parameters()]
    optimizer, num_updates = torch.optim.Adam(parameters, lr=0.001), flags.total_timesteps // flags.batch_size
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_updates)
    run = Run(Args(seed=flags.seed, run_dir=flags.run_dir), "mnist")
    for update in range(1, num_updates + 1):
        idx = torch.randint(len(images), (flags.batch_size,))
        loss = torch.nn.functional.cross_entropy(network(parameters, images[idx]), labels[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % flags.log_every == 0:
            exact = [p.detach().double() for p in parameters]
            run.log(
                {
                    "global_step": update * flags.batch_size,
                    "losses/loss": loss.item(),
                    "eval/test_accuracy": accuracy(parameters, test_images, test_labels),
                    "eval/test_accuracy_float64": accuracy(exact, test_images, test_labels),
                    "eval/train_accuracy": accuracy(parameters, images, labels) if update == num_updates else None,
                }
            )
    run.close()
    print(run.rows[-1])


if __name__ == "__main__":
    main()
