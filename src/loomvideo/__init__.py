"""Make and edit video with a multimodal language model.

Names are looked up when first used, so that ``import loomvideo`` does not load torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loomvideo.models.wan import LoomVideoTransformer3DModel
    from loomvideo.systems.loomvideo import LoomVideoPipeline

__all__ = ["LoomVideoPipeline", "LoomVideoTransformer3DModel", "__version__"]
__version__ = version("loomvideo")

_MODULES = {
    "LoomVideoPipeline": "loomvideo.systems.loomvideo",
    "LoomVideoTransformer3DModel": "loomvideo.models.wan",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'loomvideo' has no attribute {name!r}")
