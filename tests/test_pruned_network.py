"""A pruned network goes from fine-tuning to the demo by the scripts, like any other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import icnet
from icnet.config import ModelConfig
from icnet.deploy.identify import identify
from icnet.factory import network
from icnet.models.__main__ import main
from icnet.models.checkpoints import Checkpoint, read_checkpoint

pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.slow


FULL = "checkpoints/best.ckpt"


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.network == other.network
    assert [key for key, value in one.state_dict.items() if not torch.equal(value, other.state_dict[key])] == []


def test_pruned_training_resumes_to_the_bit_and_is_pruned_further(script, small, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(steps: int, *overrides: object, folder: str) -> Path:
        run = tmp_path / "outputs" / folder
        done = script(
            "train", *small, "trainer.max_epochs=1", f"trainer.max_steps={steps}", "trainer.limit_val_batches=0",
            "callbacks.checkpoint_every_n_steps=1", *overrides, f"hydra.run.dir={run}",
        )  # fmt: skip
        assert done.status == 0, done.err
        return run / "checkpoints" / "last.ckpt"

    words = (f"model.weights={trained / FULL}", "model.keep=0.5")
    whole_file = train(2, *words, folder="whole")
    whole = read_checkpoint(whole_file)
    whole_file.unlink()
    assert whole.network.widths["classifier"] == [19, 64]
    half = train(1, *words, folder="half")
    train(1, words[0], "model.keep=0.6", "resume=auto", folder="other")
    assert (
        "of this configuration here or below outputs/: the run starts anew"
        in (tmp_path / "outputs" / "other" / "train_0.log").read_text()
    )
    assert_same(read_checkpoint(train(2, *words, "resume=auto", folder="auto")), whole)
    assert json.loads((half.parents[1] / "results.json").read_text())["model"] == "icnet_resnet18_pruned"

    taken = read_checkpoint(train(1, f"model.weights={half}", folder="taken"))
    assert taken.network == whole.network
    quarter = read_checkpoint(train(1, f"model.weights={half}", words[1], folder="quarter"))
    assert quarter.network.widths["classifier"] == [19, 32]


def test_pruned_network_is_evaluated_exported_shown_and_converted(script, trained, street_root, tmp_path, capsys):
    full, pruned = read_checkpoint(trained / FULL), tmp_path / "pruned.ckpt"
    net = network(ModelConfig(backbone="resnet18", weights=str(full.path), keep=0.5), full.meta["classes"]["names"])
    described = replace(full.network, widths=net.widths).plain()
    tensors = {f"net.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": tensors, "icnet": full.meta | {"model": described}}, pruned)
    done = script("export", f"ckpt={pruned}", "export.height=64", "export.width=128", f"output={tmp_path / 'net.onnx'}")
    assert done.status == 0, done.err
    photo = next((street_root / "leftImg8bit" / "val").rglob("*.png"))
    labels = []
    for number, file in enumerate((pruned, tmp_path / "net.onnx")):
        net = icnet.load(file, "cpu")
        assert net.segmenter.network == "icnet_resnet18_pruned"
        labels.append(net(photo))
        for words in (
            ("eval", f"data.root={street_root}", "trainer=cpu_1p", f"hydra.run.dir={tmp_path / f'eval{number}'}"),
            ("demo", f"input={photo}", f"output={tmp_path / f'demo{number}'}", "device=cpu"),
        ):
            done = script(words[0], f"ckpt={file}", *words[1:])
            assert done.status == 0, done.err
    assert (labels[0] != labels[1]).mean() < 1e-3

    (line,) = [line for line in identify(pruned).lines if line.startswith("  pruned")]
    assert line.split(maxsplit=1)[1] == (
        "63 modules; 3.0 M of 12.1 M parameters, 16.6 of 65.6 billion multiply-adds for an image of 1024x2048"
    )
    assert main([str(pruned), "--to", "safetensors", str(tmp_path / "net.safetensors")]) == 0
    assert_same(read_checkpoint(tmp_path / "net.safetensors"), read_checkpoint(pruned))
    assert np.array_equal(icnet.load(tmp_path / "net.safetensors", "cpu")(photo), labels[0])
    assert main([str(pruned), "--to", "reference", str(tmp_path / "net.pth")]) == 2
    assert "icnet_resnet18_pruned, which is no network of liminn/ICNet-pytorch" in capsys.readouterr().err
    hub = tmp_path / "hub"
    icnet.PretrainedModel.from_pretrained(pruned).save_pretrained(hub, data_license="-", results=tmp_path / "eval0")
    assert np.array_equal(icnet.PretrainedModel.from_pretrained(hub, device="cpu")(photo), labels[0])
