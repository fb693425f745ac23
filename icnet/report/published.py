"""The hyperparameter tables of the described system, as figures to stand beside ours."""

from dataclasses import dataclass

from icnet.report.runs import Run

DEVICES = 8
BATCH_SIZE = 16  # per device
EPOCHS = 200
MODEL = "icnet_resnet50"
CROP = [960, 960]
LIMITS = ("trainer.limit_train_batches", "trainer.limit_val_batches")


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
    device = str(run.results.get("device") or "")
    if device.startswith("CPU"):
        return "cpu"
    return "npu" if device.startswith("Ascend") else "gpu"


def match(run: Run) -> Row | None:
    """Find the published row with a run's rate, scale and level, in the table its row's name or its devices tell."""
    named = run.overrides.get("hparams", "").split("_")[0]
    kind = named if named in {"gpu", "npu"} else device_kind(run)
    wanted = (kind, run.config("optim.lr"), run.config("amp.loss_scale"), run.config("amp.opt_level"))
    return next((row for row in ROWS if (row.kind, row.lr, row.loss_scale, row.opt_level) == wanted), None)


def shortfalls(run: Run, row: Row) -> list[str]:
    """Say why a run's figures cannot be compared with a published row; nothing if they can."""
    found = []
    if run.status != "done":
        found.append(run.status)
    if (run.config("data.name"), run.results.get("data")) != ("cityscapes", "cityscapes"):
        found.append(f"data {run.results.get('data')}")
    epochs = run.results.get("epochs") or 0
    if epochs < EPOCHS:
        found.append(f"{epochs} of {EPOCHS} epochs")
    kind, devices = device_kind(run), run.results.get("devices")
    if (kind, devices) != (row.kind, DEVICES):
        found.append(f"{devices} {kind} instead of {DEVICES} {row.kind}")
    for what, key, expected in (("batch", "trainer.batch_size", BATCH_SIZE), ("crop", "data.crop_size", CROP)):
        if (given := run.config(key)) != expected:
            found.append(f"{what} {given} instead of {expected}")
    found += [f"{key} {given}" for key in LIMITS if (given := run.config(key)) is not None]
    if run.results.get("model") != MODEL:
        found.append(f"{run.results.get('model')} instead of {MODEL}")
    return found
