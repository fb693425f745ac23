"""The scores of the best and worst images of a run; the only place that writes and reads ``extremes.json``."""

import json
from collections.abc import Mapping
from pathlib import Path

from icnet.run import files
from icnet.run.paths import extremes_scores


def write_mious(extremes: Path, mious: Mapping[str, float]) -> None:
    """Write the mIoU (0-1) of each picture in a folder of best and worst images, by the name of its file."""
    files.write_text(extremes_scores(extremes), json.dumps(mious, indent=2))


def read_mious(extremes: Path) -> dict[str, float]:
    """Return what ``write_mious`` wrote, as far as it can be read."""
    try:
        found = json.loads(extremes_scores(extremes).read_text(encoding="utf-8"))
        return {str(name): float(miou) for name, miou in found.items() if miou is not None}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
