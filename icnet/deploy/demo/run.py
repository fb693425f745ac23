"""The demo as a whole: what each stage does, and what is said at the end."""

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from icnet.deploy.api import Model
from icnet.deploy.demo.frames import Frame, count_frames, read_frames
from icnet.deploy.demo.inputs import Camera, Source, is_moving, result_names
from icnet.deploy.demo.labelling import Labeller, Labels
from icnet.deploy.demo.overlap import Overlap
from icnet.deploy.demo.results import OVERLAY, Job, Results, refuse_to_overwrite
from icnet.deploy.demo.timing import StageTimes
from icnet.errors import UserError
from icnet.run.environment import device_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What goes from stage to stage: a picture with what is known of it so far, or the end of an input."""

    job: Job
    frame: Frame | None = None  # the input ends
    labels: Labels | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # by the kind of result


@dataclass
class Demo:
    """Segments images, videos and what a camera sees, and writes what comes out.

    Per image that is ``<name>_overlay.png``, ``<name>_labels.png`` (colours) and ``<name>_ids.png`` (train ids), per
    video or camera ``<name>_overlay.mp4``, and once ``legend.png`` with the classes that occurred. With ``confidence``
    also ``<name>_confidence.png`` per image, and once ``confidence.csv`` with the mean of every picture.

    Args:
        model: What segments.
        output: The folder to write to.
        alpha: Opacity of the colours on the overlay, 0-1.
        smooth: The share of the frames before in the probabilities of a video, from 0 (off) to below 1.
        confidence: Whether to write the largest probability of each pixel too.
        strict: Whether the first input that can't be read ends all; else the others go on.
        frames: How many frames to take of a video or a camera; None for all of them.

    Raises:
        UserError: If probabilities are needed, and the model knows labels only.
    """

    model: Model
    output: Path
    alpha: float = 0.5
    smooth: float = 0.0
    confidence: bool = False
    strict: bool = False
    frames: int | None = None
    images: int = field(default=0, init=False)  # images and frames done
    times: StageTimes = field(default_factory=StageTimes, init=False)
    failures: dict[Job, UserError] = field(default_factory=dict, init=False)
    total_seconds: float = field(default=0.0, init=False)
    flicker: list[str] = field(default_factory=list, init=False)  # a line for each video
    _present: set[int] = field(default_factory=set, init=False)
    _labeller: Labeller | None = field(default=None, init=False)  # of the input that the network is at
    _given_up: Job | None = field(default=None, init=False)  # the input that the network refuses

    def __post_init__(self) -> None:
        """Refuse what needs probabilities of a model that has none."""
        segmenter = self.model.segmenter
        averages = self.model.inference.averages
        for name, value, possible in (
            ("smooth", self.smooth, not segmenter.labels_only),
            ("confidence", self.confidence, segmenter.knows_confidence and not (segmenter.labels_only and averages)),
        ):
            if value and not possible:
                raise UserError(
                    f"{name}={str(value).lower()} needs probabilities, and {segmenter.path or 'the file'} knows labels "
                    f"only; export it with export.head=logits, or leave {name} out"
                )

    def run(self, inputs: Sequence[Source]) -> None:
        """Segment inputs under a progress bar. Ctrl-C is the usual end of a camera.

        Args:
            inputs: Images and videos, or a camera; see ``find_inputs``.

        Raises:
            UserError: If an input can't be read (once the others are done, unless ``strict``), or a result can't be
                written or would overwrite an input. What was written of a video plays.
        """
        jobs = [Job(source, name) for source, name in zip(inputs, result_names(inputs), strict=True)]
        refuse_to_overwrite(jobs, self.output, (OVERLAY, "labels", "ids", *(["confidence"] if self.confidence else [])))
        if self.smooth and not any(is_moving(job.source) for job in jobs):
            log.warning("smooth=%s is for videos and cameras; an image has nothing before it", self.smooth)
        self.failures.clear()
        self._labeller = self._given_up = None  # of a run that failed
        results = Results(self.output, confidence=self.confidence)
        start = time.perf_counter()
        try:
            self._run(jobs, results, start)
            if self.images:
                results.legend(self.model.classes, self._present)
        finally:
            results.close()
            self.total_seconds = time.perf_counter() - start
        if self.failures:
            first = next(iter(self.failures.values()))
            if len(jobs) == 1:
                raise first
            raise UserError(f"{len(self.failures)} of {len(jobs)} inputs failed, the first: {first}")

    def summary(self) -> str:
        """Say which labels flicker, how long each stage took, and how many pictures were done by what how fast."""
        speed = (
            f"{self.images} images; network {self.times.rate('network'):.2f} images/s ({self.model.runtime}) "
            f"on {device_name(self.model.device)}, "
            f"with reading and writing {self.images / self.total_seconds:.2f} images/s; "
            f"model trained on {self.model.trained_on}; results in {self.output}"
        )
        return "\n".join((*self.flicker, self.times.table(), speed))

    def _run(self, jobs: Sequence[Job], results: Results, start: float) -> None:
        counts = [count_frames(job.source, self.frames) for job in jobs]
        total = None if None in counts else sum(filter(None, counts))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[speed]}")) as progress:
            bar = progress.add_task("images", total=total, speed="")

            def write(work: Work) -> None:
                self._write(work, results)
                if work.frame:
                    rate = self.images / (time.perf_counter() - start)
                    progress.update(bar, advance=1, speed=f"{rate:.2f} images/s")

            try:
                Overlap(self._read(jobs), self._segment, self._draw, write).run()
            except KeyboardInterrupt:
                if not all(isinstance(job.source, Camera) for job in jobs):
                    raise
                self._end_labelling(jobs[-1])
                results.end_input()
            progress.update(bar, total=self.images)  # some videos miscount their frames

    def _read(self, jobs: Sequence[Job]) -> Generator[Work, None, None]:
        """Read one input after the other, in a thread of its own."""
        for job in jobs:
            frames = read_frames(job.source, self.frames)
            try:
                start = time.perf_counter()
                for frame in frames:
                    self.times.add("read", time.perf_counter() - start)
                    yield Work(job, frame)
                    start = time.perf_counter()
            except UserError as error:
                self._fail(job, error, alone=len(jobs) == 1)
            finally:
                frames.close()
            yield Work(job)

    def _segment(self, work: Work) -> Work:
        """Label a picture, in the thread of the caller."""
        if work.frame is None:
            self._end_labelling(work.job)
            return work
        if work.job == self._given_up:
            return Work(work.job)
        start = time.perf_counter()
        if self._labeller is None:
            smooth = self.smooth if is_moving(work.job.source) else 0.0
            self._labeller = Labeller(self.model, smooth, confidence=self.confidence)
        try:
            labels = self._labeller(work.frame.image)
        except UserError as error:  # no size that the network takes
            self._given_up = work.job
            self._fail(work.job, error, alone=False)
            return Work(work.job)
        self.times.add("network", time.perf_counter() - start)  # the copy to the CPU has waited for the device
        return replace(work, labels=labels)

    def _draw(self, work: Work) -> Work:
        """Turn labels into pictures, in a thread of its own."""
        if work.frame is None or work.labels is None:
            return work
        start = time.perf_counter()
        labels = work.labels.labels
        pictures = {OVERLAY: self.model.overlay(work.frame.image, labels, self.alpha)}
        if not is_moving(work.job.source):
            pictures |= {"labels": self.model.colorize(labels), "ids": labels}
            if work.labels.confidence is not None:
                pictures["confidence"] = work.labels.confidence
        self._present.update(np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256])).tolist())
        self.times.add("draw", time.perf_counter() - start)
        return replace(work, pictures=pictures)

    def _write(self, work: Work, results: Results) -> None:
        """Write pictures, in a thread of its own."""
        if work.frame is None or work.labels is None:
            results.end_input()
            return
        start = time.perf_counter()
        results.write(work.job, work.frame, work.pictures, work.labels.mean_confidence)
        self.times.add("write", time.perf_counter() - start)
        self.images += 1

    def _fail(self, job: Job, error: UserError, *, alone: bool) -> None:
        """Remember that an input failed; with ``strict``, it is the end of all."""
        if self.strict:
            raise error
        self.failures[job] = error
        if not alone:
            log.warning("%s; going on with the other inputs", error)

    def _end_labelling(self, job: Job) -> None:
        """Note how much the labels of an input flickered, and forget its last frame."""
        if self._labeller is not None and self._labeller.flicker.share is not None:
            line = f"{job.source}: {self._labeller.flicker.share:.2%} of the labels change from each frame to the next"
            smoothed = self._labeller.smoothed_flicker.share
            self.flicker.append(line if smoothed is None else f"{line}, {smoothed:.2%} with smooth={self.smooth}")
        self._labeller = None
