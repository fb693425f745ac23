"""Where everything lies in a run's folder."""

from pathlib import Path

EXTREMES = Path("pictures", "extremes")
"""Folder of ``best_1_NAME.jpg`` to ``worst_3_NAME.jpg``; ``extremes.json`` there maps file names to mIoU (0-1)."""
