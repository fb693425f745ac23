"""What counts as another configuration."""

from dataclasses import asdict

import pytest

from icnet.config import TrainConfig
from icnet.run.differences import affects_result, changes, differing, flat
from icnet.run.reader import read_run

NO_RESULT_DEPENDS_ON = [
    "output_dir", "resume", "resume_changed_data",
    "skip_finished", "logger.csv", "logger.wandb", "logger.project", "trainer.progress_bar",
    "trainer.log_every_n_steps", "trainer.max_restarts", "trainer.rdzv_endpoint", "data.root", "data.classes",
    "data.workers",
    "data.pin_memory", "data.persistent_workers", "data.prefetch_factor", "data.eval_batch_size",
    "callbacks.pictures", "callbacks.extremes", "callbacks.device_stats", "callbacks.checkpoint_every_n_steps",
    "callbacks.throughput_warmup_steps", "callbacks.throughput_exact", "save_pictures", "extremes",
]  # fmt: skip
RESULTS_DEPEND_ON = [
    "optim.lr", "trainer.batch_size", "trainer.max_epochs", "data.val_split", "data.street.seed", "callbacks.ema_decay",
    "model.backbone", "seed", "amp.loss_scale", "trainer.limit_val_batches", "eval.flip", "ckpt", "key.of.old.versions",
]  # fmt: skip


@pytest.mark.parametrize("key", NO_RESULT_DEPENDS_ON)
def test_key_affects_no_result(key):
    assert not affects_result(key)


@pytest.mark.parametrize("key", RESULTS_DEPEND_ON)
def test_key_affects_results(key):
    assert affects_result(key)


def test_changes_are_named_as_on_the_command_line():
    before = {"optim": {"lr": 0.1, "betas": (0.9, 0.999)}, "data": {"crop_size": [64, 64], "root": "a"}, "seed": 1}
    after = {"optim": {"lr": 0.2, "betas": [0.9, 0.999]}, "data": {"crop_size": [64, 96], "root": "b"}, "new": 1}
    assert changes(before, after) == ["data.crop_size was [64,64], is [64,96]", "optim.lr was 0.1, is 0.2"]


def test_keys_of_version_0_1_are_compared_under_their_names_of_today():
    assert flat({"data": {"batch_size": 2}}) == {"trainer.batch_size": 2}
    # It wrote both, and trained with the first; the second was only its default.
    assert flat({"data": {"batch_size": 2}, "trainer": {"batch_size": 7}}) == {"trainer.batch_size": 2}
    assert changes({"data": {"batch_size": 2}}, {"trainer": {"batch_size": 4}}) == ["trainer.batch_size was 2, is 4"]


@pytest.mark.parametrize("key", ["data.options", "model.options", "loss.weights"])
def test_option_that_only_one_side_has_is_a_difference(key):
    group, name = key.split(".")
    without, given = {group: {name: {}}}, {group: {name: {"one": 3}}}
    assert changes(without, given) == [f'{key} was {{}}, is {{"one":3}}']
    assert changes(given, without) == [f'{key} was {{"one":3}}, is {{}}']
    assert changes({group: {"other": 1}}, given) == [f'{key} was {{}}, is {{"one":3}}']  # before there was such a key
    assert changes(given, given) == []


def test_key_that_is_new_in_the_schema_had_its_default():
    assert changes({"optim": {"lr": 0.1}}, {"optim": {"lr": 0.1, "nesterov": False}}) == []
    assert changes({"optim": {"lr": 0.1}}, {"optim": {"nesterov": True}}) == ["optim.nesterov was false, is true"]
    assert changes({"optim": {"lr": 0.1}}, {"data": {"flip": 0.2}, "seed": 3}) == []  # nothing is told of these
    assert changes({"optim": {"lr": 0.1}}, {"optim": {"unheard_of": True}}) == []


def test_configuration_does_not_differ_from_itself(small_config):
    assert changes(asdict(small_config), asdict(small_config)) == []
    assert isinstance(small_config, TrainConfig)


def test_runs_differ_in_keys_that_results_depend_on(run, tmp_path):
    folders = [
        run(tmp_path / name, config={"optim.lr": lr, "data.workers": workers})
        for name, lr, workers in (("a", 0.1, 1), ("b", 0.2, 2))
    ]
    assert differing([read_run(folder) for folder in folders]) == [("optim.lr", ["0.1", "0.2"])]


def test_runs_on_other_data_differ_in_them(run, tmp_path):
    told = [
        {"classes": ["road"], "train": {"samples": 6, "sha256": train}, "val": {"samples": 2, "sha256": "ef" * 32}}
        for train in ("ab" * 32, "cd" * 32)
    ]
    runs = [
        read_run(run(tmp_path / str(number), fingerprint=data)) for number, data in enumerate([*told, told[0], None])
    ]
    first, second = "train 6 abababab, val 2 efefefef", "train 6 cdcdcdcd, val 2 efefefef"
    assert differing(runs) == [("data", [first, second, first, ""])]
    assert differing([runs[0], runs[2], runs[3]]) == []
