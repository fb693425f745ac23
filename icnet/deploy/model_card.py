"""The model card of published weights, made of what a checkpoint and its results tell."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from icnet.deploy.trained_network import model_title, told_classes, trained_on
from icnet.errors import UserError
from icnet.models.checkpoints import Checkpoint
from icnet.run.paths import LAST, RunPaths
from icnet.run.results import ByClass, EvaluationRecord, TrainingRecord, read_results

TEXT = """---
{head}---

# {title}, trained on {trained_on}

Semantic segmentation into {num_classes} classes{names}.

```python
import icnet

net = icnet.PretrainedModel.from_pretrained("OWNER/NAME")  # or the folder of this file
labels = net("photo.jpg")  # (H, W) uint8: positions in net.classes
```

## Data

Trained on {trained_on}. Licence of these data: {licence}

## Scores

{scores}

## How it was made

{made}
"""


@dataclass(frozen=True)
class _Scores:
    """What of ``results.json`` belongs to the checkpoint.

    Args:
        origin: Where they come from.
        miou: 0-1.
        pixel_acc: 0-1.
        iou: By class, 0-1; None if it is not known.
    """

    origin: str
    miou: float | None
    pixel_acc: float | None
    iou: ByClass | None


def model_card(checkpoint: Checkpoint, data_license: str, results: str | os.PathLike[str] | None) -> str:
    """Make the model card out of what the checkpoint and its results tell.

    Raises:
        UserError: If there is no licence, or no results of this checkpoint.
    """
    licence, trained = " ".join(str(data_license or "").split()), trained_on(checkpoint.meta)
    if not licence:
        raise UserError(
            f"the licence of the data ({trained}) is missing, and the model card has to name it; "
            "give data_license=TEXT, such as data_license='CC BY-NC-SA 3.0'"
        )
    record = _read_results(checkpoint, results)
    scores, told = _scores(checkpoint, record), told_classes(checkpoint)
    if told and scores.iou and tuple(scores.iou) != told.names:
        raise UserError(f"the results are of other classes than those of {checkpoint.path}; give its own results")
    names = told.names if told else tuple(scores.iou or ())
    made = {
        "version of icnet": checkpoint.meta.get("version"), "commit": record.git_revision, "device": record.device,
        "seed": record.seed,
    }  # fmt: skip
    if isinstance(record, TrainingRecord):
        made |= {"epochs": record.epochs, "steps": record.steps, "opt level": record.opt_level}
    return TEXT.format(
        head=yaml.safe_dump(_head(checkpoint, record, scores, licence), sort_keys=False, allow_unicode=True),
        title=_title(checkpoint), trained_on=trained, num_classes=checkpoint.num_classes, licence=licence,
        names=f": {', '.join(names)}" if names else "", scores="\n".join(_score_lines(record, scores)),
        made="\n".join(f"- {key}: {value}" for key, value in made.items() if value is not None),
    )  # fmt: skip


def _title(checkpoint: Checkpoint) -> str:
    return model_title({"model": checkpoint.network.plain()})


def _head(
    checkpoint: Checkpoint, record: TrainingRecord | EvaluationRecord, scores: _Scores, licence: str
) -> dict[str, Any]:
    """Return what the Hub reads of a card (https://huggingface.co/docs/hub/model-cards); drawn data have no score."""
    head: dict[str, Any] = {
        "library_name": "icnet", "pipeline_tag": "image-segmentation", "tags": ["icnet", "semantic-segmentation"],
        "data_license": licence,
    }  # fmt: skip
    if scores.miou is not None and record.data and not _is_drawn(record):
        split = (isinstance(record, EvaluationRecord) and record.split) or "val"
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": record.data, "type": record.data, "split": split},
            "metrics": [{"type": "mean_iou", "name": "mIoU", "value": scores.miou}],
        }
        head["model-index"] = [{"name": _title(checkpoint), "results": [result]}]
    return head


def _is_drawn(record: TrainingRecord | EvaluationRecord) -> bool:
    return bool(record.synthetic) or "(synthetic)" in (record.data or "")  # as version 0.1 told it


def _score_lines(record: TrainingRecord | EvaluationRecord, scores: _Scores) -> list[str]:
    lines = ["The images are drawn, so these numbers are no results.", ""] if _is_drawn(record) else []
    images = f"{record.val_images} images of {record.data}" if record.val_images else f"{record.data}"
    right = "" if scores.pixel_acc is None else f", {_percent(scores.pixel_acc)} of the pixels right"
    note = f" ({record.miou_note})" if record.miou_note else ""
    lines.append(f"{scores.origin}, {images}: mIoU {_percent(scores.miou)}{note}{right}.")
    if scores.iou:
        lines += ["", "| Class | IoU |", "|---|---:|"]
        lines += [f"| {_cell(name)} | {_percent(value)} |" for name, value in scores.iou.items()]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.2f} %"


def _read_results(
    checkpoint: Checkpoint, given: str | os.PathLike[str] | None
) -> TrainingRecord | EvaluationRecord:  # fmt: skip
    """Read results that are those of a checkpoint for sure."""
    path = checkpoint.path.resolve()
    run = RunPaths(path.parent.parent)
    evaluate = f"evaluate it with 'python eval.py ckpt={checkpoint.path}' and give results=PATH of that results.json"
    if given is None and path not in (run.best, run.last):
        raise UserError(f"{checkpoint.path} lies in no run with results, and the model card shows them; {evaluate}")
    file = run.results if given is None else Path(given).expanduser()
    file = RunPaths(file).results if file.is_dir() else file
    record = read_results(file)
    if record is None:
        raise UserError(f"there are no results in {file}, and the model card shows them; {evaluate}")
    if isinstance(record, EvaluationRecord):
        of_this = record.ckpt_sha256 == checkpoint.sha256
    else:
        of_this = file.resolve() == run.results and path in (run.best, run.last)
    if not of_this:
        raise UserError(f"{file} holds no results of {checkpoint.path}; {evaluate}")
    return record


def _scores(checkpoint: Checkpoint, record: TrainingRecord | EvaluationRecord) -> _Scores:
    if isinstance(record, EvaluationRecord):
        return _Scores(f"Evaluation on the split {record.split}", record.miou, record.pixel_acc, record.iou)
    if checkpoint.path.name == LAST:
        return _Scores("Last validation of the training", record.final_miou, record.pixel_acc, record.iou)
    best = next((one for one in record.history if one.epoch == record.best_epoch), None)
    origin = f"Best validation of the training, after epoch {record.best_epoch}"
    if best is None:
        return _Scores(origin, record.best_miou, None, None)
    return _Scores(origin, best.miou, best.pixel_acc, best.iou)
