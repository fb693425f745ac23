"""From configuration to what keeps the curves of a training."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from icnet.config import TrainConfig
from icnet.errors import UserError
from icnet.run.paths import MLRUNS, TENSORBOARD, RunPaths

LOGGERS: dict[str, Callable[[str, str], Logger]] = {
    "csv": lambda folder, project: CSVLogger(folder, name="", version=RunPaths(Path(folder)).new_curves().name),
    "tensorboard": lambda folder, project: TensorBoardLogger(
        folder, name="", version=TENSORBOARD, default_hp_metric=False
    ),
    "wandb": lambda folder, project: WandbLogger(project=project, save_dir=folder),
    "mlflow": lambda folder, project: MLFlowLogger(experiment_name=project, save_dir=f"{folder}/{MLRUNS}"),
}
"""Key of ``logger`` to what builds it for a run folder and a project's name."""

LOGGER_EXTRAS = ("wandb", "mlflow")
"""Those that need the package of their name, an extra."""


def loggers(config: TrainConfig) -> list[Logger]:
    """Build the loggers.

    Raises:
        UserError: If one needs a package that is not installed.
    """
    wanted = [name for name in LOGGERS if getattr(config.logger, name)]
    for name in wanted:
        if name in LOGGER_EXTRAS and find_spec(name) is None:
            raise UserError(f"logger={name} needs {name}, which is not installed; run 'pip install {name}'")
    return [LOGGERS[name](config.output_dir, config.logger.project) for name in wanted]
