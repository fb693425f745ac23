"""Looking through the files of a data set before anything is trained on them.

What a file's header says only picks out suspects: the verdict on a file, and its words, are those of the reader that
training uses, so that nothing is refused here that could be trained on.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from PIL import Image

from icnet.data.base import SamplePaths
from icnet.data.dataset import SegmentationDataset
from icnet.data.images import image_size, verify_image
from icnet.data.known import Known
from icnet.data.parallel import in_threads
from icnet.data.statistics import count_pixels
from icnet.errors import UserError

Found = TypeVar("Found")

FIRST_LOOK = 64  # masks that are decoded in any case, to see which classes occur
MOST_LOOKS = 1000  # masks that are decoded at most for that; a class in 1 of 100 images is then missed once in 23,000
NAMED_CLASSES = 12  # of many in one message

# What Pillow raises for files that it cannot read, and for images that may be bombs.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def file_format(path: Path) -> str:
    """Return what a header says of format and channels, such as ``PNG RGB``; ``other`` where Pillow cannot tell."""
    try:
        with Image.open(path) as image:
            return f"{image.format} {image.mode}"
    except UNREADABLE:
        return "other"


def plain(dataset: SegmentationDataset) -> SegmentationDataset:
    """Return the same samples as they are, without augmentation."""
    whole = copy.copy(dataset)
    whole.transform, whole.cache = None, None
    return whole


def _look_at(
    left: Sequence[int], look: Callable[[int], Found], keep: Callable[[int, Found], None], title: str, progress: bool
) -> list[str]:
    """Look at samples in parallel and keep what is found; returns one line for each that is refused."""

    def look_or_say(index: int) -> tuple[Found | None, str]:
        try:
            return look(index), ""
        except UserError as error:
            return None, str(error)

    problems = []
    for index, (found, problem) in zip(left, in_threads(look_or_say, left, title, progress=progress), strict=True):
        if problem:
            problems.append(problem)
        else:
            keep(index, cast(Found, found))
    return problems


def look_at_headers(
    dataset: SegmentationDataset, known: Known, indices: Iterable[int], *, progress: bool = False
) -> list[str]:
    """Read the headers of files that were not looked at before: whether images and masks fit each other.

    Args:
        dataset: The samples.
        known: What is known of them; is added to.
        indices: Which of them.
        progress: Whether to show a bar.

    Returns:
        One line for each sample that cannot be used.
    """
    whole = plain(dataset)

    def look(index: int) -> tuple[int, int]:
        sample = whole.samples[index]
        size = image_size(sample.image)
        if sample.mask is not None and image_size(sample.mask) != size:
            pixels = whole[index]["image"]  # raises, unless a header led astray
            size = (pixels.shape[1], pixels.shape[2])
        return size

    def keep(index: int, size: tuple[int, int]) -> None:
        known.size[index] = size

    left = [index for index in indices if not known.size[index, 0]]
    return _look_at(left, look, keep, f"headers of {dataset.title}", progress)


def look_at_images(
    dataset: SegmentationDataset, known: Known, indices: Iterable[int], *, progress: bool = False
) -> list[str]:
    """Check image files, as far as that is possible quickly, that were not found whole before.

    Args:
        dataset: The samples.
        known: What is known of them; is added to.
        indices: Which of them.
        progress: Whether to show a bar.

    Returns:
        One line for each damaged file.
    """

    def look(index: int) -> None:
        verify_image(dataset.samples[index].image, thorough=False)

    def keep(index: int, nothing: None) -> None:
        known.sound[index] = True

    left = [index for index in indices if not known.sound[index]]
    return _look_at(left, look, keep, f"images of {dataset.title}", progress)


def look_at_masks(
    dataset: SegmentationDataset, known: Known, indices: Iterable[int], *, progress: bool = False
) -> list[str]:
    """Decode masks that were not decoded before: whether their label ids are allowed, and how often classes occur.

    Args:
        dataset: The samples; those without a mask count as ignored.
        known: What is known of them; is added to.
        indices: Which of them.
        progress: Whether to show a bar.

    Returns:
        One line for each mask that cannot be used.
    """
    classes = len(dataset.classes)

    def look(index: int) -> np.ndarray:
        labels = dataset.read_labels(index)
        return np.zeros(classes + 1, np.int64) if labels is None else count_pixels(labels, classes)

    def keep(index: int, counts: np.ndarray) -> None:
        known.pixels[index], known.ignored[index] = counts[:classes], counts[classes]
        known.counted[index] = True

    left = [index for index in indices if not known.counted[index]]
    return _look_at(left, look, keep, f"labels of {dataset.title}", progress)


def look_for_classes(dataset: SegmentationDataset, known: Known, *, progress: bool = False) -> list[str]:
    """Decode masks, drawn at random, until each class has occurred; at most ``MOST_LOOKS``.

    Args:
        dataset: The samples.
        known: What is known of them; is added to.
        progress: Whether to show a bar.

    Returns:
        One line for each mask that cannot be used.
    """
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()[:MOST_LOOKS]
    problems: list[str] = []
    done, step = 0, FIRST_LOOK
    while done < len(order) and not (done and known.pixels.any(0).all()):
        problems += look_at_masks(dataset, known, order[done : done + step], progress=progress)
        done, step = done + step, 2 * step
    return problems


def missing_classes(dataset: SegmentationDataset, known: Known) -> list[str]:
    """Return the names of the classes that occur in no mask that was looked at."""
    occurs = known.pixels.sum(0).tolist()
    return [name for name, present in zip(dataset.classes.names, occurs, strict=True) if not present]


def looked_at(dataset: SegmentationDataset, known: Known) -> str:
    """Say how many label masks were looked at, such as ``the 6 label masks``."""
    count = int(known.counted.sum())
    if count < len(dataset):
        return f"{count} of {len(dataset)} label masks, those that were looked at"
    return f"the {count} label masks" if count > 1 else "the only label mask"


def all_ignored(dataset: SegmentationDataset, known: Known) -> str:
    """Return the line that says that no pixel has a label that counts; empty if one has."""
    if known.pixels.any() or not known.counted.any():
        return ""
    return (
        f"{dataset.title}: no pixel is labelled, in {looked_at(dataset, known)}: all are of ignored ids; "
        "correct the masks, or the key that says how they are stored (data.label_kind or data.classes)"
    )


def label_warnings(dataset: SegmentationDataset, known: Known) -> list[str]:
    """Say which classes never occur, and whether a single one is left.

    Args:
        dataset: The samples.
        known: What is known of them, of as many masks as it may be.

    Returns:
        At most one line.
    """
    missing = missing_classes(dataset, known)
    if not missing or not known.pixels.any():
        return []
    names = ", ".join(missing[:NAMED_CLASSES]) + (", ..." if len(missing) > NAMED_CLASSES else "")
    count, where = len(dataset.classes), looked_at(dataset, known)
    if len(missing) == count - 1:
        (only,) = set(dataset.classes.names) - set(missing)
        worth = f"{only} is the only class in {where}, so that any network comes to a mIoU of 1"
        return [f"{dataset.title}: {worth} ({names} never occurs); correct the masks or the list of classes"]
    what = (
        f"{len(missing)} of {count} classes never occur" if len(missing) > 1 else f"1 of {count} classes never occurs"
    )
    return [
        f"{dataset.title}: {what} in {where}: {names}; nothing can be learned of such a class: if that is not meant, "
        "correct the masks or the list of classes"
    ]


def score_warnings(dataset: SegmentationDataset, known: Known) -> list[str]:
    """Say where the labels that a network is scored on leave no score, or one that says nothing.

    Args:
        dataset: The samples.
        known: What is known of them.

    Returns:
        At most one line.
    """
    nothing = all_ignored(dataset, known)
    if nothing:
        return [f"{nothing}; until then there is no score"]
    alone = len(missing_classes(dataset, known)) == len(dataset.classes) - 1
    return label_warnings(dataset, known) if alone else []


def mixed_batches(known: Known, samples: Sequence[SamplePaths], batch_size: int, world_size: int) -> list[str]:
    """Find the first validation batch whose images differ in size.

    Args:
        known: What is known of the samples, their sizes above all.
        samples: In their order.
        batch_size: Images per device and step.
        world_size: Number of devices, among which the images go round.

    Returns:
        At most one line.
    """
    for rank in range(world_size):
        shard = list(range(rank, len(samples), world_size))
        for start in range(0, len(shard), batch_size):
            batch = shard[start : start + batch_size]
            first = batch[0]
            for other in batch[1:]:
                if (known.size[first] != known.size[other]).any():
                    sizes = (f"{samples[i].name} is {known.size[i][1]}x{known.size[i][0]}" for i in (first, other))
                    return [
                        f"images of one batch differ in size (width x height): {' and '.join(sizes)}; "
                        "set data.eval_batch_size=1"
                    ]
    return []
