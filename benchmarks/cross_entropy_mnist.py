"""Supervised learning as the reference of algos/reinforce_mnist.py: its network, data and step size, the cross-entropy.

python benchmarks/cross_entropy_mnist.py --run-dir runs/cross-entropy
"""

import argparse
import csv
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algos.reinforce_mnist import Args, load_images, policy_network


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--dataset", default="mnist", choices=["digits", "mnist"])
    parser.add_argument("--total-timesteps", type=int, default=200_000, help="images")
    args = parser.parse_args()
    args.run_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    settings = Args(dataset=args.dataset, total_timesteps=args.total_timesteps)
    images, labels, test_images, test_labels = load_images(settings)
    network = policy_network(images.shape[1], settings.num_units)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate)
    with (args.run_dir / "metrics.csv").open("x", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["global_step", "eval/test_accuracy"])
        for step in range(settings.batch_size, args.total_timesteps + 1, settings.batch_size):
            idx = torch.randint(len(images), (settings.batch_size,))
            loss = F.cross_entropy(network(images[idx]), labels[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % settings.log_every == 0 or step == args.total_timesteps:
                accuracy = (network(test_images).argmax(1) == test_labels).float().mean().item()
                writer.writerow([step, accuracy])


if __name__ == "__main__":
    main()
