import copy

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader

from icnet.models.icnet import ICNet
from icnet.training.losses import CascadeLoss
from icnet.training.optim import adamw, parameter_groups, poly, seek, sgd, warmup_cosine, warmup_cosine_factor
from icnet.training.precision import precision_plugin
from icnet.training.segmentation_task import SegmentationTask
from tests.training.test_compile_network import CLASSES, Small, batches

# Worked out by hand from the recipe: (e + 1) / 4 for e < 3, then 0.5 (1 + cos(pi (e - 3) / 197)) for 200 epochs.
FACTORS_OF_200 = {
    0: 0.25,
    1: 0.50,
    2: 0.75,
    3: 1.0,
    4: 0.99993642,  # 1 - x^2 / 4 + x^4 / 48 with x = pi / 197 = 0.015947171
    101: 0.50398675,  # one half and sin(x / 2) / 2: half a step before the middle, which is epoch 101.5
    102: 0.49601325,
    199: 0.00006358,  # as far from 0 as epoch 4 is from 1: 196 = 197 - 1 steps
}


@pytest.fixture
def net():
    with torch.device("meta"):
        return ICNet(19, "resnet18")


def two_groups(lr: float = 0.1, mult: float = 10.0) -> list[dict[str, object]]:
    return parameter_groups([nn.Parameter(torch.zeros(2))], [nn.Parameter(torch.zeros(3))], lr, mult)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


# ---------------------------------------------------------------- groups


def test_groups_have_names_and_the_multiplied_rate(net):
    backbone, head = parameter_groups(net.backbone_parameters(), net.head_parameters(), 0.02, 10.0)
    assert (backbone["name"], backbone["lr"]) == ("backbone", 0.02)
    assert (head["name"], head["lr"]) == ("head", pytest.approx(0.2))


def test_every_parameter_is_in_exactly_one_group(net):
    groups = parameter_groups(net.backbone_parameters(), net.head_parameters(), 0.01, 1.0)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in net.parameters()}
    names = {id(p): name for name, p in net.named_parameters()}
    assert all(names[id(p)].startswith("backbone.") for p in groups[0]["params"])
    assert not any(names[id(p)].startswith("backbone.") for p in groups[1]["params"])


def test_sgd_takes_the_hand_worked_steps():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = sgd([{"params": [weight], "lr": 0.1}], momentum=0.9, weight_decay=0.5, nesterov=False)
    assert isinstance(optimizer, SGD)
    values = []
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
        values.append(weight.item())
    # Slope 1 + 0.5 * 1 = 1.5: 1 - 0.15; then slope 1 + 0.5 * 0.85 = 1.425, momentum 0.9 * 1.5 + 1.425 = 2.775.
    assert values == pytest.approx([0.85, 0.85 - 0.2775])


def test_nesterov_sgd_takes_the_hand_worked_step():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = sgd([{"params": [weight], "lr": 0.1}], momentum=0.9, weight_decay=0.0, nesterov=True)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * (1 + 0.9))


def test_adamw_decays_apart_from_the_gradient():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = adamw([{"params": [weight], "lr": 0.1}], betas=(0.8, 0.99), weight_decay=0.5)
    assert isinstance(optimizer, AdamW)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)
    weight.grad = torch.tensor([4.0])
    optimizer.step()
    # First the decay, 1 - 0.1 * 0.5, then a whole step of 0.1 against the gradient, however large that is.
    assert weight.item() == pytest.approx(0.95 - 0.1)


def adam_step(weight: nn.Parameter, *, fused: bool, loaded=None) -> torch.optim.Optimizer:
    optimizer = adamw([{"params": [weight], "lr": 0.1}], betas=(0.8, 0.99), weight_decay=0.5, fused=fused)
    if loaded:
        optimizer.load_state_dict(loaded)
    weight.grad = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape).to(memory_format=torch.channels_last)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("fused", [False, True])
def test_checkpoint_of_another_device_and_order_in_memory_goes_on_alike(fused):
    """The fused kernel of CPUs trusts that all tensors lie in one order, and is silently wrong where they do not."""
    saved = adam_step(nn.Parameter(torch.ones(4, 3, 2, 2)), fused=not fused).state_dict()
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].contiguous()
    saved["state"][0]["exp_avg_sq"] = saved["state"][0]["exp_avg_sq"].contiguous()
    results = []
    for kind in (fused, False):
        weight = nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last))
        optimizer = adam_step(weight, fused=kind, loaded=copy.deepcopy(saved))
        assert optimizer.param_groups[0]["fused"] is (True if kind else None)
        results.append(weight.detach())
    torch.testing.assert_close(*results)


def test_fused_adamw_takes_the_same_steps():
    weights = [nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)) for _ in range(2)]
    for weight, fused in zip(weights, (False, True), strict=True):
        adam_step(weight, fused=fused)
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_sgd_takes_the_same_steps_and_goes_on_where_another_part_was_frozen(nesterov):
    results = []
    for fused in (False, True):
        weights = [nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last)) for _ in range(2)]
        saved = None
        for trained in (weights[:1], weights):  # the second was frozen at first
            options = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov, "fused": fused}
            optimizer = sgd([{"params": weights, "lr": 0.1}], **options)
            if saved:
                optimizer.load_state_dict(saved)
            for _ in range(2):
                for weight in trained:
                    weight.grad = torch.linspace(-1, 1, weight.numel()).reshape(4, 2, 2, 3).permute(0, 3, 1, 2)
                optimizer.step()
            saved = copy.deepcopy(optimizer.state_dict())
            saved["state"][0]["momentum_buffer"] = saved["state"][0]["momentum_buffer"].contiguous()
        results.append([weight.detach() for weight in weights])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.filterwarnings("ignore:.*:")
def test_fused_adamw_is_clipped_in_bfloat16(tmp_path):
    class Norms(Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            gradients = [parameter.grad.flatten() for parameter in pl_module.net.parameters()]
            self.norms.append(torch.cat(gradients).norm().item())

    norms = Norms()
    task = SegmentationTask(
        Small(3), CascadeLoss(Small.loss_weights, ignore_index=255), CLASSES,
        lambda task: adamw([{"params": task.net.parameters(), "lr": 0.1}], (0.9, 0.999), 0.0, fused=True), {},
    )  # fmt: skip
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, gradient_clip_val=0.01, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=[norms],
        plugins=[precision_plugin("bf16", 1, "cpu")],
    )  # fmt: skip
    trainer.fit(task, DataLoader(batches(2), batch_size=None))
    assert norms.norms == pytest.approx([0.01, 0.01], rel=1e-3)


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(("epoch", "factor"), FACTORS_OF_200.items())
def test_warmup_cosine_equals_the_hand_worked_table(epoch, factor):
    assert warmup_cosine_factor(epoch, 200, 3) == pytest.approx(factor, abs=2e-8)


def test_warmup_cosine_of_a_short_run_equals_the_hand_worked_table():
    # 2 epochs of warm-up, then the half cosine in quarters: 1, cos 45 degrees, 1/2, ...
    factors = [warmup_cosine_factor(epoch, 6, 2) for epoch in range(6)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 0.85355339, 0.5, 0.14644661])


def test_warmup_cosine_falls_after_the_warmup_and_stays_at_zero_beyond_the_end():
    factors = [warmup_cosine_factor(epoch, 200, 3) for epoch in range(200)]
    assert all(a < b for a, b in zip(factors[:3], factors[1:4], strict=True))
    assert all(a > b > 0 for a, b in zip(factors[3:-1], factors[4:], strict=True))
    assert warmup_cosine_factor(200, 200, 3) == pytest.approx(0, abs=1e-15)
    assert warmup_cosine_factor(250, 200, 3) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (1, 3), (3, 3), (2, 1)])
def test_warmup_cosine_of_tiny_runs_starts_above_zero(epochs, warmup):
    factors = [warmup_cosine_factor(epoch, epochs, warmup) for epoch in range(epochs)]
    assert all(0 < factor <= 1 for factor in factors)


def test_warmup_cosine_moves_both_groups_once_per_epoch_and_keeps_their_ratio():
    optimizer = sgd(two_groups(lr=0.1, mult=10.0), momentum=0.9, weight_decay=1e-4, nesterov=False)
    scheduler = warmup_cosine(optimizer, epochs=200, warmup=3)
    for epoch in range(200):
        backbone, head = rates(optimizer)
        assert head == pytest.approx(10 * backbone)
        if epoch in FACTORS_OF_200:
            assert backbone == pytest.approx(0.1 * FACTORS_OF_200[epoch], abs=2e-9)
        optimizer.step()
        scheduler.step()


def test_poly_equals_the_formula_and_keeps_the_ratio():
    optimizer = sgd(two_groups(lr=0.01, mult=10.0), momentum=0.9, weight_decay=1e-4, nesterov=False)
    scheduler = poly(optimizer, steps=8, power=0.9)
    measured = []
    for _ in range(10):
        backbone, head = rates(optimizer)
        assert head == pytest.approx(10 * backbone)
        measured.append(backbone)
        optimizer.step()
        scheduler.step()
    # 1, (7/8)^0.9, (3/4)^0.9, ..., and 0 from the last step on.
    table = [1, 0.8867624, 0.7718895, 0.6550765, 0.5358867, 0.4136453, 0.2871746, 0.1538931, 0, 0]
    assert measured == pytest.approx([0.01 * factor for factor in table], abs=1e-8)


def test_poly_is_sought_to_where_it_would_stand():
    optimizer = sgd(two_groups(lr=0.01, mult=10.0), momentum=0.9, weight_decay=1e-4, nesterov=False)
    scheduler = poly(optimizer, steps=8, power=0.9)
    # (1/2)^0.9, and then as the table of the test above.
    assert seek(scheduler, 4, [0.01, 0.1]) == pytest.approx([0.005358867, 0.05358867], rel=1e-6)
    measured = []
    for _ in range(4):
        measured.append(rates(optimizer))
        optimizer.step()
        scheduler.step()
    expected = [0.5358867, 0.4136453, 0.2871746, 0.1538931]
    assert [backbone for backbone, _ in measured] == pytest.approx([0.01 * factor for factor in expected], abs=1e-8)
    assert rates(optimizer) == [0, 0]
    assert seek(scheduler, 9, [0.01, 0.1]) == [0, 0]  # beyond the end


def test_cosine_is_sought_to_where_it_would_stand():
    optimizer = sgd(two_groups(lr=0.1, mult=10.0), momentum=0.9, weight_decay=1e-4, nesterov=False)
    scheduler = warmup_cosine(optimizer, epochs=6, warmup=2)
    assert seek(scheduler, 3, [0.1, 1.0]) == pytest.approx([0.085355339, 0.85355339])
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == pytest.approx([0.05, 0.5])
