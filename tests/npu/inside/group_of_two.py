"""What the strategy does in a group, on two simulated NPUs; started by tests/npu/test_group.py under torchrun.

Writes a JSON file for each rank: ``group_of_two.py FOLDER``.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import distributed, nn
from torch.utils.data import DataLoader

from icnet import npu

npu.load()
npu.register()
folder, found = Path(sys.argv[1]), {}


class Line(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        rank, strategy = self.global_rank, self.trainer.strategy
        self.log("count", torch.tensor(3 + rank, device=self.device), sync_dist=True)  # int64, reduced to its mean
        whole = torch.tensor([rank + 1.0], device=self.device)
        found["mean"] = strategy.reduce(whole, reduce_op="mean").item()
        found["mean_in_place"] = whole.item()
        whole_number = torch.tensor([rank + 1], device=self.device)
        found["mean_of_integers"] = strategy.reduce(whole_number, reduce_op="avg").item()
        found["integers_afterwards"] = whole_number.item()
        found["sum"] = strategy.reduce(torch.tensor([rank + 1], device=self.device), reduce_op="sum").item()
        with mock.patch.object(distributed, "barrier") as barrier:
            strategy.barrier()
        found["barrier"] = barrier.call_args.kwargs["device_ids"]
        torch.npu.manual_seed(100 + rank)
        return self.layer(batch).square().mean()

    def on_train_epoch_end(self):
        self.trainer.save_checkpoint(folder / "two.ckpt")
        found["drawn"] = torch.rand(3, device=self.device).tolist()
        self.trainer.strategy.load_checkpoint(folder / "two.ckpt", weights_only=True)
        found["drawn_again"] = torch.rand(3, device=self.device).tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


strategy = npu.NPUDDPStrategy()
found["timeout"] = strategy._timeout.total_seconds()
trainer = Trainer(
    accelerator="npu", devices=2, strategy=strategy, max_epochs=1, logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
)  # fmt: skip
trainer.fit(Line(), DataLoader(torch.ones(4, 4), batch_size=2))
found["count"] = trainer.callback_metrics["count"].item()
found["left"] = not distributed.is_initialized()
saved = torch.load(folder / "two.ckpt", weights_only=True)["npu_rng_states"]
found["states_differ"] = len(saved) == 2 and not torch.equal(*saved)
(folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))
