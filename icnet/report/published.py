"""The hyperparameter tables of the Ascend port, as figures to stand beside ours."""

from dataclasses import dataclass

from icnet.run.reader import Run

DEVICES = 8
BATCH_SIZE = 16  # per device
EPOCHS = 200
VAL_IMAGES = 500
MODEL = "icnet_resnet50"
RECIPE = {
    "data.val_split": "val",
    "data.crop_size": [960, 960],
    "data.scale_range": [512, 2048],
    "data.flip": 0.5,
    "data.blur": 0.5,
    "data.color_jitter": 0.0,
    "model.weights": None,
    "optim.name": ("sgd", "npu_fused_sgd"),  # either: they give the same values
    "optim.momentum": 0.9,
    "optim.weight_decay": 1e-4,
    "optim.head_lr_mult": 1.0,
    "scheduler.name": "cosine",
    "scheduler.warmup_epochs": 3,
    "trainer.batch_size": BATCH_SIZE,
    "trainer.accumulate_grad_batches": 1,
    "trainer.gradient_clip_val": 0.0,
    "callbacks.ema_decay": 0.0,
}
"""What all rows have in common, by key; loss and BatchNorm may be better here, and are not held to."""
LIMITS = ("trainer.limit_train_batches", "trainer.limit_val_batches")


SPEED = "Published speed: 83 images/s on eight GPUs; on eight NPUs 83, and 147.2 with a newer torch_npu."


@dataclass(frozen=True)
class Row:
    """One row: what was set and what came out, in percent, both means of running values."""

    kind: str  # of the devices
    lr: float
    loss_scale: float
    opt_level: str
    final: float
    best: float


# ICNet for PyTorch on Ascend, Cityscapes val, 8 devices with 16 images each, 200 epochs.
ROWS = (
    Row("gpu", 0.06, 128, "O1", 68.1, 68.7),
    Row("gpu", 0.08, 128, "O1", 68.3, 68.6),
    Row("gpu", 0.1, 128, "O1", 67.7, 68.6),
    Row("gpu", 0.08, 128, "O2", 67.7, 68.0),
    Row("npu", 0.08, 32, "O1", 67.6, 68.0),
    Row("npu", 0.1, 32, "O1", 68.1, 68.3),
    Row("npu", 0.11, 32, "O1", 67.9, 68.4),
    Row("npu", 0.12, 32, "O1", 67.0, 67.5),
    Row("npu", 0.1, 32, "O2", 66.5, 67.0),
    Row("npu", 0.1, 128, "O1", 67.0, 67.4),
)


def device_kind(run: Run) -> str:
    """Return ``cpu``, ``gpu`` or ``npu``: what was asked for, or with ``auto`` what the device is called."""
    asked = run.config("trainer.accelerator", "auto")
    if asked != "auto":
        return asked
    device = run.record.device or ""
    if device.startswith("CPU"):
        return "cpu"
    return "npu" if device.startswith("Ascend") else "gpu"


def match(run: Run) -> Row | None:
    """Find the published row with a run's rate, scale and level, in the table its row's name or its devices tell."""
    named = run.overrides.get("hparams", "").split("_")[0]
    kind = named if named in {"gpu", "npu"} else device_kind(run)
    wanted = (kind, run.config("optim.lr"), run.config("amp.loss_scale"), run.config("amp.opt_level"))
    return next((row for row in ROWS if (row.kind, row.lr, row.loss_scale, row.opt_level) == wanted), None)


def limits(run: Run) -> list[str]:
    """Say what kept a run from all of its data; a run that was not to be validated has no scores to doubt."""
    return [f"{key} {given}" for key in LIMITS if (given := run.config(key)) not in {None, 0}]


def shortfalls(run: Run, row: Row) -> list[str]:
    """Say why a run's figures cannot be compared with a published row; nothing if they can."""
    found = []
    if run.status != "done":
        found.append(run.status)
    results = run.training
    if (run.config("data.name"), run.record.data) != ("cityscapes", "cityscapes"):
        found.append(f"data {run.record.data}")
    epochs = results.epochs or 0
    if epochs != EPOCHS:
        found.append(f"{epochs} of {EPOCHS} epochs" if epochs < EPOCHS else f"{epochs} epochs instead of {EPOCHS}")
    kind, devices = device_kind(run), results.devices
    if (kind, devices) != (row.kind, DEVICES):
        found.append(f"{devices} {kind} instead of {DEVICES} {row.kind}")
    for key, expected in RECIPE.items():
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if (given := run.config(key, allowed[0])) not in allowed:
            found.append(f"{key} {given} instead of {allowed[0]}")
    if (images := run.record.val_images or VAL_IMAGES) != VAL_IMAGES:
        found.append(f"{images} validation images instead of {VAL_IMAGES}")
    found += limits(run)
    if run.record.model != MODEL:
        found.append(f"{run.record.model} instead of {MODEL}")
    return found
