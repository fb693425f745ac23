"""The schema of the configuration: every key the scripts read, its type, what it means and its range.

Hydra composes ``conf/`` onto these dataclasses, so an unknown key or a value of the wrong type fails before anything
runs; ``icnet.keys`` checks the ranges. Networks, data sets and opt levels stand in tables of their own, which check
what they are given before anything is made. What is below gets plain arguments and knows nothing of Hydra. ``--help``
shows what is written here.
"""

import math
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Optional

from icnet.errors import UserError
from icnet.keys import REQUIRED, Keys, Range, key

MISSING: Any = "???"  # OmegaConf's marker for a value that has to be given
RENAMED = {"data.batch_size": "trainer.batch_size"}  # keys up to 0.1, and what they are now

OUTPUT_WEIGHTS = ("sub124_weight", "sub24_weight", "sub4_weight")  # the keys of LossConfig that name ICNet's outputs
LARGEST_SEED = 2**32 - 1  # numpy's
LARGEST_PORT = 2**16 - 1


def _is_limit(given: float) -> bool:
    return 0 < given <= 1 or (given > 1 and float(given).is_integer())


def _is_index(value: object) -> bool:
    return type(value) is int and value >= 0


def _are_devices(given: object) -> bool:
    if isinstance(given, list):
        return bool(given) and len(set(map(str, given))) == len(given) and all(_is_index(item) for item in given)
    return _is_index(given) and given != 0


def _is_endpoint(given: str) -> bool:
    host, _, port = given.rpartition(":")
    return bool(host) and port.isdigit() and int(port) <= LARGEST_PORT


def _is_batch(given: object) -> bool:
    return given == "dynamic" or (type(given) is int and given >= 1)


def _are_class_weights(given: object) -> bool:
    if isinstance(given, list):
        return bool(given) and all(type(item) in {int, float} and 0 <= item < math.inf for item in given)
    return given in CLASS_WEIGHTINGS


LIMIT = Range("a share above 0, a count above 1, or null", _is_limit)
LIMIT_OR_NONE = Range(LIMIT.allowed, lambda given: given == 0 or _is_limit(given))
DEVICES = Range("a count from 1, or a list of indices like [0,2]", _are_devices, "is unknown; give")
ENDPOINT = Range(
    "HOST:PORT of one of the nodes", lambda given: not given or _is_endpoint(given), "is no endpoint; give"
)
CLASS_WEIGHTINGS = ("median", "median_sqrt", "enet")  # of icnet.data.statistics
CLASS_WEIGHTS = Range(
    "a list with a number from 0 for each class, median, median_sqrt, enet, or null", _are_class_weights
)
BATCH = Range("a number from 1, or dynamic", _is_batch)


@dataclass
class StreetConfig(Keys, above="data.street."):
    """Size and seed of the embedded synthetic scenes (``data=street``)."""

    train: int = key(96, "training images", unit="scenes", low=1)
    val: int = key(24, "validation images", unit="scenes", low=1)
    height: int = key(256, "rows of a scene", unit="pixels", low=64)
    width: int = key(512, "columns of a scene", unit="pixels", low=64)
    seed: int = key(1, "which scenes are drawn", low=0)


@dataclass
class DataConfig(Keys, above="data."):
    """The data set, its augmentation and its loading."""

    name: str = key(REQUIRED, "which data set, by its name in icnet.data.DATASETS; data=NAME chooses it")
    root: str | None = key(None, "folder of the data set", path=True, affects_result=False)
    images: str | None = key(
        None,
        "where images lie below data.root (data=folder): a pattern with {split} and {stem}; see docs/data.md",
        unit="null = images/{split}/{stem}",
        path=True,
        affects_result=False,
    )
    masks: str | None = key(
        None,
        "where label masks lie, likewise; image and mask share {stem}",
        unit="null = masks/{split}/{stem}",
        path=True,
        affects_result=False,
    )
    lists: str | None = key(
        None,
        "text files that name the images of each split, one a line, such as lists/{split}.txt (data=folder)",
        unit="null = every image counts",
        path=True,
        affects_result=False,
    )
    unlabelled: str = key(
        "refuse", "what to do about images without mask (data=folder)", choices=("refuse", "skip"), affects_result=False
    )
    train_split: str = key("train", "split to train on")
    val_split: str = key("val", "split to validate or evaluate on")
    train_samples: int | None = key(None, "train on the first so many samples only", unit="null = all", low=1)
    label_kind: str = key("labelIds", "which label files of Cityscapes", choices=("labelIds", "labelTrainIds"))
    classes: str | None = key(
        None,
        "YAML file of names and colours (data=folder), or the name of one in conf/classes",
        unit="null = classes.yaml in data.root",
        path=True,
        affects_result=False,
    )
    mask_encoding: str = key(
        "auto",
        "what masks hold: label ids or the classes' colours; auto tells by the files",
        choices=("auto", "ids", "colors"),
    )
    image_bits: int | None = key(
        None, "bits of the values in 16-bit images", unit="null = 16, and they must show", low=8, high=16
    )
    street: StreetConfig = key(StreetConfig, "the embedded synthetic scenes (data=street)")
    options: dict[str, Any] = key(dict, "what other data sets take: +data.options.KEY=VALUE")
    crop_size: list[int] = key([960, 960], "size of a training sample", unit="pixels (H, W)", low=1, pair="[512,1024]")
    scale_range: list[int] = key(
        [512, 2048], "short side before the crop, drawn uniformly", unit="pixels", low=1, pair="[512,1024]"
    )
    flip: float = key(0.5, "probability of a horizontal flip", low=0, high=1)
    blur: float = key(0.5, "probability of a Gaussian blur of radius U(0, 1)", low=0, high=1)
    color_jitter: float = key(
        0.0, "strength of changes of brightness, contrast and saturation", unit="0 = off", low=0, high=1
    )
    augment_on: str = key(
        "host",
        "who scales, crops, flips, blurs and changes colours: host, the loader processes; device, whole batches there, "
        "which rounds otherwise",
        choices=("host", "device"),
    )
    check: bool = key(
        True,
        "look at headers, validation files and some training labels before the first step; what is found is kept",
        affects_result=False,
    )
    eval_batch_size: int = key(1, "images per device in validation and evaluation", low=1, affects_result=False)
    workers: int = key(
        4, "loader processes per device", unit="0 = load in the process itself", low=0, affects_result=False
    )
    cache: str = key(
        "off",
        "where decoded samples are kept: packed, in files that all processes map; memory, of each process",
        choices=("off", "packed", "memory"),
        affects_result=False,
    )
    cache_folder: str | None = key(
        None, "folder for data.cache=packed", unit="null = data/packed", path=True, affects_result=False
    )
    pin_memory: bool = key(True, "page-locked memory for batches, where an accelerator is", affects_result=False)
    persistent_workers: bool = key(True, "keep loader processes between epochs", affects_result=False)
    prefetch_factor: int = key(2, "batches loaded ahead by each loader process", low=1, affects_result=False)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.scale_range[0] > self.scale_range[1]:
            raise UserError(f"data.scale_range={list(self.scale_range)} runs backwards; give [smallest,largest]")


@dataclass
class ModelConfig(Keys, above="model."):
    """The network and where its first weights come from."""

    name: str = key("icnet", "which network, by its name in icnet.models.NETWORKS")
    backbone: str | None = key(
        None, "the network's option of this name, of networks that have one", unit="null = the network's own"
    )
    options: dict[str, Any] = key(dict, "the network's other options: +model.options.KEY=VALUE")
    backbone_weights: str | None = key(
        None, "file, hub id or package of ImageNet weights", unit="null = random weights", path=True
    )
    weights: str | None = key(None, "checkpoint to fine-tune from, or camvid", unit="null = none", path=True)
    keep: float = key(
        1.0,
        "share of the filters of model.weights that is kept, those with the largest norms; the rest is pruned",
        unit="1 = all; of those that are left in a pruned file",
        above=0,
        high=1,
    )

    def __post_init__(self) -> None:
        """Check that an option is given in one place; names and values are the network's to check."""
        super().__post_init__()
        if "backbone" in self.options:
            raise UserError("model.options.backbone is given in another place; use model.backbone")
        if self.keep < 1 and not self.weights:
            raise UserError(f"model.keep={self.keep} prunes trained weights; give model.weights=FILE too")


@dataclass
class LossConfig(Keys, above="loss."):
    """The cascade loss."""

    resize: str = key(
        "nearest",
        "how labels and outputs come to one size: nearest resizes labels, logits outputs, blend mixes class ids",
        choices=("nearest", "logits", "blend"),
    )
    weights: dict[str, float] = key(
        dict, "weights of the network's outputs, where not its own: +loss.weights.NAME=1", low=0
    )
    sub124_weight: float | None = key(
        None, "weights.sub124, as it was called before", unit="null = the network's", low=0
    )
    sub24_weight: float | None = key(None, "weights.sub24, as it was called before", unit="null = the network's", low=0)
    sub4_weight: float | None = key(None, "weights.sub4, as it was called before", unit="null = the network's", low=0)
    class_weights: Any = key(
        None,
        "weights of the classes: a list; or median (frequency balancing), median_sqrt (its root) or enet, counted "
        "in the training labels",
        unit="null = all 1",
        values=CLASS_WEIGHTS,
    )
    ohem_threshold: float = key(
        0.0, "keep the pixels whose true class is at most this probable", unit="0 = off", low=0, high=1
    )
    ohem_min_kept: float = key(0.1, "share of the labelled pixels that is kept at least", low=0, high=1)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in OUTPUT_WEIGHTS:
            output = name.removesuffix("_weight")
            if getattr(self, name) is not None and output in self.weights:
                raise UserError(f"loss.{name} and loss.weights.{output} are the same; give only one of them")

    def given_weights(self) -> dict[str, float]:
        """Return the outputs' weights that are given, under either name."""
        named = {name.removesuffix("_weight"): getattr(self, name) for name in OUTPUT_WEIGHTS}
        return {**self.weights, **{name: weight for name, weight in named.items() if weight is not None}}


@dataclass
class OptimConfig(Keys, above="optim."):
    """The optimizer."""

    name: str = key("sgd", "which optimizer; optim=NAME chooses it", choices=("sgd", "adamw", "npu_fused_sgd"))
    lr: float = key(0.01, "learning rate", above=0)
    momentum: float = key(0.9, "momentum of SGD", low=0, below=1)
    nesterov: bool = key(False, "Nesterov's momentum, of SGD")
    betas: list[float] = key([0.9, 0.999], "decay of AdamW's two averages", low=0, below=1, pair="[0.9,0.999]")
    weight_decay: float = key(1e-4, "decay of the weights", low=0)
    head_lr_mult: float = key(1.0, "learning rate of what no ImageNet weights exist for", unit="times lr", above=0)
    backbone_lr_mult: float = key(
        1.0, "learning rate of what ImageNet weights exist for", unit="times lr; 0 = its weights stay", low=0
    )
    freeze: list[str] = key(
        [],
        "parts of the network whose weights and BatchNorm statistics stay, as it names them: of ICNet backbone, sub1, "
        "head",
        unit="[] = none",
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise UserError("optim.nesterov=true needs momentum; give optim.momentum a number above 0")


@dataclass
class SchedulerConfig(Keys, above="scheduler."):
    """The learning rate over time."""

    name: str = key("cosine", "which schedule; scheduler=NAME chooses it", choices=("cosine", "poly", "constant"))
    warmup_epochs: int = key(3, "linear warm-up of cosine", unit="epochs", low=0)
    power: float = key(0.9, "exponent of poly", above=0)


@dataclass
class TrainerConfig(Keys, above="trainer."):
    """Devices, length and bookkeeping of a run; handed to Lightning's Trainer."""

    accelerator: str = key(
        "auto", "kind of device; auto takes an NPU before a GPU before the CPU", choices=("auto", "cpu", "gpu", "npu")
    )
    devices: Any = key(1, "devices on each node, one process each: how many, or which", values=DEVICES)
    num_nodes: int = key(1, "machines that train together; each of them is given the same command", low=1)
    rdzv_endpoint: str | None = key(
        None, "HOST:PORT of one of several nodes, where they find each other", values=ENDPOINT, affects_result=False
    )
    max_restarts: int = key(
        0, "how often processes that died are started again, from the last checkpoint", low=0, affects_result=False
    )
    batch_size: int = key(7, "training samples per device", low=1)
    max_epochs: int = key(200, "length of the training", unit="epochs", low=1)
    max_steps: int = key(-1, "bound of the optimizer's steps", unit="-1 = no bound", low=1, otherwise=(-1, "all"))
    val_every_n_epochs: int = key(
        1,
        "epochs from one validation to the next",
        unit="0 = the published validation schedule: see conf/experiment/full.yaml",
        low=0,
    )
    log_every_n_steps: int = key(10, "steps from one line of the log to the next", low=1, affects_result=False)
    accumulate_grad_batches: int = key(1, "batches whose gradients make one step", low=1)
    gradient_clip_val: float = key(0.0, "largest norm of the gradient", unit="0 = off", low=0)
    sync_batchnorm: bool = key(False, "BatchNorm's statistics over all devices; ignored on one")
    compile: bool = key(
        False, "compile the network for the crop of training; where that fails the run goes on without and says why"
    )
    activation_checkpointing: bool = key(
        False, "compute activations again in the backward pass: less memory, more time", affects_result=False
    )
    deterministic: bool = key(False, "only algorithms that give the same bits again")
    limit_train_batches: float | None = key(
        None, "batches of an epoch", unit="null = all; up to 1.0 a share, above a count", values=LIMIT
    )
    limit_val_batches: float | None = key(
        None, "batches of a validation", unit="null = all; 0 = no validation; a share or a count", values=LIMIT_OR_NONE
    )
    progress_bar: bool = key(True, "show progress, and the model as a table", affects_result=False)
    profiler: bool = key(
        False, "record where the time of a few steps goes, as debug=profiler does", affects_result=False
    )


@dataclass
class AmpConfig(Keys, above="amp."):
    """Mixed precision, as apex named it; see ``icnet.training.precision``."""

    opt_level: str = key(
        "O0",
        "O0: float32; O1: float16 autocast; O2: float16 weights with float32 masters; bf16: autocast; or another "
        "of icnet.training.precision.OPT_LEVELS",
    )
    loss_scale: Any = key(
        1, "factor of the loss at O1 and O2: a number, which is never checked, or dynamic", unit="above 0, or dynamic"
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        given = self.loss_scale
        if given != "dynamic" and not (type(given) in {int, float} and 0 < given < math.inf):
            raise UserError(f"amp.loss_scale={given} is unknown; give a number above 0, such as 128, or dynamic")


@dataclass
class CallbackConfig(Keys, above="callbacks."):
    """What watches a run."""

    checkpoint_every_n_steps: int = key(
        0, "a further last.ckpt inside the epoch", unit="steps; 0 = at ends of epochs only", low=0, affects_result=False
    )
    pictures: int = key(
        4, "validation images drawn beside label and prediction", unit="0 = off", low=0, affects_result=False
    )
    extremes: int = key(
        3, "best and worst images drawn for the report, of each", unit="0 = off", low=0, affects_result=False
    )
    ema_decay: float = key(0.0, "exponential moving average of the weights", unit="0 = off", low=0, below=1)
    early_stop_patience: int = key(
        0, "validations without a better val/miou before the run stops", unit="0 = off", low=0
    )
    device_stats: bool = key(False, "log memory and utilization of the device", affects_result=False)
    throughput_warmup_steps: int = key(10, "steps left out of images/s", low=0, affects_result=False)
    throughput_exact: bool = key(
        False, "wait for the device after every step, so that each can be timed", affects_result=False
    )
    result_files: str | None = key(
        None, "also write the Ascend port's log files", unit="null = none", choices=("perf", "acc")
    )


@dataclass
class LoggerConfig(Keys, above="logger."):
    """Where curves go."""

    tensorboard: bool = key(True, "TensorBoard files in the run folder", affects_result=False)
    csv: bool = key(True, "a CSV file in the run folder", affects_result=False)
    wandb: bool = key(False, "Weights & Biases", affects_result=False)
    mlflow: bool = key(False, "MLflow", affects_result=False)
    project: str = key("icnet", "name of the project at Weights & Biases and MLflow", affects_result=False)


@dataclass
class TrainConfig(Keys):
    """Everything ``train.py`` reads."""

    data: DataConfig = key(REQUIRED, "the data set, its augmentation and its loading")
    model: ModelConfig = key(ModelConfig, "the network and where its first weights come from")
    loss: LossConfig = key(LossConfig, "the cascade loss")
    optim: OptimConfig = key(OptimConfig, "the optimizer")
    scheduler: SchedulerConfig = key(SchedulerConfig, "the learning rate over time")
    trainer: TrainerConfig = key(TrainerConfig, "devices, length and bookkeeping of a run")
    amp: AmpConfig = key(AmpConfig, "mixed precision")
    callbacks: CallbackConfig = key(CallbackConfig, "what watches a run")
    logger: LoggerConfig = key(LoggerConfig, "where curves go")
    seed: int = key(
        1, "of the first weights, the order of the samples and their augmentation", low=0, high=LARGEST_SEED
    )
    resume: str | None = key(
        None,
        "go on from a checkpoint: its path; here = this folder's, if it has one; auto = also one like this run's",
        unit="null = start anew",
        path=True,
        affects_result=False,
    )
    resume_changed_data: bool = key(
        False,
        "go on although samples came, went or changed since the run was begun, as after the repair of a file",
        affects_result=False,
    )
    skip_finished: bool = key(
        False,
        "do nothing where the folder holds this run's result already; for restarted sweeps",
        affects_result=False,
    )
    output_dir: str = key(REQUIRED, "this run's folder; hydra.run.dir=PATH chooses it", affects_result=False)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.trainer.compile and self.trainer.activation_checkpointing:
            raise UserError(
                "trainer.compile=true and trainer.activation_checkpointing=true exclude each other: a compiled network "
                "chooses by itself what it keeps; leave one of them out"
            )
        if self.callbacks.early_stop_patience and self.trainer.limit_val_batches == 0:
            raise UserError("callbacks.early_stop_patience needs validation; do not set trainer.limit_val_batches=0")


@dataclass
class InferenceConfig(Keys, above="eval."):
    """How an evaluation turns an image into labels."""

    scales: list[float] = key(
        [1.0], "sizes of the image whose probabilities are averaged", unit="times its own", above=0
    )
    flip: bool = key(False, "average with the mirrored image")
    sliding_window: list[int] | None = key(
        None,
        "overlapping windows instead of the whole image",
        unit="pixels (H, W); null = the whole image at once",
        low=1,
        pair="[height,width]",
    )
    short_side: int | None = key(
        None, "bring the image's shorter side to this first, labels back", unit="pixels; null = as it is", low=1
    )

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not self.scales:
            raise UserError("eval.scales=[] is empty; give at least one scale, such as [1.0]")


@dataclass
class RuntimeConfig(Keys, above="runtime."):
    """What computes a model."""

    provider: str = key(
        "auto",
        "what ONNX Runtime computes an .onnx file with; auto = what is there for the device",
        choices=("auto", "cpu", "cuda", "tensorrt", "openvino", "cann"),
    )
    compile: bool = key(False, "compile a checkpoint's network by torch, for each of up to 8 sizes of image")
    classes: str | None = key(
        None, "YAML or JSON file with the classes of an .onnx file of another program", unit="null = it has its own",
        path=True,
    )  # fmt: skip
    mean: list[float] | None = key(
        None, "of such a file's input, per RGB channel, for images scaled to 0-1", unit="null = ImageNet's"
    )
    std: list[float] | None = key(
        None, "of such a file's input, per RGB channel, for images scaled to 0-1", unit="null = ImageNet's", above=0
    )
    resize: bool = key(True, "images of another size than a file's fixed one: true: resized for it; false: refused")


def _overrides(schema: type, name: str, **nested: Any) -> Any:
    """Make a dataclass with a schema's keys, each of them null unless given."""
    keys: list[Any] = []
    for declared in fields(schema):
        if declared.name in nested:
            kind = nested[declared.name]
            keys.append((declared.name, kind, field(default_factory=kind, metadata=declared.metadata)))
        else:
            kind = Optional[declared.type]  # noqa: UP045 - a value, no annotation
            keys.append((declared.name, kind, field(default=None, metadata=declared.metadata)))
    made = make_dataclass(name, keys)
    made.__doc__ = schema.__doc__
    made.__module__ = __name__  # Python before 3.12 leaves that out, and pickle needs it
    return made


# eval.py's data keys. With ``data=checkpoint``, which has no name, those that are given replace the checkpoint's.
StreetOverrides: Any = _overrides(StreetConfig, "StreetOverrides")
DataOverrides: Any = _overrides(DataConfig, "DataOverrides", street=StreetOverrides, options=dict)


@dataclass
class EvalConfig(Keys):
    """Everything ``eval.py`` reads."""

    ckpt: str | None = key(
        None,
        "checkpoint or exported file to evaluate",
        unit="null = the newest best checkpoint below outputs/",
        path=True,
    )
    data: DataOverrides = key(DataOverrides, "the data; what is null is as the checkpoint has it")
    trainer: TrainerConfig = key(TrainerConfig, "devices; what concerns training is not read")
    eval: InferenceConfig = key(InferenceConfig, "how an image is turned into labels")
    runtime: RuntimeConfig = key(RuntimeConfig, "what computes the model")
    save_pictures: bool = key(False, "draw every image beside label and prediction", affects_result=False)
    save_label_ids: bool = key(False, "write predictions as Cityscapes takes them", affects_result=False)
    extremes: int = key(
        3, "best and worst images drawn for the report, of each", unit="0 = off", low=0, affects_result=False
    )
    seed: int = key(1, "of whatever is drawn at random", low=0, high=LARGEST_SEED)
    output_dir: str = key(REQUIRED, "this evaluation's folder; hydra.run.dir=PATH chooses it", affects_result=False)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.trainer.limit_val_batches == 0:
            raise UserError("trainer.limit_val_batches=0 leaves nothing to evaluate; give a number above 0, or null")


@dataclass
class ExportOptions(Keys, above="export."):
    """The exported graph; ranges of the opset and of the sizes are the exporter's."""

    target: str = key(
        "onnx",
        "what is written. onnx: for ONNX Runtime, TensorRT and others; pt2: a program of torch.export; openvino: .xml "
        "and .bin for OpenVINO; om: for Ascend, compiled where atc is",
        choices=("onnx", "pt2", "openvino", "om"),
    )
    profile: str | None = key(
        None,
        "whose documents the ONNX graph is held to: operators, opset, types, sizes; cpu also finds labels faster",
        unit="null = generic; ascend with export.target=om",
        choices=("generic", "cpu", "ascend", "tensorrt", "browser"),
    )
    soc: str = key("Ascend310P3", "chip that atc compiles for, as its --soc_version takes it (export.target=om)")
    height: int = key(1024, "rows of the input", unit="pixels, from the network's smallest side")
    width: int = key(2048, "columns of the input", unit="pixels, from the network's smallest side")
    batch: Any = key(1, "images per call", values=BATCH)
    dynamic_size: bool = key(False, "leave height and width open")
    opset: int = key(
        17, "version of ONNX's operators", unit="11, which older Ascend tools take, to the newest of the installed onnx"
    )
    head: str | None = key(
        None,
        "what comes out. logits: float32 (N, C, H, W); argmax: int32 labels (N, H, W); argmax_u8: uint8 labels; "
        "confidence: uint8 labels and their float32 probabilities",
        unit="null = logits; argmax_u8 with export.target=om",
        choices=("logits", "argmax", "argmax_u8", "confidence"),
    )
    normalize: bool = key(False, "true: uint8 RGB goes in; false: normalised float32; with om the chip does it")
    images: str | None = key(
        None,
        "file, folder or glob to verify on",
        unit="null = the checkpoint's data, or synthetic scenes",
        path=True,
    )
    precision: str = key(
        "fp32",
        "numbers of the graph. fp16: float16; int8: calibrated and scored on the data; both with onnx and openvino",
        choices=("fp32", "fp16", "int8"),
    )
    symmetric: bool | None = key(
        None,
        "int8 without zero points, as TensorRT takes it; ONNX Runtime and OpenVINO are slower with it on CPUs",
        unit="null = true with export.profile=tensorrt",
    )
    calibration_images: int = key(
        300, "training images that int8 is calibrated on, evenly spread over the split", low=1
    )
    max_drop: float = key(
        0.5, "by how much int8 may lower mIoU on the validation split; layers that cost more stay in float32",
        unit="points", low=0,
    )  # fmt: skip


@dataclass
class ExportConfig(Keys):
    """Everything ``export.py`` reads."""

    ckpt: str | None = key(
        None, "checkpoint to export", unit="null = the newest best checkpoint below outputs/", path=True
    )
    output: str | None = key(
        None,
        "the file, relative to the current folder",
        unit="null = the network's name with the target's suffix, such as ICNet.onnx",
        path=True,
    )
    export: ExportOptions = key(ExportOptions, "the exported graph")
    data: DataOverrides = key(
        DataOverrides, "what int8 is calibrated and scored on; what is null is as the checkpoint has it"
    )
    progress_bar: bool = key(True, "show progress of calibrating and scoring")


@dataclass
class DemoConfig(Keys):
    """Everything ``demo.py`` reads."""

    ckpt: str | None = key(
        None, "checkpoint or .onnx file", unit="null = the newest best checkpoint below outputs/", path=True
    )
    input: str | None = key(
        None, "an image, a video, a folder of them, a quoted glob, or camera:0; has to be given", path=True
    )
    output: str = key(REQUIRED, "folder for the results", path=True)
    device: str = key("auto", "where to compute: cpu, cuda, cuda:1, npu, ...; auto = an accelerator where there is one")
    alpha: float = key(0.5, "opacity of the colours on the overlay", low=0, high=1)
    smooth: float = key(
        0.0, "share of the frames before in the probabilities of a video, against flicker", unit="0 = off",
        low=0, high=0.9,
    )  # fmt: skip
    confidence: bool = key(False, "write the largest probability of each pixel as a picture, and its means as a CSV")
    frames: int | None = key(
        None, "frames to take of a video or a camera", unit="null = all, a camera's to Ctrl-C", low=1
    )
    strict: bool = key(False, "end at the first input that cannot be read, not after the others")
    eval: InferenceConfig = key(InferenceConfig, "how an image is turned into labels")
    runtime: RuntimeConfig = key(RuntimeConfig, "what computes the model")

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not self.output:
            raise UserError("output= is empty; give the folder for the results, such as output=results")


@dataclass
class CheckOptions(Keys, above="check."):
    """What ``python -m icnet.data`` looks at."""

    splits: list[str] = key([], "which splits", unit="[] = data.train_split and data.val_split")
    sample: int | None = key(
        None, "decode so many samples of each split only; headers are read of all", unit="null = all", low=1
    )
    pictures: int = key(6, "samples drawn with their labels, of each split", unit="0 = none", low=0)


@dataclass
class CheckConfig(Keys):
    """Everything ``python -m icnet.data`` reads."""

    data: DataConfig = key(REQUIRED, "the data set; what concerns augmentation and loading is not read")
    check: CheckOptions = key(CheckOptions, "what is looked at")
    progress_bar: bool = key(True, "show progress")
    seed: int = key(1, "which samples are decoded where check.sample is given, and drawn", low=0, high=LARGEST_SEED)
    output: str = key(REQUIRED, "folder for the page and the JSON file", path=True)

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not self.output:
            raise UserError("output= is empty; give the folder for the page, such as output=outputs/check")
