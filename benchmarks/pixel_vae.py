"""gen/vae_gan.py's encoder and decoder as a plain VAE: squared errors of pixels, no discriminator. The baseline.

    python benchmarks/frechet.py benchmarks/pixel_vae.py --dataset mnist --epochs 3 --noise-std 0.5

Every flag is gen/vae_gan.py's; --noise-std is the standard deviation of a pixel from -1 to 1 given the code.
"""

import torch

from gen import vae_gan
from gen.vae_gan import Args, Discriminator, make_decoder, train  # noqa: F401


def losses(networks, x: torch.Tensor, noise_std: float) -> dict[str, torch.Tensor]:
    """The terms of gen/vae_gan.py, with pixels for features; the discriminator learns nothing."""
    encoder, decoder, discriminator = networks
    mu, logvar = encoder(x)[1].chunk(2, dim=1)
    recon = decoder(mu + (0.5 * logvar).exp() * torch.randn_like(mu))
    nothing = 0 * sum(parameter.sum() for parameter in discriminator.parameters())
    return {
        "kl": 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1).mean(),
        "errors": 0.5 * ((x - recon) / noise_std).square().flatten(1).sum(1).mean(),
        "discriminator": nothing,
        "deception": torch.zeros_like(nothing),
    }


vae_gan.losses = losses
