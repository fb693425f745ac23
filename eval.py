"""Evaluate a checkpoint or an exported ONNX file: ``python eval.py ckpt=PATH``; ``python eval.py --help``."""

from typing import Any

from icnet.config import EvalConfig
from icnet.launch import command


@command.script("eval", EvalConfig)
def main(config: EvalConfig) -> float | None:
    """Open the model, prepare its data, then evaluate in as many processes as there are devices; returns the mIoU."""
    from dataclasses import replace
    from pathlib import Path

    from icnet import factory
    from icnet.deploy.locate import find_checkpoint
    from icnet.launch import processes
    from icnet.run.folder import refuse_training

    refuse_training(Path(config.output_dir))
    config = replace(factory.resolve(config), ckpt=str(find_checkpoint(config.ckpt)))
    config, segmenter = factory.resolve_evaluation(config)
    return processes.run(evaluate, config, factory.process_count(config.trainer), segmenter)


def evaluate(config: EvalConfig, segmenter: Any = None) -> float | None:
    """Evaluate in this process, with the model if it is open here; rank 0 writes the results and returns the mIoU."""
    from pathlib import Path

    import torch

    from icnet import factory
    from icnet.deploy import score_files
    from icnet.report import write_report_or_warn
    from icnet.run.paths import RunPaths
    from icnet.run.results import write_results

    segmenter, data = segmenter or factory.open_evaluated(config), config.data
    module = factory.data_module(data, config.seed)
    run = RunPaths(Path(config.output_dir))
    task = factory.evaluation_task(config, segmenter, module.classes)
    trainer = factory.evaluation_trainer(config, module)
    trainer.test(task, module, verbose=False)
    if not trainer.is_global_zero:
        return None
    title = f"{factory.data_title(data)}, {data.val_split}: {Path(config.ckpt or '').name} ({segmenter.runtime})"
    results = factory.evaluation_results(config, data, module, task, trainer.strategy.root_device)
    score_files.print_scores(results, title)
    score_files.write_csv(run.iou_csv, results)
    score_files.draw_confusion(run.confusion_png, torch.tensor(results.confusion), module.classes, title)
    write_results(run.results, results)
    write_report_or_warn(run.folder)
    files = (run.report, run.results, run.iou_csv)
    print(f"{', '.join(path.name for path in files)} and {run.confusion_png.name} are in {run.folder}")
    return results.miou


if __name__ == "__main__":
    main()
