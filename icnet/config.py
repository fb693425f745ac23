"""The schema of the configuration: every key the scripts read, its type, what it means and its range.

Hydra composes ``conf/`` onto these dataclasses, so an unknown key or a value of the wrong type fails before anything
runs; ``__post_init__`` holds the ranges. What is below gets plain arguments and knows nothing of Hydra.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Optional

from icnet.errors import UserError

MISSING: Any = "???"  # OmegaConf's marker for a value that has to be given

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
OPT_LEVELS = ("O0", "O1", "O2", "bf16")
LARGEST_SEED = 2**32 - 1  # numpy's
LARGEST_PORT = 2**16 - 1


def _choose(key: str, given: object, allowed: Collection[object]) -> None:
    if given not in allowed:
        raise UserError(f"{key}={given} is unknown; choose one of {', '.join(str(item) for item in allowed)}")


def _at_least(key: str, given: float, least: float) -> None:
    if not least <= given < math.inf:  # also refuses NaN
        raise UserError(f"{key}={given} is out of range; give a number from {least}")


def _above(key: str, given: float, bound: float) -> None:
    if not bound < given < math.inf:
        raise UserError(f"{key}={given} is out of range; give a number above {bound}")


def _share(key: str, given: float) -> None:
    if not 0 <= given <= 1:
        raise UserError(f"{key}={given} is out of range; give a number from 0 to 1")


def _below_one(key: str, given: float) -> None:
    if not 0 <= given < 1:
        raise UserError(f"{key}={given} is out of range; give a number from 0 to below 1")


def _seed(given: int) -> None:
    if not 0 <= given <= LARGEST_SEED:
        raise UserError(f"seed={given} is out of range; give a number from 0 to {LARGEST_SEED}")


def _limit(key: str, given: float | None) -> None:
    if given is not None and not (0 < given <= 1 or (given > 1 and float(given).is_integer())):
        raise UserError(f"{key}={given} is out of range; give a share above 0, a count above 1, or null")


def _check_devices(given: object) -> None:
    if isinstance(given, list):
        fits = bool(given) and len(set(map(str, given))) == len(given) and all(_is_index(item) for item in given)
    else:
        fits = _is_index(given) and given != 0
    if not fits:
        raise UserError(f"trainer.devices={given} is unknown; give a count from 1, or a list of indices like [0,2]")


def _is_index(value: object) -> bool:
    return type(value) is int and value >= 0


def _check_endpoint(given: str | None) -> None:
    host, _, port = (given or "localhost:0").rpartition(":")
    if not host or not port.isdigit() or int(port) > LARGEST_PORT:
        raise UserError(f"trainer.rdzv_endpoint={given} is no endpoint; give HOST:PORT of one of the nodes")


@dataclass
class StreetConfig:
    """Size and seed of the embedded synthetic scenes (``data=street``)."""

    train: int = 96  # scenes
    val: int = 24
    height: int = 256  # pixels
    width: int = 512
    seed: int = 1

    def __post_init__(self) -> None:
        """Check ranges."""
        for key, least in (("train", 1), ("val", 1), ("height", 64), ("width", 64), ("seed", 0)):
            _at_least(f"data.street.{key}", getattr(self, key), least)


@dataclass
class DataConfig:
    """The data set, its augmentation and its loading."""

    name: str = MISSING  # one of icnet.data.DATASETS
    root: str | None = None  # folder of the data set
    train_split: str = "train"
    val_split: str = "val"
    label_kind: str = "labelIds"  # labelIds | labelTrainIds (cityscapes)
    classes: str | None = None  # YAML of names and colours (folder)
    street: StreetConfig = field(default_factory=StreetConfig)
    options: dict[str, Any] = field(default_factory=dict)  # what other data sets take: +data.options.KEY=VALUE
    crop_size: list[int] = field(default_factory=lambda: [960, 960])  # (H, W) of a training sample
    scale_range: list[int] = field(default_factory=lambda: [512, 2048])  # short side in pixels, drawn uniformly
    flip: float = 0.5  # probability of a horizontal flip
    blur: float = 0.5  # probability of a Gaussian blur of radius U(0, 1)
    color_jitter: float = 0.0  # strength of brightness, contrast and saturation changes; 0 = off
    batch_size: int = 7  # training samples per device
    eval_batch_size: int = 1  # images per device
    workers: int = 4  # loader processes per device; 0 = load in the training process
    pin_memory: bool = True  # used where an accelerator is
    persistent_workers: bool = True
    prefetch_factor: int = 2  # batches loaded ahead by each worker

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _choose("data.label_kind", self.label_kind, ("labelIds", "labelTrainIds"))
        for key in ("crop_size", "scale_range"):
            pair = getattr(self, key)
            if len(pair) != 2:
                raise UserError(f"data.{key}={list(pair)} has {len(pair)} numbers; give two, such as [512,1024]")
        for side in self.crop_size:
            _at_least("data.crop_size", side, 64)
        _at_least("data.scale_range", min(self.scale_range), 1)
        if self.scale_range[0] > self.scale_range[1]:
            raise UserError(f"data.scale_range={list(self.scale_range)} runs backwards; give [smallest,largest]")
        for key in ("flip", "blur", "color_jitter"):
            _share(f"data.{key}", getattr(self, key))
        for key, least in (("eval_batch_size", 1), ("workers", 0), ("prefetch_factor", 1)):
            _at_least(f"data.{key}", getattr(self, key), least)
        if self.batch_size < 1:
            raise UserError(
                f"data.batch_size={self.batch_size} is out of range; "
                "give trainer.batch_size, which it follows, a number from 1"
            )


@dataclass
class ModelConfig:
    """The network and where its first weights come from."""

    name: str = "icnet"
    backbone: str = "resnet50"  # one of BACKBONES
    backbone_weights: str | None = None  # file or hub id of ImageNet weights
    weights: str | None = None  # checkpoint to fine-tune from

    def __post_init__(self) -> None:
        """Check names."""
        _choose("model.name", self.name, ("icnet",))
        _choose("model.backbone", self.backbone, BACKBONES)


@dataclass
class LossConfig:
    """The cascade loss."""

    resize: str = "nearest"  # nearest: labels to the outputs' sizes; logits: the reverse; blend: see losses.py
    sub124_weight: float = 1.0
    sub24_weight: float = 0.4
    sub4_weight: float = 0.4
    class_weights: list[float] | None = None  # one per class
    ohem_threshold: float = 0.0  # keep pixels whose true class is at most this probable; 0 = off
    ohem_min_kept: float = 0.1  # share of the labelled pixels kept at least

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _choose("loss.resize", self.resize, ("nearest", "logits", "blend"))
        for key in ("sub124_weight", "sub24_weight", "sub4_weight"):
            _at_least(f"loss.{key}", getattr(self, key), 0)
        if not self.sub124_weight + self.sub24_weight + self.sub4_weight:
            raise UserError("loss.sub124_weight, sub24_weight and sub4_weight are all 0; give one a number above 0")
        for weight in self.class_weights or ():
            _at_least("loss.class_weights", weight, 0)
        for key in ("ohem_threshold", "ohem_min_kept"):
            _share(f"loss.{key}", getattr(self, key))


@dataclass
class OptimConfig:
    """The optimizer."""

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9  # sgd
    nesterov: bool = False  # sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adamw
    weight_decay: float = 1e-4
    head_lr_mult: float = 1.0  # learning rate of sub1 and the head in units of lr

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _choose("optim", self.name, ("sgd", "adamw", "npu_fused_sgd"))
        _above("optim.lr", self.lr, 0)
        _above("optim.head_lr_mult", self.head_lr_mult, 0)
        _at_least("optim.weight_decay", self.weight_decay, 0)
        _below_one("optim.momentum", self.momentum)
        if self.nesterov and not self.momentum:
            raise UserError("optim.nesterov=true needs momentum; give optim.momentum a number above 0")
        if len(self.betas) != 2:
            raise UserError(f"optim.betas={self.betas} has {len(self.betas)} numbers; give two, such as [0.9,0.999]")
        for beta in self.betas:
            _below_one("optim.betas", beta)


@dataclass
class SchedulerConfig:
    """The learning rate over time."""

    name: str = "cosine"
    warmup_epochs: int = 3  # cosine: epochs of linear warm-up
    power: float = 0.9  # poly

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _choose("scheduler", self.name, ("cosine", "poly", "constant"))
        _at_least("scheduler.warmup_epochs", self.warmup_epochs, 0)
        _above("scheduler.power", self.power, 0)


@dataclass
class TrainerConfig:
    """Devices, length and bookkeeping of a run; handed to Lightning's Trainer."""

    accelerator: str = "auto"  # auto | cpu | gpu | npu; auto: an NPU before a GPU before the CPU
    devices: Any = 1  # on each node: a count, or a list of indices
    num_nodes: int = 1  # machines that train together; each of them is given the same command
    rdzv_endpoint: str | None = None  # HOST:PORT of one of several nodes, where they find each other
    max_restarts: int = 0  # how often processes that died are started again, from the last checkpoint
    batch_size: int = 7  # per device; data.batch_size follows it
    max_epochs: int = 200
    max_steps: int = -1  # optimizer steps; -1 = no bound
    val_every_n_epochs: int = 1  # 0 = the published rhythm: see PublishedValidationSchedule
    log_every_n_steps: int = 10
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 0.0  # largest norm of the gradient; 0 = off
    sync_batchnorm: bool = False  # statistics over all devices; ignored on one
    deterministic: bool = False
    limit_train_batches: float | None = None  # null = all; up to 1.0 a share, above a count
    limit_val_batches: float | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        """Check ranges."""
        _choose("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "npu"))
        _check_devices(self.devices)
        _at_least("trainer.val_every_n_epochs", self.val_every_n_epochs, 0)
        _at_least("trainer.num_nodes", self.num_nodes, 1)
        _at_least("trainer.max_restarts", self.max_restarts, 0)
        _check_endpoint(self.rdzv_endpoint)
        for key in ("batch_size", "max_epochs", "log_every_n_steps", "accumulate_grad_batches"):
            _at_least(f"trainer.{key}", getattr(self, key), 1)
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(f"trainer.max_steps={self.max_steps} is out of range; give a number from 1, or -1 for all")
        _limit("trainer.limit_train_batches", self.limit_train_batches)
        if self.limit_val_batches != 0:  # 0 = no validation
            _limit("trainer.limit_val_batches", self.limit_val_batches)
        _at_least("trainer.gradient_clip_val", self.gradient_clip_val, 0)


@dataclass
class AmpConfig:
    """Mixed precision, as apex named it; see ``icnet.training.precision``."""

    opt_level: str = "O0"  # O0: float32; O1: float16 autocast; O2: float16 weights with float32 masters; bf16: autocast
    loss_scale: Any = 1  # a number, which is never checked, or dynamic (O1 and O2)

    def __post_init__(self) -> None:
        """Check names and ranges."""
        _choose("amp.opt_level", self.opt_level, OPT_LEVELS)
        given = self.loss_scale
        if self.opt_level not in {"O1", "O2"}:
            if given != 1:
                raise UserError(
                    f"amp.loss_scale={given} means nothing at {self.opt_level}, where no gradient can underflow; "
                    "choose amp=o1 or amp=o2, or leave it out"
                )
        elif given != "dynamic" and not (type(given) in {int, float} and 0 < given < math.inf):
            raise UserError(f"amp.loss_scale={given} is unknown; give a number above 0, such as 128, or dynamic")


@dataclass
class CallbackConfig:
    """What watches a run."""

    checkpoint_every_n_steps: int = 0  # a further last.ckpt inside the epoch; 0 = at the end of epochs only
    pictures: int = 4  # validation images drawn beside label and prediction at each validation; 0 = off
    extremes: int = 3  # best and worst images of the last validation drawn for the report, of each; 0 = off
    ema_decay: float = 0.0  # exponential moving average of the weights; 0 = off
    early_stop_patience: int = 0  # validations without a better val/miou before the run stops; 0 = off
    device_stats: bool = False  # log memory and utilization of the device
    throughput_warmup_steps: int = 10  # steps left out of images/s
    throughput_exact: bool = False  # wait for the device after every step, so that each can be timed
    result_files: str | None = None  # perf | acc: also write the described system's result files

    def __post_init__(self) -> None:
        """Check ranges."""
        counts = "checkpoint_every_n_steps pictures extremes early_stop_patience throughput_warmup_steps"
        for key in counts.split():
            _at_least(f"callbacks.{key}", getattr(self, key), 0)
        _below_one("callbacks.ema_decay", self.ema_decay)
        if self.result_files is not None:
            _choose("callbacks.result_files", self.result_files, ("perf", "acc"))


@dataclass
class LoggerConfig:
    """Where curves go."""

    tensorboard: bool = True
    csv: bool = True
    wandb: bool = False
    mlflow: bool = False
    project: str = "icnet"  # wandb and mlflow


@dataclass
class TrainConfig:
    """Everything ``train.py`` reads."""

    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    loss: LossConfig = MISSING
    optim: OptimConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = MISSING
    amp: AmpConfig = MISSING
    callbacks: CallbackConfig = field(default_factory=CallbackConfig)
    logger: LoggerConfig = MISSING
    seed: int = 1
    resume: str | None = (
        None  # PATH of a checkpoint; here = this folder's, if it has one; auto = also one like this run's
    )
    skip_finished: bool = False  # do nothing where the folder holds this run's result already; for sweeps begun again
    output_dir: str = MISSING  # this run's folder

    def __post_init__(self) -> None:
        """Check ranges."""
        _seed(self.seed)
        if self.amp.opt_level == "O2" and self.callbacks.ema_decay:
            raise UserError("callbacks.ema_decay averages the weights, and at O2 they are float16; choose amp=o1")
        if self.callbacks.early_stop_patience and self.trainer.limit_val_batches == 0:
            raise UserError("callbacks.early_stop_patience needs validation; do not set trainer.limit_val_batches=0")


@dataclass
class InferenceConfig:
    """How an evaluation turns an image into labels."""

    scales: list[float] = field(default_factory=lambda: [1.0])  # sizes of the image whose probabilities are averaged
    flip: bool = False  # average with the mirrored image
    sliding_window: list[int] | None = None  # (H, W) of overlapping windows; null = the whole image at once

    def __post_init__(self) -> None:
        """Check ranges."""
        if not self.scales:
            raise UserError("eval.scales=[] is empty; give at least one scale, such as [1.0]")
        for scale in self.scales:
            _above("eval.scales", scale, 0)
        if self.sliding_window is not None:
            if len(self.sliding_window) != 2:
                raise UserError(f"eval.sliding_window={list(self.sliding_window)} is not a size; give [height,width]")
            for side in self.sliding_window:
                _at_least("eval.sliding_window", side, 64)


def _overrides(schema: type, name: str, **nested: Any) -> Any:
    """Make a dataclass with a schema's keys, each of them null unless given."""
    rest = [key for key in fields(schema) if key.name not in nested]
    keys: list[Any] = [(key.name, Optional[key.type], None) for key in rest]  # noqa: UP045 - a value, no annotation
    keys += [(key, kind, field(default_factory=kind)) for key, kind in nested.items()]
    made = make_dataclass(name, keys)
    made.__module__ = __name__  # Python before 3.12 leaves that out, and pickle needs it
    return made


# eval.py's data keys. With ``data=checkpoint``, which has no name, those that are given replace the checkpoint's.
StreetOverrides: Any = _overrides(StreetConfig, "StreetOverrides")
DataOverrides: Any = _overrides(DataConfig, "DataOverrides", street=StreetOverrides, options=dict)


@dataclass
class EvalConfig:
    """Everything ``eval.py`` reads."""

    ckpt: str | None = None  # null = the newest best checkpoint below outputs/
    data: DataOverrides = MISSING
    trainer: TrainerConfig = MISSING
    eval: InferenceConfig = field(default_factory=InferenceConfig)
    save_pictures: bool = False
    save_label_ids: bool = False
    extremes: int = 3  # best and worst images drawn for the report, of each; 0 = off
    seed: int = 1
    output_dir: str = MISSING

    def __post_init__(self) -> None:
        """Check ranges."""
        _at_least("extremes", self.extremes, 0)
        _seed(self.seed)
        if self.trainer.limit_val_batches == 0:
            raise UserError("trainer.limit_val_batches=0 leaves nothing to evaluate; give a number above 0, or null")


@dataclass
class ExportOptions:
    """The exported graph."""

    height: int = 1024  # rows of the input in pixels
    width: int = 2048
    batch: Any = 1  # images per call: a number, or dynamic
    dynamic_size: bool = False  # leave height and width open
    opset: int = 17  # 11 (what older Ascend tools take) to the newest that the installed onnx writes
    head: str = "logits"  # logits: float32 (N, C, H, W); argmax: int32 labels (N, H, W)
    normalize: bool = False  # true: uint8 RGB goes in; false: normalised float32
    images: str | None = None  # file, folder or glob to verify on; null = the checkpoint's data, or synthetic scenes

    def __post_init__(self) -> None:
        """Check names and ranges; the opset's and sizes' are the exporter's."""
        _choose("export.head", self.head, ("logits", "argmax"))
        if self.batch != "dynamic" and (type(self.batch) is not int or self.batch < 1):
            raise UserError(f"export.batch={self.batch} is out of range; give a number from 1, or dynamic")


@dataclass
class ExportConfig:
    """Everything ``export.py`` reads."""

    ckpt: str | None = None  # null = the newest best checkpoint below outputs/
    output: str = "ICNet.onnx"  # relative to the current folder
    export: ExportOptions = field(default_factory=ExportOptions)


@dataclass
class DemoConfig:
    """Everything ``demo.py`` reads."""

    ckpt: str | None = None  # null = the newest best checkpoint below outputs/; .onnx files too
    input: str | None = None  # an image, a video, a folder of images, or a quoted glob; has to be given
    output: str = MISSING  # folder
    device: str = "auto"  # auto = an accelerator where there is one; or cpu, cuda, cuda:1, npu, ...
    alpha: float = 0.5  # opacity of the colours on the overlay
    eval: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        """Check ranges."""
        _share("alpha", self.alpha)
        if not self.output:
            raise UserError("output= is empty; give the folder for the results, such as output=results")
