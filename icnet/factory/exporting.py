"""From configuration to the graph to export, and to what int8 is calibrated and scored on."""

import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from icnet.config import EvalConfig, ExportConfig, ExportOptions, TrainerConfig
from icnet.deploy.export import TARGETS, GraphSpec, Labelled, ProvingGround
from icnet.deploy.export.profiles import PROFILES
from icnet.errors import UserError
from icnet.factory.data import data_module, data_set, data_title
from icnet.factory.evaluation import evaluation_task, evaluation_trainer, open_evaluated, resolve_evaluation


def graph_spec(options: ExportOptions) -> GraphSpec:
    """Describe the graph that is asked for; what is not given is as the target has it.

    Raises:
        UserError: If a value is out of its range.
    """
    target = TARGETS[options.target]
    profile = options.profile or target.profiles[0]
    symmetric = not PROFILES[profile].zero_points if options.symmetric is None else options.symmetric
    full = replace(options, head=options.head or target.head, profile=profile, symmetric=symmetric)
    chosen = {field.name: getattr(full, field.name) for field in fields(GraphSpec)}
    return GraphSpec(**chosen | {"batch": None if options.batch == "dynamic" else options.batch})


@contextmanager
def proving_ground(config: ExportConfig, checkpoint: Path) -> Iterator[ProvingGround]:
    """Yield what a checkpoint's network is calibrated and scored on, on the CPU, as ``eval.py`` scores it.

    Raises:
        UserError: If the data are not there, or not those of the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = TrainerConfig(accelerator="cpu", progress_bar=config.progress_bar)
        asked = EvalConfig(ckpt=str(checkpoint), data=config.data, trainer=trainer, extremes=0, output_dir=folder)
        try:
            resolved, _ = resolve_evaluation(asked)
            data = resolved.data
            images = [sample.image for sample in data_set(data).list_samples(data.train_split)]
        except UserError as error:
            raise UserError(
                f"export.precision=int8 takes images to calibrate on: {error} (data.root=PATH names their folder)"
            ) from error

        def score(path: Path, positions: Sequence[int] | None = None) -> Labelled:
            one = replace(resolved, ckpt=str(path))
            module = data_module(data if positions is None else replace(data, workers=0), one.seed)
            if positions is not None:  # of a few images, many times: processes would start longer than they load
                module.val.samples = [module.val.samples[position] for position in positions]
            task = evaluation_task(one, open_evaluated(one), module.classes)
            trainer, kept = evaluation_trainer(one, module), KeptLabels()
            trainer.callbacks.append(kept)  # type: ignore[attr-defined]
            trainer.test(task, module, verbose=False)
            return Labelled(task.scores, kept.labels)

        yield ProvingGround(
            training=evenly(images, config.export.calibration_images),
            image_bits=data.image_bits,
            score=score,
            data=data_title(data),
            split=data.val_split,
            max_drop=config.export.max_drop,
        )


def evenly(images: Sequence[Path], count: int) -> list[Path]:
    """Return so many of the images, or all if there are fewer, evenly spread over their order."""
    count = min(count, len(images))
    return [images[position * len(images) // count] for position in range(count)]


class KeptLabels(Callback):
    """Keeps the labels that an evaluation gives, compressed: those of 500 images of 2 megapixels take some 20 MB."""

    def __init__(self) -> None:
        self.labels: list[bytes] = []

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        assert isinstance(outputs, Tensor)  # noqa: S101 (what EvaluationTask returns)
        self.labels += [zlib.compress(labels.astype(np.uint8).tobytes(), 1) for labels in outputs.cpu().numpy()]
