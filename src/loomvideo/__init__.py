"""Make and edit video with a multimodal language model.

Names are looked up when first used, so that ``import loomvideo`` does not load torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("loomvideo")

_EXPORTS = {
    "LoomVideoPipeline": "loomvideo.systems.loomvideo",
    "LoomVideoTransformer3DModel": "loomvideo.models.wan",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'loomvideo' has no attribute {name!r}")
