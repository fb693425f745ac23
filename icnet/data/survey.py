"""Looking through a whole split: what its files are like, how often classes occur, what may be wrong with it."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from icnet.data import check
from icnet.data.dataset import SegmentationDataset
from icnet.data.drawing import overlay, save, side_by_side
from icnet.data.images import verify_image
from icnet.data.known import Known
from icnet.data.parallel import in_threads
from icnet.data.statistics import WEIGHTINGS, count_pixels
from icnet.errors import UserError
from icnet.run.data_findings import ClassFindings, Duplicate, SplitFindings, SuggestedWeights, Suspicion

FEW, MANY = 2, 6  # a mask with so few values is suspicious where half of the others have at least so many
PANEL_WIDTH = 640  # pixels, of each picture of a strip


@dataclass
class Split:
    """A split with what was found in it.

    Args:
        name: Of the split.
        dataset: Its samples.
        known: What is known of them.
        decoded: Indices of the samples that were decoded.
        images: Index to a digest of the decoded image.
        problems: What a training would end at, one line each.
    """

    name: str
    dataset: SegmentationDataset
    known: Known
    decoded: list[int] = field(default_factory=list)
    images: dict[int, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def look_through(
    name: str, dataset: SegmentationDataset, known: Known, *, sample: int | None, seed: int, progress: bool
) -> Split:
    """Read the headers of all files of a split, and decode all samples or some.

    Args:
        name: Of the split.
        dataset: Its samples.
        known: What is known of them; is added to.
        sample: How many samples to decode; None for all.
        seed: Which ones.
        progress: Whether to show bars.
    """
    split = Split(name, check.plain(dataset), known)
    split.problems = check.look_at_headers(dataset, known, range(len(dataset)), progress=progress)
    order = np.random.default_rng(seed).permutation(len(dataset))[:sample]
    indices = sorted(order.tolist())
    found = in_threads(lambda index: _decode(split.dataset, index), indices, f"{dataset.title}", progress=progress)
    for index, (problem, digest, counts) in zip(indices, found, strict=True):
        if problem:
            split.problems.append(problem)
            continue
        split.decoded.append(index)
        split.images[index] = digest
        known.sound[index] = known.counted[index] = True
        known.pixels[index], known.ignored[index] = counts[:-1], counts[-1]
    split.problems = list(dict.fromkeys(split.problems))  # header and content may be refused in the same words
    return split


def _decode(dataset: SegmentationDataset, index: int) -> tuple[str, bytes, np.ndarray]:
    """Return what is wrong with a sample, a digest of its image, and (C + 1,) pixels by class and ignored."""
    paths, classes = dataset.samples[index], len(dataset.classes)
    try:
        verify_image(paths.image)
        if paths.mask is not None:
            verify_image(paths.mask)
        sample = dataset[index]
    except UserError as error:
        return str(error), b"", np.zeros(classes + 1, np.int64)
    image, mask = sample["image"].numpy(), sample["mask"].numpy()
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, person=str(image.shape[1]).encode())
    counts = count_pixels(mask, classes)
    return "", digest.digest(), counts if paths.mask is not None else np.zeros_like(counts)


def describe(split: Split, *, progress: bool) -> SplitFindings:
    """Return what a split is like."""
    dataset, known, decoded = split.dataset, split.known, split.decoded
    samples = dataset.samples
    pixels, ignored = known.pixels[decoded], known.ignored[decoded]
    labelled, images = int(pixels.sum()), (pixels > 0).sum(0)
    masks = [sample.mask for sample in samples if sample.mask is not None]
    labelled_masks = sum(samples[index].mask is not None for index in decoded)
    area = labelled + int(ignored.sum())
    sizes = Counter(f"{width}x{height}" for height, width in known.size.tolist() if height)
    return SplitFindings(
        name=split.name,
        samples=len(samples),
        unlabelled=len(samples) - len(masks),
        decoded=len(decoded),
        sizes=dict(sizes.most_common()),
        image_formats=_formats([sample.image for sample in samples], f"images of {dataset.title}", progress),
        mask_formats=_formats(masks, f"masks of {dataset.title}", progress),
        ignored_share=int(ignored.sum()) / area if area else None,
        missing=[name for name, count in zip(dataset.classes.names, images, strict=True) if not count],
        classes=[
            ClassFindings(
                name=name,
                color=list(color),
                pixels=int(count),
                pixel_share=int(count) / labelled if labelled else None,
                images=int(occurs),
                image_share=int(occurs) / labelled_masks if labelled_masks else None,
            )
            for name, color, count, occurs in zip(
                dataset.classes.names, dataset.classes.palette, pixels.sum(0), images, strict=True
            )
        ],
    )


def _formats(paths: Sequence[Path], title: str, progress: bool) -> dict[str, int]:
    return dict(Counter(in_threads(check.file_format, paths, title, progress=progress)).most_common())


def find_duplicates(splits: Sequence[Split]) -> list[Duplicate]:
    """Find images that two splits have in common.

    Two are the same if their files are, or if both were decoded and have the same pixels.

    Returns:
        One entry for each pair of an image with the first same image of an earlier split.
    """
    pairs: dict[tuple[Path, Path], None] = {}
    for number, split in enumerate(splits):
        for other in splits[:number]:
            for ours, theirs in ((_by_content(split), _by_content(other)), (_by_bytes(split, other))):
                pairs |= {(theirs[same], ours[same]): None for same in ours if same in theirs}
    return [Duplicate(first=str(first), second=str(second)) for first, second in pairs]


def _by_content(split: Split) -> dict[bytes, Path]:
    return {digest: split.dataset.samples[index].image for index, digest in reversed(split.images.items())}


def _by_bytes(split: Split, other: Split) -> tuple[dict[bytes, Path], dict[bytes, Path]]:
    """Return the files of both by a digest of their bytes; only those whose number of bytes both have."""
    sizes = [_by_size(one) for one in (split, other)]
    common = sizes[0].keys() & sizes[1].keys()
    ours, theirs = ({_digest(path): path for size in common for path in reversed(found[size])} for found in sizes)
    return ours, theirs


def _by_size(split: Split) -> dict[int, list[Path]]:
    found: dict[int, list[Path]] = {}
    for sample in split.dataset.samples:
        with contextlib.suppress(OSError):  # a problem already
            found.setdefault(sample.image.stat().st_size, []).append(sample.image)
    return found


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def find_suspicious(split: Split) -> list[Suspicion]:
    """Find masks with a single value, and those with very few where others have many."""
    known = split.known
    rows = [index for index in split.decoded if split.dataset.samples[index].mask is not None]
    values = (known.pixels[rows] > 0).sum(1) + (known.ignored[rows] > 0)
    median = float(np.median(values)) if rows else 0.0
    found = []
    for index, count in zip(rows, values.tolist(), strict=True):
        reason = ""
        if count == 1:
            names = [
                name for name, some in zip(split.dataset.classes.names, known.pixels[index], strict=True) if some
            ]  # fmt: skip
            reason = f"holds {names[0]} only" if names else "is ignored everywhere: no pixel is labelled"
        elif count <= FEW and median >= MANY:
            reason = f"holds {count} values; half of the others hold {median:g} or more"
        if reason:
            found.append(Suspicion(split=split.name, mask=str(split.dataset.samples[index].mask), reason=reason))
    return found


def suggest_weights(split: Split) -> list[SuggestedWeights]:
    """Return what each rule for class weights comes to on the decoded masks of a split; nothing without labels."""
    rows = [index for index in split.decoded if split.dataset.samples[index].mask is not None]
    pixels, ignored = split.known.pixels[rows], split.known.ignored[rows]
    if not pixels.any():
        return []
    return [
        SuggestedWeights(
            rule=name, formula=rule.formula, source=rule.source,
            weights=[round(weight, 4) for weight in rule.weigh(pixels, ignored).tolist()],
        )
        for name, rule in WEIGHTINGS.items()
    ]  # fmt: skip


def draw_samples(split: Split, folder: Path, count: int) -> list[Path]:
    """Draw image, labels and both on top of each other, of samples that are evenly spread over a split.

    Args:
        split: Which one; only what was decoded is drawn.
        folder: Where ``SPLIT_NAME.jpg`` goes.
        count: How many, at most.

    Returns:
        The pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for index in _spread(split.decoded, count):
        sample = split.dataset[index]
        image, mask = sample["image"].permute(1, 2, 0).numpy(), sample["mask"].numpy()
        scale = min(1.0, PANEL_WIDTH / image.shape[1])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        classes = split.dataset.classes
        panels = [image, classes.colorize(mask), overlay(image, mask, classes)]
        drawn.append(folder / f"{split.name.replace('/', '_')}_{sample['name']}.jpg")
        save(drawn[-1], side_by_side(panels, ("image", "label", "both")))
    return drawn


def _spread(items: Sequence[int], count: int) -> Iterable[int]:
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[position] for position in dict.fromkeys(chosen.tolist())]
