"""gen/vae.py with half the squared error of pixels in place of their cross-entropy; every flag is gen/vae.py's.

    python -m benchmarks.squared_error_vae --dataset mnist --kl-weight 0.3

It is the reconstruction term of "The colour DRAW post", which asks what weight the KL divergence should have beside it.
"""

import torch
import tyro
from torch.distributions import Normal, kl_divergence

from gen import vae


class SquaredErrorVAE(vae.VAE):
    def losses(self, x: torch.Tensor, noise: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Half the squared error, summed over pixels [n]; KL divergence of each dimension [n, latent]."""
        q = self.encode(x)
        recon = 0.5 * (x - self.decode(q.rsample() if noise else q.mean)).square().sum(1)
        return recon, kl_divergence(q, Normal(0.0, 1.0))


if __name__ == "__main__":
    vae.VAE = SquaredErrorVAE
    vae.train(tyro.cli(vae.Args, description=__doc__))
