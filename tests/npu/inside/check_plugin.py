"""The plugin against Lightning and the real torch_npu; run by tests/npu/test_inside.py in the simulation."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import DeviceStatsMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from icnet import npu
from icnet.config import TrainerConfig
from icnet.errors import UserError
from icnet.factory import devices
from icnet.training.precision import precision_plugin


@pytest.fixture(autouse=True)
def registered():
    npu.load()
    npu.register()


class Line(LightningModule):
    """One linear layer that keeps what its last step saw."""

    def __init__(self) -> None:
        super().__init__()
        seed_everything(0, verbose=False)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        prediction = self.layer(batch)
        self.seen = (batch.device, prediction.dtype)
        self.weights_on = self.layer.weight.device  # Lightning brings the module back to the CPU in the end
        self.noise = torch.rand(3, device=self.device)
        return prediction.float().square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, module=None, **arguments):
    arguments = {"strategy": npu.SingleNPUStrategy(), "devices": 1, "max_epochs": 1, "logger": False, **arguments}
    checkpoint = arguments.pop("ckpt_path", None)
    trainer = Trainer(
        accelerator="npu", default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **arguments,
    )  # fmt: skip
    module = module or Line()
    trainer.fit(module, DataLoader(torch.arange(16.0).view(4, 4) / 16, batch_size=2), ckpt_path=checkpoint)
    return trainer, module


def test_strategy_that_lightning_would_choose_is_refused_instead_of_training_on_the_cpu(tmp_path):
    with pytest.raises(MisconfigurationException, match="was given the device cpu"):
        fit(tmp_path, strategy="auto")


@pytest.mark.parametrize(("wanted", "device"), [(1, "npu:0"), ([3], "npu:3")])
def test_single_strategy_trains_on_the_device_that_is_asked_for(tmp_path, wanted, device):
    trainer, module = fit(tmp_path, devices=wanted)
    assert module.seen[0] == torch.device(device)
    assert module.weights_on == torch.device(device)
    assert trainer.strategy.root_device == torch.device(device)


def test_single_strategy_refuses_two_devices(tmp_path):
    with pytest.raises(MisconfigurationException, match="one NPU, not 2"):
        fit(tmp_path, devices=2)


def test_o1_computes_in_float16_where_lightnings_own_16_mixed_would_stay_in_float32(tmp_path):
    own = fit(tmp_path, plugins=[precision_plugin("O1", 128, "npu")])[1]
    assert own.seen[1] == torch.float16
    lightnings = fit(tmp_path, precision="16-mixed")[1]
    assert lightnings.seen[1] == torch.float32  # the trap: if this fails, it is closed, and this test can go


def test_random_numbers_of_the_device_go_on_after_a_resume(tmp_path):
    path = tmp_path / "half.ckpt"
    trainer, whole = fit(tmp_path)
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["npu_rng_states"][0].device.type == "cpu"
    expected = torch.rand(5, device="npu:0").cpu()
    seed_everything(123, verbose=False)
    assert not torch.equal(torch.rand(5, device="npu:0").cpu(), expected)
    trainer.strategy.load_checkpoint(path, weights_only=True)
    assert torch.equal(torch.rand(5, device="npu:0").cpu(), expected)


def test_device_statistics_reach_the_logger(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="csv")
    fit(tmp_path, logger=logger, callbacks=[DeviceStatsMonitor()], log_every_n_steps=1)
    header = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert "memory.free" in header
    assert "allocated_bytes.all.peak" in header
    stats = npu.NPUAccelerator().get_device_stats(torch.device("npu", 0))
    assert 0 < stats["memory.free"] <= stats["memory.total"]


def test_registration_can_be_repeated_and_gives_names_to_all_three():
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    npu.register()
    npu.register()
    assert isinstance(AcceleratorRegistry.get("npu"), npu.NPUAccelerator)
    assert isinstance(StrategyRegistry.get("single_npu"), npu.SingleNPUStrategy)
    assert isinstance(StrategyRegistry.get("npu_ddp"), npu.NPUDDPStrategy)


@pytest.mark.parametrize(
    ("given", "indices"),
    [(2, [0, 1]), ([1, 3], [1, 3]), ("auto", list(range(8))), ("0,2", [0, 2]), (-1, list(range(8)))],
)
def test_devices_are_counted_and_picked(given, indices):
    assert npu.NPUAccelerator.parse_devices(given) == indices


@pytest.mark.parametrize("given", [9, [8], [0, 0], []])
def test_devices_that_do_not_exist_are_refused(given):
    with pytest.raises(MisconfigurationException, match="8 NPUs"):
        npu.NPUAccelerator.parse_devices(given)


@pytest.mark.parametrize(("given", "words"), [(9, "8 NPUs; give at most 8"), ([0, 8], "8 NPUs, 0 to 7")])
def test_wrong_devices_in_the_configuration_say_how_many_there_are(given, words):
    with pytest.raises(UserError, match=words):
        devices.device_indices(TrainerConfig(accelerator="npu", devices=given))


def test_auto_finds_the_npus_first():
    trainer = devices.resolve_accelerator(TrainerConfig())
    assert trainer.accelerator == "npu"
    arguments = devices.device_arguments(trainer)
    assert isinstance(arguments["strategy"], npu.NPUDDPStrategy | npu.SingleNPUStrategy)


def test_communication_hooks_are_refused_instead_of_ignored():
    with pytest.raises(MisconfigurationException, match="no communication hooks"):
        npu.NPUDDPStrategy(ddp_comm_hook=print)


def test_deployed_weights_lie_as_npus_want_them():
    from icnet.data.labels import CITYSCAPES_CLASSES
    from icnet.deploy.runtimes.torch_segmenter import TorchSegmenter
    from icnet.models.icnet import ICNet
    from icnet.models.modules import ImageNormalizer

    segmenter = TorchSegmenter(ICNet(19, "resnet18"), ImageNormalizer(), CITYSCAPES_CLASSES).to("npu:0")
    assert all(parameter.is_contiguous() for parameter in segmenter.net.parameters())


def test_bfloat16_is_refused_with_the_reason():
    with pytest.raises(UserError, match="BatchNorm"):
        precision_plugin("bf16", 1, "npu")
