"""What gen/revnet.py stores for the backward pass, over the number of blocks, and how well its networks invert.

    python benchmarks/revnet_memory.py --run-dir runs/memory

metrics.csv has a row for each depth, with the channels of RevNet-38 (9 blocks) at initialization, for ten test images
of CIFAR-10:

    computed_mb, stored_mb  MB an image of every tensor that PyTorch saves in a forward pass, with recomputed and with
                            stored activations: each memory once, parameters not counted
    inversion_error         the largest one anywhere in the network
"""

import argparse
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gen.revnet import Args, RevNet, load_data

DEPTHS = [(2, 3, 3), (3, 3, 3), (10, 11, 11), (42, 43, 43)]
COLUMNS = ["global_step", "blocks", "computed_mb", "stored_mb", "inversion_error"]


def stored_bytes(model: RevNet, x: torch.Tensor) -> int:
    """Bytes that a forward pass stores for the backward pass, each memory once, without parameters."""
    stored, parameters = {}, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(x)  # alive until all is counted, so that no memory is used twice
    del logits
    return sum(stored.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of CIFAR-10")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(flags.seed)
    args = Args(dataset="cifar10", data_dir=flags.data_dir)
    images = load_data(args)[2][:10].float()
    x = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    flags.run_dir.mkdir(parents=True)
    with (flags.run_dir / "metrics.csv").open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for step, blocks in enumerate(DEPTHS, start=1):
            computing, storing = (RevNet(3, blocks, args.filters, store_activations=store) for store in (False, True))
            error = max((before - back).abs().max().item() for before, _, back in computing.invert(x))
            megabytes = [stored_bytes(model, x) / len(x) / 1e6 for model in (computing, storing)]
            rows.writerow([step, sum(blocks), *megabytes, error])


if __name__ == "__main__":
    main()
