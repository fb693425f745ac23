"""Train a network: ``python train.py data=street``; ``python train.py --help`` lists every key."""

from icnet.config import TrainConfig
from icnet.launch import command


@command.script("train", TrainConfig)
def main(config: TrainConfig) -> float | None:
    """Prepare the data, then train in as many processes as there are devices; returns the best val/miou."""
    from icnet import factory
    from icnet.launch import processes
    from icnet.run.folder import archive_finished, finished_results, refuse_evaluation

    refuse_evaluation(config)
    config = factory.resolve_task(factory.resolve(config))
    done = finished_results(config)
    if done:
        print(f"{config.output_dir} is done already (skip_finished=false to train it again)")
        return done.best_miou
    archive_finished(config)
    factory.prepare_data(config.data)
    config = factory.resolve_resume(processes.resumed_after_restart(config))
    factory.check_data(config)
    return processes.run(fit, config, factory.process_count(config.trainer))


def fit(config: TrainConfig) -> float | None:
    """Train in this process; returns the best val/miou, or None if nothing was validated."""
    from pathlib import Path

    from lightning.pytorch import seed_everything

    from icnet import factory
    from icnet.report import write_report_or_warn
    from icnet.run.paths import RunPaths
    from icnet.run.reader import read_run

    seed_everything(config.seed, verbose=False)
    factory.prepare_device(config.trainer)
    data = factory.data_module(config.data, config.seed, batch_size=config.trainer.batch_size)
    task = factory.task(config, data.classes, class_weights=factory.class_weights(config, data.train))
    run = RunPaths(Path(config.output_dir))
    if config.resume:
        factory.copy_best_checkpoint(Path(config.resume), run.folder)
    trainer = factory.lightning_trainer(config, data)
    trainer.fit(task, data, ckpt_path=config.resume, weights_only=True)
    if not trainer.is_global_zero:
        return None
    write_report_or_warn(run.folder)
    results = read_run(run.folder).training
    print(f"{results.data}: {results.summary}; everything of this run is in {run.folder}, {run.report.name} first")
    return results.best_miou


if __name__ == "__main__":
    main()
