"""Trained networks at work: the runtimes, exporting, scoring, the demo, the Python interface."""

from icnet.deploy.runtimes import RUNTIMES, Segmenter, open_segmenter

__all__ = ["RUNTIMES", "Segmenter", "open_segmenter"]
