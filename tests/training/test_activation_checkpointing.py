"""Activations that are computed again: the same training to the bit, with less kept."""

import pytest
import torch
from torch import nn

from icnet.config import DataConfig, ModelConfig, TrainConfig, TrainerConfig
from icnet.errors import UserError
from icnet.factory.task import resolve_task
from icnet.models import NETWORKS, SegmentationNetwork, build_network
from icnet.models.icnet import ICNet
from icnet.training.activation_checkpointing import checkpoint_activations
from tests.models.network_tester import ALL_NETWORKS, SMALL


def networks(name: str = "icnet") -> tuple[SegmentationNetwork, SegmentationNetwork]:
    torch.manual_seed(0)
    plain, repeated = (build_network(name, 3, **SMALL.get(name, {})) for _ in range(2))
    repeated.load_state_dict(plain.state_dict())
    checkpoint_activations(repeated)
    return plain, repeated


def step(net: nn.Module, image: torch.Tensor) -> torch.Tensor:
    loss = sum(logits.square().mean() for logits in net(image).values())
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ALL_NETWORKS)
@pytest.mark.parametrize("frozen", [False, True], ids=["all trained", "stem's statistics frozen"])
def test_loss_gradients_and_running_statistics_are_equal_to_the_bit(name, frozen):
    plain, repeated = networks(name)
    image = torch.randn(2, 3, 64, 96)
    for net in (plain, repeated):
        if frozen:
            net.get_submodule(net.stages[1]).eval()
    for _ in range(2):
        assert torch.equal(step(plain, image), step(repeated, image))
    ours, theirs = repeated.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    if name == "icnet":
        assert ours["backbone.layer1.0.bn1.num_batches_tracked"] == 4  # two branches, two steps
    for (name, parameter), other in zip(plain.named_parameters(), repeated.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name


@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_less_than_half_is_kept(name):
    kept = []
    for net in networks(name):
        sizes: dict[int, int] = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            net(torch.randn(2, 3, 128, 128))
        parameters = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
        kept.append(sum(size for place, size in sizes.items() if place not in parameters))
    assert kept[1] < kept[0] / 2


def test_evaluation_computes_once():
    _, net = networks()
    calls = []
    net.backbone.layer1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        net.eval()(torch.randn(1, 3, 64, 64))
    assert len(calls) == 2  # branches


def config(level: str = "O0", **trainer: object) -> TrainConfig:
    made = TrainConfig(
        data=DataConfig(name="street"), model=ModelConfig(backbone="resnet18"), output_dir="outputs/test",
        trainer=TrainerConfig(accelerator="cpu", activation_checkpointing=True, **trainer),
    )  # fmt: skip
    made.amp.opt_level = level
    return made


def test_imitated_float16_is_refused():
    with pytest.raises(UserError, match="amp.opt_level=O1 on a CPU.*choose amp=o0 or amp=bf16"):
        resolve_task(config("O1"))
    assert resolve_task(config("bf16"))


def test_network_without_stages_is_refused(monkeypatch):
    monkeypatch.setitem(NETWORKS, "icnet", type("Bare", (ICNet,), {"stages": ()}))
    with pytest.raises(UserError, match="Bare names no stages"):
        resolve_task(config())


def test_compiling_besides_is_refused():
    with pytest.raises(UserError, match="exclude each other.*leave one of them out"):
        config(compile=True)
