"""What gen/revnet.py stores for the backward pass, over the number of blocks, and how well its networks invert.

    python -m benchmarks.revnet_memory --run-dir runs/memory

metrics.csv has a row for each depth, with the channels of RevNet-38 (9 blocks) at initialization, for ten test images
of CIFAR-10: MB an image of every tensor that PyTorch saves in a forward pass, with recomputed and with stored
activations, and the largest error of the inversion anywhere in the network.
"""

from pathlib import Path

import torch
import tyro

from benchmarks.rows import write_rows
from gen.revnet import Args, RevNet, load_data


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


def measure(seed: int):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    args = Args(dataset="cifar10")
    images, _, n = load_data(args)
    x = images[n : n + 10]
    for step, blocks in enumerate((1, 3, 11, 43), start=1):
        computing, storing = (RevNet(3, blocks, args.channels, store_activations=store) for store in (False, True))
        error = max((before - back).abs().max().item() for before, back in computing.invert(x))
        megabytes = [stored_bytes(model, x) / len(x) / 1e6 for model in (computing, storing)]
        row = {"global_step": step, "blocks": 3 * blocks, "computed_mb": megabytes[0], "stored_mb": megabytes[1]}
        yield row | {"inversion_error": error}


def main(run_dir: Path, seed: int = 1):
    write_rows(run_dir, measure(seed))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
