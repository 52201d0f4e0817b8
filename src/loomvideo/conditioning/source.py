"""Scale-and-add: how the source clip reaches the denoiser (fact sheet 4.5).

The embedded source is added to the target token by token, scaled by the flow time: the noisier the target, the more it is
told about the source. A request without a source adds the embedding of zeros, which is the convolution's bias.
"""

from torch import Tensor


def add_source(tokens: Tensor, source_tokens: Tensor, timestep: Tensor) -> Tensor:
    """Target tokens (b, n, d) plus the source's, (b, n, d) or one broadcast row, scaled by timestep (b,) / 1000."""
    flow_time = (timestep.float() / 1000).to(tokens.dtype)
    return tokens + flow_time[:, None, None] * source_tokens
