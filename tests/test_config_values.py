"""Each value that the schema refuses, with what it says; how such a mistake leaves a script, test_bad_input.py holds.

The words are read as Hydra reads them and put into the schema as Hydra puts them, without composing ``conf/``.
"""

from dataclasses import fields, is_dataclass

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from icnet.config import DemoConfig, EvalConfig, ExportConfig, TrainConfig
from icnet.errors import UserError

REQUIRED = {
    TrainConfig: ("data.name=street", "output_dir=run"),
    EvalConfig: ("output_dir=run",),
    ExportConfig: (),
    DemoConfig: ("output=shown",),
}


def configure(schema: type, *words: str) -> object:
    """Return the instance of a schema that words of a command line make."""
    composed = OmegaConf.structured(schema)
    for key in fields(schema):
        if is_dataclass(key.type):
            composed[key.name] = OmegaConf.structured(key.type)
    parser = OverridesParser.create()
    for word in (*REQUIRED[schema], *words):
        override = parser.parse_override(word)
        OmegaConf.update(composed, override.key_or_group, override.value())
    return OmegaConf.to_object(composed)


@pytest.mark.parametrize("schema", REQUIRED)
def test_defaults_are_allowed(schema):
    assert isinstance(configure(schema), schema)


TRAINING = [
    ("data.label_kind=nope", "labelIds, labelTrainIds"),
    ("data.mask_encoding=colours", "data.mask_encoding=colours is unknown; choose one of auto, ids, colors"),
    ("data.image_bits=7", "data.image_bits=7", "from 8 to 16"),
    ("data.crop_size=[64]", "data.crop_size=[64] has 1 numbers; give two"),
    ("data.scale_range=[96,64]", "data.scale_range=[96, 64] runs backwards"),
    ("trainer.batch_size=0", "batch_size=0", "trainer.batch_size"),
    ("data.eval_batch_size=0", "data.eval_batch_size=0", "from 1"),
    ("data.workers=-1", "data.workers=-1", "from 0"),
    ("data.flip=2", "data.flip=2.0", "from 0 to 1"),
    ("data.street.height=8", "data.street.height=8", "from 64"),
    ("loss.resize=cubic", "loss.resize=cubic is unknown; choose one of nearest, logits, blend"),
    ("loss.sub4_weight=-1", "loss.sub4_weight=-1.0", "from 0"),
    ("loss.class_weights=[-1.0]", "loss.class_weights=[-1.0]", "from 0"),
    ("optim.lr=-0.1", "optim.lr=-0.1", "above 0"),
    ("optim.lr=0", "optim.lr=0.0", "above 0"),
    ("optim.lr=nan", "optim.lr=nan", "above 0"),
    ("optim.lr=inf", "optim.lr=inf", "above 0"),
    ("optim.weight_decay=-1", "optim.weight_decay=-1.0", "from 0"),
    ("optim.momentum=1", "optim.momentum=1.0", "from 0 to below 1"),
    ("optim.betas=[0.9]", "optim.betas=[0.9] has 1 numbers; give two"),
    ("optim.betas=[0.9,1]", "optim.betas=1.0", "from 0 to below 1"),
    ("scheduler.name=nope", "cosine, poly, constant"),
    ("scheduler.warmup_epochs=-1", "scheduler.warmup_epochs=-1", "from 0"),
    ("trainer.accelerator=tpu", "trainer.accelerator=tpu is unknown; choose one of auto, cpu, gpu, npu"),
    ("trainer.max_epochs=0", "trainer.max_epochs=0", "from 1"),
    ("trainer.max_steps=0", "trainer.max_steps=0", "from 1, or -1"),
    ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan", "from 0"),
    ("trainer.limit_train_batches=-1", "trainer.limit_train_batches=-1.0", "a count above 1"),
    ("trainer.limit_train_batches=1.5", "trainer.limit_train_batches=1.5", "a count above 1"),
    ("trainer.limit_val_batches=nan", "trainer.limit_val_batches=nan", "a count above 1"),
    ("trainer.devices=0", "trainer.devices=0", "a count from 1"),
    ("trainer.devices=-1", "trainer.devices=-1", "a count from 1"),
    ("trainer.devices=abc", "trainer.devices=abc", "a count from 1"),
    ("trainer.devices=null", "trainer.devices=None", "a count from 1"),
    ("trainer.devices=[]", "trainer.devices=[]", "a list of indices"),
    ("trainer.devices=[1,1]", "trainer.devices=[1, 1]", "a list of indices"),
    ("trainer.num_nodes=0", "trainer.num_nodes=0", "from 1"),
    ("trainer.max_restarts=-1", "trainer.max_restarts=-1", "from 0"),
    ("trainer.rdzv_endpoint=here", "trainer.rdzv_endpoint=here is no endpoint", "HOST:PORT"),
    ("trainer.rdzv_endpoint=localhost:99999", "trainer.rdzv_endpoint=localhost:99999 is no endpoint"),
    ("trainer.rdzv_endpoint=:29500", "trainer.rdzv_endpoint=:29500 is no endpoint"),
    ("callbacks.ema_decay=1", "callbacks.ema_decay=1.0", "from 0 to below 1"),
    ("seed=-1", "seed=-1", "from 0 to 4294967295"),
    ("seed=99999999999", "seed=99999999999", "from 0 to 4294967295"),
]
TOGETHER = [
    ("optim.momentum=0 optim.nesterov=true", "optim.nesterov=true needs momentum"),
    ("callbacks.early_stop_patience=1 trainer.limit_val_batches=0", "callbacks.early_stop_patience needs validation"),
    ("amp.opt_level=O1 amp.loss_scale=0", "amp.loss_scale=0 is unknown", "a number above 0, such as 128, or dynamic"),
    ("amp.opt_level=O2 amp.loss_scale=static", "amp.loss_scale=static is unknown", "or dynamic"),
    ("amp.opt_level=O1 amp.loss_scale=true", "amp.loss_scale=True is unknown"),
]
EVALUATION = [
    ("eval.scales=[]", "eval.scales=[] is empty"),
    ("eval.scales=[0]", "eval.scales=0.0", "above 0"),
    ("eval.scales=[inf]", "eval.scales=inf", "above 0"),
    ("eval.sliding_window=[64]", "eval.sliding_window=[64]", "[height,width]"),
    ("trainer.devices=0", "trainer.devices=0", "a count from 1"),
    ("trainer.limit_val_batches=0", "trainer.limit_val_batches=0", "nothing to evaluate"),
    ("trainer.rdzv_endpoint=here", "trainer.rdzv_endpoint=here is no endpoint", "HOST:PORT"),
    ("seed=-1", "seed=-1", "from 0"),
    ("extremes=-1", "extremes=-1", "from 0"),
]
EXPORT = [
    ("export.head=softmax", "export.head=softmax is unknown; choose one of logits, argmax, argmax_u8, confidence"),
    ("export.batch=0", "export.batch=0", "from 1, or dynamic"),
    ("export.batch=1.5", "export.batch=1.5", "from 1, or dynamic"),
    ("export.precision=int4", "export.precision=int4 is unknown; choose one of fp32, fp16, int8"),
    ("export.calibration_images=0", "export.calibration_images=0", "from 1"),
    ("export.max_drop=-1", "export.max_drop=-1", "from 0"),
]
DEMO = [
    ("alpha=2", "alpha=2.0", "from 0 to 1"),
    ("alpha=nan", "alpha=nan", "from 0 to 1"),
    ("smooth=0.95", "smooth=0.95", "from 0 to 0.9"),
    ("frames=0", "frames=0", "a number from 1"),
    ("eval.scales=[-1]", "eval.scales=-1.0", "above 0"),
    ("output=''", "output= is empty"),
]
CASES = [
    (schema, *case)
    for schema, cases in (
        (TrainConfig, TRAINING + TOGETHER), (EvalConfig, EVALUATION), (ExportConfig, EXPORT), (DemoConfig, DEMO),
    )
    for case in cases
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}")
def test_value_that_is_not_allowed_is_named_with_what_is(case):
    schema, given, *words = case
    with pytest.raises(UserError) as refused:
        configure(schema, *given.split())
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)
