"""A checkpoint of version 0.1, whose description has another form than today's, still does everything."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from icnet.deploy.trained_network import read_network
from icnet.models.icnet import ICNet
from icnet.models.network import NetworkDescription

OLD = Path(__file__).parent / "old_checkpoints" / "v0.1_resnet18.ckpt"


def filled(value: Any, generator: torch.Generator) -> Any:
    """Give the tensors, which the file holds as one expanded zero each, the size and the spread of a trained one's."""
    if isinstance(value, dict):
        return {
            key: 0.5 + filled(part, generator).abs() if str(key).endswith("running_var") else filled(part, generator)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [filled(part, generator) for part in value]
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
        spread = 1 / math.sqrt(value[0].numel()) if value.dim() > 1 else 0.5
        return spread * torch.randn(value.shape, generator=generator)
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The checkpoint with seeded values in its network and its optimizer."""
    content = torch.load(OLD, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    content["state_dict"] = filled(content["state_dict"], generator)
    for optimizer in content["optimizer_states"]:
        optimizer["state"] = filled(optimizer["state"], generator)
    path = tmp_path_factory.mktemp("old") / "last.ckpt"
    torch.save(content, path)
    return path


def test_old_description_is_the_old_one():
    model = torch.load(OLD, weights_only=True)["icnet"]["model"]
    assert model == {"name": "icnet", "backbone": "resnet18", "num_classes": 19}


def test_old_checkpoint_gives_the_logits_of_its_tensors(old):
    tensors = torch.load(old, weights_only=True)["state_dict"]
    net = ICNet(19, "resnet18")
    net.load_state_dict({key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")})
    model = read_network(old)
    assert model.checkpoint.network == NetworkDescription(
        "icnet", {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1}, 19
    )
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = net.eval()(image)
        assert logits.std() > 0.01
        assert torch.equal(model.net(image), logits)


def test_old_checkpoint_is_evaluated(old, script, street_root, tmp_path):
    done = script(
        "eval", f"ckpt={old}", f"data.root={street_root}", "trainer=cpu_1p", "trainer.progress_bar=false",
        f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert done.status == 0, done.err
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["model"], results["data"]) == ("icnet_resnet18", "street (synthetic)")
    assert torch.tensor(results["confusion"]).sum() > 0


def test_old_checkpoint_is_resumed(old, small, script, tmp_path):
    done = script("train", *small, f"resume={old}", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path}")
    assert done.status == 0, done.err
    assert "not what the run was begun with" not in (tmp_path / "train_0.log").read_text()
    before, after = (torch.load(path, weights_only=True) for path in (old, tmp_path / "checkpoints" / "last.ckpt"))
    assert (before["epoch"], before["global_step"]) == (1, 6)
    assert (after["epoch"], after["global_step"]) == (2, 9)
    options = {"backbone": "resnet18", "quarter_branch": "image", "enlarge": 1}
    model = {"name": "icnet", "options": options, "num_classes": 19}
    assert after["icnet"]["model"] == model
    moved = [key for key, value in before["state_dict"].items() if not torch.equal(value, after["state_dict"][key])]
    assert len(moved) == len(before["state_dict"])


def test_other_loss_weights_than_the_old_ones_are_named(old, small, script, tmp_path):
    done = script(
        "train", *small, f"resume={old}", "trainer.max_epochs=3", "+loss.weights.sub24=0.5", f"hydra.run.dir={tmp_path}"
    )
    assert done.status == 0, done.err
    log = (tmp_path / "train_0.log").read_text()
    assert "not what the run was begun with: loss.weights.sub24 was 0.4, is 0.5;" in log


def test_old_results_of_this_very_run_are_taken_for_done(small, script, tmp_path):
    (tmp_path / "results.json").write_text(OLD.with_name("v0.1_results.json").read_text())
    words = ("train", *small, "skip_finished=true", f"hydra.run.dir={tmp_path}")
    done = script(*words)
    assert done.status == 0, done.err
    assert f"{tmp_path} is done already" in done.out
    assert "loss.sub4_weight was null, is 0.3" in script(*words, "loss.sub4_weight=0.3").error
