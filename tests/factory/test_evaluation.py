"""What an evaluation takes from the file that it opens."""

import hashlib
from pathlib import Path

from icnet import factory
from icnet.config import EvalConfig
from icnet.factory.evaluation import evaluation_data

OLD = Path(__file__).parents[1] / "old_checkpoints" / "v0.1_resnet18.ckpt"


def test_evaluation_takes_the_data_of_an_old_checkpoint(tmp_path):
    config = EvalConfig(ckpt=str(OLD), output_dir=str(tmp_path))
    data = evaluation_data(config, factory.open_evaluated(config))
    assert (data.name, data.eval_batch_size) == ("street", 1)


def test_evaluation_names_the_file_that_was_opened_though_a_training_writes_another(tmp_path):
    file = tmp_path / "best.ckpt"
    file.write_bytes(OLD.read_bytes())
    opened = factory.open_evaluated(EvalConfig(ckpt=str(file), output_dir=str(tmp_path)))
    file.write_bytes(b"another")
    assert opened.sha256 == hashlib.sha256(OLD.read_bytes()).hexdigest()
