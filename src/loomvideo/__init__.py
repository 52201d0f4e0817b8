"""Make and edit video with a multimodal language model.

Names are looked up when first used, so that ``import loomvideo`` does not load torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from loomvideo.pipelines import PIPELINES

if TYPE_CHECKING:
    from loomvideo.models.hunyuan import VinoTransformer3DModel
    from loomvideo.models.omnivideo import OmniVideoTransformer3DModel
    from loomvideo.models.wan import LoomVideoTransformer3DModel
    from loomvideo.systems.loomvideo import LoomVideoPipeline
    from loomvideo.systems.omnivideo import OmniVideoPipeline
    from loomvideo.systems.vino import VinoPipeline

__all__ = [
    "LoomVideoPipeline",
    "LoomVideoTransformer3DModel",
    "OmniVideoPipeline",
    "OmniVideoTransformer3DModel",
    "VinoPipeline",
    "VinoTransformer3DModel",
    "__version__",
]
__version__ = version("loomvideo")

_MODULES = {pipeline: f"loomvideo.systems.{system}" for system, pipeline in PIPELINES.items()} | {
    "LoomVideoTransformer3DModel": "loomvideo.models.wan",
    "OmniVideoTransformer3DModel": "loomvideo.models.omnivideo",
    "VinoTransformer3DModel": "loomvideo.models.hunyuan",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'loomvideo' has no attribute {name!r}")
