# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy==2.4.6", "torch==2.13.0"]
# ///
"""DRAW as it is most often written in PyTorch, eager and float32, to measure gen/draw.py against: MNIST, CPU seconds.

    python benchmarks/peers/plain_draw.py --updates 300 --run-dir runs/plain

The settings are the paper's for MNIST but for T = 10: z = 100, LSTM 256, read 2x2, write 5x5, batches of 128, each
binarized anew. A row is 20 updates: time/elapsed are the CPU seconds so far, losses/loss their mean bound in nats.
"""

import gzip
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.rows import flags_of, write_rows

A = B = 28


class DrawModel(nn.Module):
    def __init__(self, T=10, z_size=100, enc_size=256, dec_size=256, read_N=2, write_N=5):
        super().__init__()
        self.T, self.z_size, self.enc_size, self.dec_size = T, z_size, enc_size, dec_size
        self.read_N, self.write_N = read_N, write_N
        self.encoder = nn.LSTMCell(2 * read_N * read_N + dec_size, enc_size)
        self.fc_mu, self.fc_sigma = nn.Linear(enc_size, z_size), nn.Linear(enc_size, z_size)
        self.decoder = nn.LSTMCell(z_size, dec_size)
        self.fc_read, self.fc_attention = nn.Linear(dec_size, 5), nn.Linear(dec_size, 5)
        self.fc_write = nn.Linear(dec_size, write_N * write_N)

    def filterbank(self, parameters, N):
        gx, gy, log_sigma2, log_delta, log_gamma = parameters.split(1, 1)
        gx, gy = (A + 1) / 2 * (gx + 1), (B + 1) / 2 * (gy + 1)
        delta = (max(A, B) - 1) / (N - 1) * torch.exp(log_delta)
        grid = torch.arange(1, N + 1, dtype=torch.float32).view(1, -1)
        mu_x = (gx + (grid - N / 2 - 0.5) * delta).view(-1, N, 1)
        mu_y = (gy + (grid - N / 2 - 0.5) * delta).view(-1, N, 1)
        a = torch.arange(1, A + 1, dtype=torch.float32).view(1, 1, -1)
        b = torch.arange(1, B + 1, dtype=torch.float32).view(1, 1, -1)
        sigma2 = torch.exp(log_sigma2).view(-1, 1, 1)
        Fx = torch.exp(-((a - mu_x) ** 2) / (2 * sigma2))
        Fy = torch.exp(-((b - mu_y) ** 2) / (2 * sigma2))
        Fx, Fy = Fx / (Fx.sum(2, keepdim=True) + 1e-8), Fy / (Fy.sum(2, keepdim=True) + 1e-8)
        return Fx, Fy, torch.exp(log_gamma)

    def read(self, x, x_hat, h_dec):
        Fx, Fy, gamma = self.filterbank(self.fc_read(h_dec), self.read_N)

        def glimpse(image):
            return Fy.bmm(image.view(-1, B, A)).bmm(Fx.transpose(1, 2)).view(-1, self.read_N**2) * gamma

        return torch.cat([glimpse(x), glimpse(x_hat)], dim=1)

    def write(self, h_dec):
        w = self.fc_write(h_dec).view(-1, self.write_N, self.write_N)
        Fx, Fy, gamma = self.filterbank(self.fc_attention(h_dec), self.write_N)
        return Fy.transpose(1, 2).bmm(w).bmm(Fx).view(-1, B * A) / gamma

    def forward(self, x):
        n = x.size(0)
        h_enc, enc_state = torch.zeros(2, n, self.enc_size)
        h_dec, dec_state = torch.zeros(2, n, self.dec_size)
        c, kl = torch.zeros(n, B * A), 0
        for _ in range(self.T):
            x_hat = x - torch.sigmoid(c)
            r = self.read(x, x_hat, h_dec)
            h_enc, enc_state = self.encoder(torch.cat([r, h_dec], dim=1), (h_enc, enc_state))
            mu, log_sigma = self.fc_mu(h_enc), self.fc_sigma(h_enc)
            z = mu + torch.exp(log_sigma) * torch.randn(n, self.z_size)
            kl = kl + 0.5 * torch.sum(mu**2 + torch.exp(2 * log_sigma) - 2 * log_sigma - 1, dim=1)
            h_dec, dec_state = self.decoder(z, (h_dec, dec_state))
            c = c + self.write(h_dec)
        recon = F.binary_cross_entropy(torch.sigmoid(c), x, reduction="none").sum(1)
        return (recon + kl).mean()


def train(model, loss_of, batches, optimizer):
    """A row for every 20 updates."""
    losses, start = [], time.process_time()
    for step, x in enumerate(batches, start=1):
        loss = loss_of(torch.bernoulli(x))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            elapsed = time.process_time() - start
            yield {"global_step": step * 128, "losses/loss": np.mean(losses[-20:]), "time/elapsed": elapsed}


def main():
    args = flags_of(__doc__, updates=300)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    with gzip.open("data/train-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, A * B)
    loader = DataLoader(torch.from_numpy(images / np.float32(255)), 128, shuffle=True)
    model = DrawModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.999))
    write_rows(args.run_dir, train(model, model, itertools.islice(loader, args.updates), optimizer))


if __name__ == "__main__":
    main()
