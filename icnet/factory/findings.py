"""What ``python -m icnet.data`` finds in a data set."""

from dataclasses import replace
from pathlib import Path

from icnet.config import CheckConfig
from icnet.data import check, known, survey
from icnet.errors import UserError
from icnet.factory.checking import kept_as, load_known
from icnet.factory.data import data_module, data_title, prepare_data
from icnet.run.data_findings import SAMPLES, DataFindings
from icnet.version import __version__


def look_through(config: CheckConfig, output: Path) -> DataFindings:
    """Look through whole splits, and draw some of their samples into a folder of ``output``.

    Args:
        config: What to look at.
        output: Where the folder of pictures goes.

    Returns:
        What was found; what a training would end at is listed, not raised.

    Raises:
        UserError: If the data set or its list of classes is not there.
    """
    data, options = config.data, config.check
    prepare_data(data)
    problems: list[str] = []
    warnings: list[str] = []
    pictures: list[str] = []
    splits: list[survey.Split] = []
    for name in dict.fromkeys(options.splits or [data.train_split, data.val_split]):
        try:
            dataset = data_module(replace(data, val_split=name), config.seed).val
        except UserError as error:
            problems.append(str(error))
            continue
        kept = kept_as(data, dataset)
        with known.alone(kept):
            found = load_known(kept, dataset)
            split = survey.look_through(
                name, dataset, found, sample=options.sample, seed=config.seed, progress=config.progress_bar
            )
            known.keep(kept, found)
        problems += split.problems
        if name == data.train_split:
            problems += [line for line in [check.all_ignored(dataset, found)] if line and not split.problems]
            warnings += check.label_warnings(dataset, found)
        elif name == data.val_split:
            warnings += check.score_warnings(dataset, found)
        drawn = survey.draw_samples(split, output / SAMPLES, options.pictures)
        pictures += [f"{SAMPLES}/{path.name}" for path in drawn]
        splits.append(split)
    if not splits:
        raise UserError(problems[0])
    trained = next((split for split in splits if split.name == data.train_split), None)
    return DataFindings(
        data=data_title(data),
        root=data.root,
        version=__version__,
        problems=problems,
        warnings=warnings,
        splits=[survey.describe(split, progress=config.progress_bar) for split in splits],
        duplicates=survey.find_duplicates(splits),
        suspicious=[item for split in splits for item in survey.find_suspicious(split)],
        class_weights=survey.suggest_weights(trained) if trained else [],
        pictures=pictures,
    )
