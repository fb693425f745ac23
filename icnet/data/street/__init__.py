"""The data set that needs no download: drawn street scenes on disk, laid out and labelled like Cityscapes."""

from icnet.data.street.scene import draw_scene
from icnet.data.street.writer import NAME, VERSION, generate, is_synthetic, scene_seed

__all__ = ["NAME", "VERSION", "draw_scene", "generate", "is_synthetic", "scene_seed"]
