"""What a denoiser's head says: the velocity itself, or the clean latents that it follows from.

A velocity holds all of a token's noise. A denoiser that is hardly wider than its tokens (four latents of 48 numbers are 192,
the built-in models are 224 wide) is filled by carrying that noise from its input to its output; clean latents have far fewer
dimensions, and the noise is in the input already (Li and He, "Back to Basics: Let Denoising Generative Models Denoise", 2025).
"""

from torch import Tensor

PREDICTIONS = ("velocity", "clean")
LEAST_TIME = 0.05  # smaller ones would blow errors of the clean latents up


def check_prediction(prediction: str) -> None:
    """Raise ValueError for a field of a denoiser's configuration that there is not."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r}: a denoiser predicts {' or '.join(PREDICTIONS)}")


def velocity_of(said: Tensor, prediction: str, noisy: Tensor, timestep: Tensor) -> Tensor:
    """The velocity (b, c, f, y, x) of noisy latents z_t = (1 - t) x + t n at timestep (b,) = 1000 t.

    Of predicted clean latents x it is (z_t - x) / t.
    """
    if prediction == "velocity":
        return said
    time = (timestep.float() / 1000).clamp_min(LEAST_TIME)[:, None, None, None, None]
    return ((noisy.float() - said.float()) / time).type_as(said)
