"""What one training step asks of an NPU: nothing that NPUs do wrongly or slowly; run in the simulation."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from icnet import npu
from icnet.data.labels import IGNORE_INDEX
from icnet.models.icnet import ICNet
from icnet.models.modules import ImageNormalizer
from icnet.training.losses import CascadeLoss
from icnet.training.optim import parameter_groups, sgd

DATA_DEPENDENT = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::_local_scalar_dense", "aten::item"}


class Record(TorchDispatchMode):
    """Note every operator with what it was given and what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list, list]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        returned = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        self.calls.append((function._schema.name, given, returned))
        if function._schema.name.startswith("aten::upsample"):
            assert all(not isinstance(item, float) for item in args[2:]), "resized by a factor, not to a size"
        if function._schema.name.startswith("aten::nll_loss") and "backward" not in function._schema.name:
            logits, target = args[:2]
            assert 0 <= int(target.min()) <= int(target.max()) < logits.shape[1]
        return result


@pytest.fixture(scope="module", params=["nearest", "logits", "ohem"])
def second_step(request):
    """Record the second of two training steps: the first may build what is kept."""
    npu.load()
    torch.manual_seed(0)
    device = torch.device("npu", 0)
    net, normalize = ICNet(19, "resnet18").to(device), ImageNormalizer().to(device)
    hard = 0.7 if request.param == "ohem" else 0.0
    mode = "nearest" if request.param == "ohem" else request.param
    criterion = CascadeLoss(
        {"sub124": 1.0, "sub24": 0.4, "sub4": 0.4}, ignore_index=IGNORE_INDEX, resize=mode, ohem_threshold=hard
    ).to(device)
    optimizer = sgd(
        parameter_groups(net.backbone_parameters(), net.head_parameters(), 0.01, 1.0), 0.9, 1e-4, nesterov=False
    )
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8).to(device)
    mask = torch.randint(0, 19, (2, 64, 64)).masked_fill(torch.rand(2, 64, 64) < 0.2, IGNORE_INDEX).byte().to(device)

    def step():
        optimizer.zero_grad()
        criterion(net(normalize(image)), mask)["loss"].backward()
        optimizer.step()

    step()
    with Record() as record:
        step()
    assert len(record.calls) > 300
    return record.calls


def test_nothing_leaves_the_device(second_step):
    moved = {name for name, _, returned in second_step for item in returned if item.device.type != "npu" and item.dim()}
    assert moved == set()


def test_no_shape_depends_on_the_data_and_no_value_is_waited_for(second_step):
    assert {name for name, _, _ in second_step} & DATA_DEPENDENT == set()


def test_no_double_precision(second_step):
    wide = {
        name for name, given, returned in second_step for item in (*given, *returned) if item.dtype == torch.float64
    }
    assert wide == set()


def test_nothing_is_pooled_adaptively(second_step):
    assert not {name for name, _, _ in second_step if "adaptive" in name}
