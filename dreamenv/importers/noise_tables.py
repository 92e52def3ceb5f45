"""The tables about a chain of noise that training code saves with the weights (Diffusion Forcing and others).

Nothing is computed from them here: all follow from the noise process.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from dreamenv.diffusion.process import VariancePreserving

__all__ = ["noise_tables"]

_SNR_CLIP = 5.0  # of Diffusion Forcing's loss
_LEAST = 1e-20


def noise_tables(process: VariancePreserving) -> dict[str, Tensor]:
    """Return the tables (steps,) of a checkpoint about its noise, computed in float64, as float32."""
    alpha2 = process.signal[1:]
    before = functional.pad(alpha2[:-1], (1, 0), value=1.0)
    betas = 1 - alpha2 / before
    variance = betas * (1 - before) / (1 - alpha2)
    snr = alpha2 / (1 - alpha2)
    tables = {
        "betas": betas,
        "alphas_cumprod": alpha2,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": alpha2.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha2).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alpha2).log(),
        "sqrt_recip_alphas_cumprod": (1 / alpha2).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alpha2 - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(_LEAST).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - alpha2),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - alpha2),
        "clipped_snr": snr.clamp_max(_SNR_CLIP),
        "snr": snr,
    }
    return {name: table.float() for name, table in tables.items()}
