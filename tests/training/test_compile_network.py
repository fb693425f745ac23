"""A compiled network trains as the other does, or is left out with one line that says why."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.data import DataLoader

from icnet.data.labels import ClassTable
from icnet.models import SegmentationNetwork
from icnet.models.modules import ConvBNReLU, resize
from icnet.training import precision
from icnet.training.callbacks import compile_network
from icnet.training.callbacks.compile_network import CompileNetwork
from icnet.training.callbacks.last_checkpoint import LastCheckpoint
from icnet.training.callbacks.weight_average import ExponentialAverage
from icnet.training.losses import CascadeLoss
from icnet.training.precision import precision_plugin
from icnet.training.segmentation_task import SegmentationTask

CLASSES = ClassTable(("dark", "bright", "red"), ((0, 0, 0), (255, 255, 255), (255, 0, 0)))


class Small(SegmentationNetwork):
    loss_weights = {"fine": 1.0, "coarse": 0.4}

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem = ConvBNReLU(3, 8, 3, stride=4)
        self.heads = nn.ModuleDict({name: nn.Conv2d(8, num_classes, 1) for name in self.loss_weights})

    def forward(self, image):
        features = self.stem(image)
        if self.training:
            return {name: head(features) for name, head in self.heads.items()}
        return resize(self.heads["fine"](features), image.shape[2:])


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8),
            "mask": torch.randint(3, (2, 32, 32), generator=generator, dtype=torch.uint8),
        }
        for _ in range(count)
    ]


def fit(
    folder: Path, *callbacks, steps: int = 4, level: str = "O0", resume: Path | None = None,
    clipped: float | None = None, accumulated: int = 1,
) -> SegmentationTask:  # fmt: skip
    """Train for some steps; the generator of random numbers is part of what is compared."""
    torch.manual_seed(0)
    task = SegmentationTask(
        Small(3), CascadeLoss(Small.loss_weights, ignore_index=255), CLASSES,
        lambda task: torch.optim.SGD(task.net.parameters(), 0.1, 0.9), {},
    )  # fmt: skip
    last = LastCheckpoint(folder / "last.ckpt", 2)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=True, default_root_dir=folder, callbacks=[*callbacks, last],
        plugins=[precision_plugin(level, 1, "cpu")], gradient_clip_val=clipped, accumulate_grad_batches=accumulated,
    )  # fmt: skip
    trainer.fit(task, DataLoader(batches(2), batch_size=None), ckpt_path=resume, weights_only=True)
    task.drawn = torch.rand(1)
    return task


@pytest.fixture
def backend(monkeypatch):
    """Compile as torch does by default, but without a C++ compiler, in little time."""

    def use(name):
        monkeypatch.setattr(compile_network, "BACKENDS", {"cpu": name})

    use("aot_eager")
    yield use
    torch.compiler.reset()


def compiler() -> CompileNetwork:
    return CompileNetwork(2, (32, 32))


def states(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.usefixtures("backend")
def test_compiled_training_is_the_same_and_so_are_the_keys_of_its_checkpoints(tmp_path):
    average = (ExponentialAverage(0.5),), (ExponentialAverage(0.5), compiler())
    plain, compiled = fit(tmp_path / "plain", *average[0]), fit(tmp_path / "compiled", *average[1])
    assert plain.compiled is None
    assert compiled.compiled is not None
    assert torch.equal(plain.drawn, compiled.drawn)
    ours, theirs = states(tmp_path / "compiled"), states(tmp_path / "plain")
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)
    assert list(compiled.state_dict()) == list(plain.state_dict())


@pytest.mark.usefixtures("backend")
def test_compiled_training_resumes_to_the_bit(tmp_path):
    whole = fit(tmp_path / "whole", compiler())
    fit(tmp_path / "half", compiler(), steps=2)
    resumed = fit(tmp_path / "rest", compiler(), resume=tmp_path / "half" / "last.ckpt")
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def graphed(net, sample, **options):
    """Stand in for torch.cuda.make_graphed_callables: results lie where those of the call before lay."""
    forward, parameters = net.forward, list(net.parameters())
    leaves, spec = tree_flatten(forward(*sample))
    outputs, gradients = ([torch.empty_like(tensor) for tensor in tensors] for tensors in (leaves, parameters))

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, image, *_):
            sample[0].copy_(image)
            with torch.enable_grad():
                ctx.computed = tree_leaves(forward(*sample))
            for output, value in zip(outputs, ctx.computed, strict=True):
                output.data.copy_(value.detach())
            return tuple(output.detach() for output in outputs)

        @staticmethod
        def backward(ctx, *given):
            for place, value in zip(gradients, torch.autograd.grad(ctx.computed, parameters, given), strict=True):
                place.copy_(value)
            return None, *(place.detach() for place in gradients)

    net.forward = lambda image: tree_unflatten(Graphed.apply(image, *parameters), spec)
    return net


@pytest.mark.parametrize("level", ["O0", "bf16"])
@pytest.mark.parametrize("clipped", [None, 0.1])
def test_training_goes_through_a_graph_that_writes_over_its_own_results(tmp_path, monkeypatch, caplog, level, clipped):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(compile_network, "BACKENDS", {"cpu": compile_network.CUDA_GRAPH})
    plain = fit(tmp_path / "plain", level=level, clipped=clipped)
    compiled = fit(tmp_path / "compiled", compiler(), level=level, clipped=clipped)
    assert "left out" not in caplog.text
    assert "forward" not in vars(compiled.net)  # validation has images of other sizes
    for key, value in plain.state_dict().items():
        assert torch.equal(compiled.state_dict()[key], value), key


def test_weights_in_float16_go_through_a_graph_too(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(compile_network, "BACKENDS", {"cpu": compile_network.CUDA_GRAPH})
    monkeypatch.setitem(precision.OPT_LEVELS, "O2", replace(precision.OPT_LEVELS["O2"], imitated_on_cpu=False))
    plain = fit(tmp_path / "plain", level="O2")
    compiled = fit(tmp_path / "compiled", compiler(), level="O2")
    assert "left out" not in caplog.text
    for key, value in plain.state_dict().items():
        assert torch.equal(compiled.state_dict()[key], value), key


def test_a_gradient_of_two_parameters_is_no_case_for_a_graph(tmp_path, monkeypatch, caplog):
    def grad(*args, **options):
        found = list(plain(*args, **options))
        found[-1] = found[-3].view_as(found[-1]) if found[-1].shape == found[-3].shape else found[-1]
        return found

    plain = torch.autograd.grad
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(compile_network, "BACKENDS", {"cpu": compile_network.CUDA_GRAPH})
    assert fit(tmp_path, compiler()).compiled is None
    assert "parameters share a gradient" in caplog.text


def test_accumulated_gradients_are_not_left_where_a_graph_writes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compile_network, "BACKENDS", {"cpu": compile_network.CUDA_GRAPH})
    monkeypatch.setattr(compile_network, "INDUCTOR", "aot_eager")
    caplog.set_level(logging.INFO)
    assert fit(tmp_path, compiler(), accumulated=2).compiled is not None
    assert "compiling the network with aot_eager" in caplog.text
    torch.compiler.reset()


def broken(graph, inputs):
    raise OSError("no compiler here\nand a long trace")


def wrong(graph, inputs):
    return lambda *args: [output * 2 for output in graph(*args)]


@pytest.mark.parametrize(
    ("name", "level", "reason"),
    [
        (broken, "O0", "no compiler here"),
        (wrong, "O0", "its outputs differ by 1 of their norm from those without, allowed 0.001"),
        ("nonsense", "O0", "InvalidBackend: Invalid backend: 'nonsense'"),
        ("aot_eager", "O1", "float16 is imitated on CPUs"),
    ],
    ids=["failing", "wrong", "unknown", "imitated float16"],
)
def test_what_does_not_work_is_left_out_with_one_line(backend, tmp_path, caplog, name, level, reason):
    backend(name)
    with caplog.at_level(logging.WARNING, "icnet"):
        task = fit(tmp_path / "left out", compiler(), level=level)
    assert task.compiled is None
    (line,) = [record.getMessage() for record in caplog.records if "trainer.compile" in record.getMessage()]
    assert line.startswith("trainer.compile=true is left out: ")
    assert reason in line
    assert "\n" not in line
    if level == "O0":
        plain = fit(tmp_path / "plain")
        for key, value in plain.state_dict().items():
            assert torch.equal(task.state_dict()[key], value), key


@pytest.mark.slow
def test_inductor_compiles_or_is_left_out_with_its_reason(backend, tmp_path, caplog):
    backend("inductor")
    with caplog.at_level(logging.INFO, "icnet"):
        compiled = fit(tmp_path / "compiled", compiler())
    left_out = [record for record in caplog.records if "is left out" in record.getMessage()]
    assert len(left_out) == (compiled.compiled is None)
    for key, value in fit(tmp_path / "plain").state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, rtol=1e-4, atol=1e-5)
