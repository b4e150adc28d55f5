# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
# ]
# ///
"""pix2pix's training step in the most common manner, timed in CPU seconds.

    python benchmarks/peers/plain_pix2pix.py --run-dir runs/plain

What gen/colorizer.py's step is measured against: U-Net and 70x70 PatchGAN of pix2pix's sizes with batch normalization,
float32, contiguous tensors, PyTorch's Adam as it comes, a DataLoader; the discriminator's update, then the generator's
with the discriminator frozen. Lines, hint and picture (1, 3 and 3 channels) are noise, which costs as much as pictures.
A row is an update: time/elapsed are the CPU seconds so far, the first update, which warms up, left out.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class UnetBlock(nn.Module):
    def __init__(self, outer, inner, inputs=None, submodule=None, outermost=False, innermost=False):
        super().__init__()
        self.outermost = outermost
        inputs = inputs or outer
        down_conv = nn.Conv2d(inputs, inner, 4, stride=2, padding=1, bias=outermost or innermost)
        up_conv = nn.ConvTranspose2d(inner if innermost else inner * 2, outer, 4, stride=2, padding=1, bias=outermost)
        if outermost:
            layers = [down_conv, submodule, nn.ReLU(), up_conv, nn.Tanh()]
        elif innermost:
            layers = [nn.LeakyReLU(0.2), down_conv, nn.ReLU(), up_conv, nn.BatchNorm2d(outer)]
        else:
            down = [nn.LeakyReLU(0.2), down_conv, nn.BatchNorm2d(inner)]
            layers = [*down, submodule, nn.ReLU(), up_conv, nn.BatchNorm2d(outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


def unet(inputs, outputs, size, width=64):
    num_downs = size.bit_length() - 1
    block = UnetBlock(width * 8, width * 8, innermost=True)
    for _ in range(num_downs - 5):
        block = UnetBlock(width * 8, width * 8, submodule=block)
    for factor in (4, 2, 1):
        block = UnetBlock(width * factor, width * factor * 2, submodule=block)
    return UnetBlock(outputs, width, inputs=inputs, submodule=block, outermost=True)


def patch_discriminator(inputs, width=64):
    layers = [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for before, after, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
        layers += [
            nn.Conv2d(width * before, width * after, 4, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width * after),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(width * 8, 1, 4, stride=1, padding=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--updates", type=int, default=10, help="updates that are timed")
    parser.add_argument("--run-dir", type=Path, required=True, help="folder for metrics.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    count = args.batch_size * (args.updates + 1)
    data = TensorDataset(*(torch.rand(count, c, args.size, args.size) * 2 - 1 for c in (4, 3)))
    loader = DataLoader(data, batch_size=args.batch_size, shuffle=True)
    generator, discriminator = unet(4, 3, args.size), patch_discriminator(7)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    bce, l1 = nn.BCEWithLogitsLoss(), nn.L1Loss()

    args.run_dir.mkdir(parents=True, exist_ok=True)
    with (args.run_dir / "metrics.csv").open("w", newline="", buffering=1) as file:
        rows = csv.writer(file)
        rows.writerow(["global_step", "losses/l1", "time/elapsed"])
        for step, (condition, real) in enumerate(loader):
            if step == 1:
                start = time.process_time()
            fake = generator(condition)

            for parameter in discriminator.parameters():
                parameter.requires_grad = True
            optimizer_d.zero_grad()
            pred_fake = discriminator(torch.cat([condition, fake.detach()], 1))
            pred_real = discriminator(torch.cat([condition, real], 1))
            loss_d = (bce(pred_fake, torch.zeros_like(pred_fake)) + bce(pred_real, torch.ones_like(pred_real))) * 0.5
            loss_d.backward()
            optimizer_d.step()

            for parameter in discriminator.parameters():
                parameter.requires_grad = False
            optimizer_g.zero_grad()
            pred_fake = discriminator(torch.cat([condition, fake], 1))
            loss_l1 = l1(fake, real)
            (bce(pred_fake, torch.ones_like(pred_fake)) + 100 * loss_l1).backward()
            optimizer_g.step()
            if step:
                rows.writerow([args.batch_size * step, loss_l1.item(), time.process_time() - start])


if __name__ == "__main__":
    main()
