"""Segmenting images, videos and what a camera sees into pictures that people look at.

``inputs`` finds what is given, ``frames`` reads it, ``labelling`` turns pictures into labels (``smoothing`` over time),
``results`` writes what comes out (``video_file`` a video), ``overlap`` lets these work at the same time, ``timing``
says how long each took, and ``run`` joins them.
"""

from icnet.deploy.demo.inputs import Camera, find_inputs, result_names
from icnet.deploy.demo.run import Demo

__all__ = ["Camera", "Demo", "find_inputs", "result_names"]
