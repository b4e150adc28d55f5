"""Supervised learning as the reference of algos/reinforce_mnist.py: its network, data, learning rate; cross-entropy.

python -m benchmarks.cross_entropy_mnist --run-dir runs/cross-entropy
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import tyro

from algos.reinforce_mnist import Args, load_data, policy_network
from benchmarks.rows import write_rows


def train(settings: Args):
    images, labels, test_images, test_labels = load_data(settings)
    network = policy_network(images.shape[1])
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate)
    for step in range(settings.batch_size, settings.total_timesteps + 1, settings.batch_size):
        idx = torch.randint(len(images), (settings.batch_size,))
        loss = F.cross_entropy(network(images[idx]), labels[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10_000 == 0 or step == settings.total_timesteps:
            accuracy = (network(test_images).argmax(1) == test_labels).float().mean().item()
            yield {"global_step": step, "eval/test_accuracy": accuracy}


def main(run_dir: Path, seed: int = 1, total_timesteps: int = 200_000):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    write_rows(run_dir, train(Args(dataset="mnist", total_timesteps=total_timesteps)))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
