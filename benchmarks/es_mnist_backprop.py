"""Backpropagation on the network of algos/es_mnist.py, which it takes for a linear one.

    python -m benchmarks.es_mnist_backprop --run-dir runs/backprop

Underflow passes gradients on as they are (straight-through): backpropagation differentiates the formulas.
"""

from pathlib import Path

import torch
import tyro

from algos import es_mnist
from algos.es_mnist import Args, accuracy, initial_parameters, load_data, network
from benchmarks.rows import write_rows

UNDERFLOW = es_mnist.underflow


def train(num_updates: int):
    images, labels, test_images, test_labels = load_data(Args(dataset="mnist"))
    parameters = [p.requires_grad_() for p in initial_parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.001)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_updates)
    for update in range(1, num_updates + 1):
        idx = torch.randint(len(images), (100,))
        loss = torch.nn.functional.cross_entropy(network(parameters, images[idx]), labels[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % 600 == 0:
            exact = [p.detach().double() for p in parameters]
            yield {
                "global_step": update * 100,
                "losses/loss": loss.item(),
                "eval/test_accuracy": accuracy(parameters, test_images, test_labels),
                "eval/test_accuracy_float64": accuracy(exact, test_images.double(), test_labels),
                "eval/train_accuracy": accuracy(parameters, images, labels) if update == num_updates else None,
            }


def main(run_dir: Path, seed: int = 1, num_updates: int = 6000):
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    es_mnist.underflow = lambda z: z + (UNDERFLOW(z) - z).detach()
    write_rows(run_dir, train(num_updates))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
