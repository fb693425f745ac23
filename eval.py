"""Evaluate a checkpoint or an exported ONNX file: ``python eval.py ckpt=PATH``; ``python eval.py --help``."""

from icnet import command
from icnet.config import EvalConfig


@command.script("eval", EvalConfig)
def main(config: EvalConfig) -> float | None:
    """Find the checkpoint, then evaluate in as many processes as there are devices; returns the mIoU (0-1)."""
    from pathlib import Path

    from icnet import build, launch
    from icnet.deploy.choose import find_checkpoint

    build.check_output(Path(config.output_dir))
    config.ckpt = str(find_checkpoint(config.ckpt))
    build.prepare_data(build.evaluation_data(config))
    return launch.run(evaluate, config, build.process_count(config.trainer))


def evaluate(config: EvalConfig) -> float | None:
    """Evaluate in this process; rank 0 writes the results and returns the mIoU."""
    from pathlib import Path

    import torch

    from icnet import build, evaluation
    from icnet.report import leave_report
    from icnet.results import environment, write_results

    data = build.evaluation_data(config)
    module = build.data_module(data, config.seed, train=False)
    run = Path(config.output_dir)
    task = build.evaluation_task(config, module.classes, run)
    trainer = build.evaluation_trainer(config, module)
    trainer.test(task, module, verbose=False)
    if not trainer.is_global_zero:
        return None
    title = f"{build.data_title(data)}, {data.val_split}: {Path(config.ckpt or '').name} ({task.segmenter.runtime})"
    evaluation.print_scores(task.scores, title)
    evaluation.write_csv(run / "iou.csv", task.scores)
    evaluation.draw_confusion(run / "confusion.png", torch.tensor(task.scores["confusion"]), module.classes, title)
    about = build.evaluation_about(config, data, task.segmenter)
    about |= {"val_images": len(module.val), **task.scores, **environment(trainer.strategy.root_device)}
    write_results(run / "results.json", about)
    leave_report(run)
    print(f"report.html, results.json, iou.csv and confusion.png are in {run}")
    return task.scores["miou"]


if __name__ == "__main__":
    main()
