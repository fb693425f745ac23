"""The Python API: a trained network that takes images and gives labels, whatever runs it."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch
from PIL import Image

from icnet.data import drawing
from icnet.data.images import exif_orientation, read_image, upright
from icnet.data.labels import ClassTable
from icnet.deploy import RUNTIMES, Segmenter, open_segmenter
from icnet.deploy.inference import Inference
from icnet.deploy.locate import choose_device
from icnet.deploy.runtimes.foreign import read_told
from icnet.deploy.shipped import file_of, usual_side
from icnet.errors import UserError

ImageLike = np.ndarray | Image.Image | str | os.PathLike[str]
HEAD = 512  # bytes by which a file without a name is told: a zip archive's first entry has a name there


class Model:
    """A trained network; ``icnet.load`` opens one.

    Called with an image, it returns the image's label map::

        labels = model(image)

    Args:
        segmenter: What segments.
        inference: How: scales, flip, windows.
        device: Where the images go.
    """

    def __init__(self, segmenter: Segmenter, inference: Inference, device: torch.device) -> None:
        self.segmenter = segmenter
        self.inference = inference
        self.device = device

    @property
    def classes(self) -> ClassTable:
        """The classes in the order of their labels, with ``names`` and ``palette`` (RGB, 0-255)."""
        return self.segmenter.classes

    @property
    def trained_on(self) -> str:
        """The data that it was trained on, such as ``cityscapes`` or ``street (synthetic)``."""
        return self.segmenter.trained_on

    @property
    def runtime(self) -> str:
        """What runs it, such as ``torch`` or ``onnxruntime``."""
        return self.segmenter.runtime

    @overload
    def __call__(self, image: ImageLike, *, logits: bool = False, probabilities: bool = False) -> np.ndarray: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, logits: bool = False, probabilities: bool = False
    ) -> list[np.ndarray]: ...

    def __call__(self, image: Any, *, logits: bool = False, probabilities: bool = False) -> Any:
        """Segment an image, or each of a list.

        Args:
            image: (H, W, 3) uint8 RGB, a PIL image with 8 bits per channel (converted to RGB, an alpha channel
                dropped), the path of an image file, or a list or tuple of these; images of any size.
            logits: Return the class scores before softmax; averaged over several scales, directions or windows they
                are logarithms of probabilities.
            probabilities: Return the probabilities of the classes.

        Returns:
            (H, W) uint8 labels, positions in ``classes``; or (C, H, W) float32 logits or probabilities. A list of them
            for a list.

        Raises:
            UserError: If something is no such image, a file cannot be read, or the file knows labels and no logits.
        """
        if logits and probabilities:
            raise UserError("logits=True and probabilities=True exclude each other; ask for one of them")
        if logits or probabilities:
            self._refuse_labels_only()
        if isinstance(image, (list, tuple)):
            return [self(one, logits=logits, probabilities=probabilities) for one in image]
        if probabilities:
            return self.probabilities(image).cpu().numpy()
        if not logits:
            return self._labels(to_rgb(image)).cpu().numpy()
        scores = self._scores(to_rgb(image)).float()
        return (scores.log() if self.inference.averages else scores).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, image: ImageLike) -> torch.Tensor:
        """Return the probabilities of the classes where they were computed, for what goes on with them there.

        Args:
            image: As for a call, but one.

        Returns:
            (C, H, W) float32 on ``device``.

        Raises:
            UserError: As a call.
        """
        self._refuse_labels_only()
        return self._probabilities(image)

    @torch.inference_mode()
    def confidence(self, image: ImageLike) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how probable the likeliest classes are, and which these are; a file needs no logits for that.

        Args:
            image: As for a call, but one.

        Returns:
            (H, W) float32 probabilities, 0-1, and (H, W) int64 labels, on ``device``.

        Raises:
            UserError: As a call; or if the file knows nothing but labels, or tells probabilities of these alone and
                several scales, directions or windows are to be averaged.
        """
        if not self.segmenter.knows_confidence or (self.segmenter.labels_only and self.inference.averages):
            self._refuse_labels_only()
        return self._probabilities(image).max(0)

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Paint labels with the colours of their classes.

        Args:
            labels: (H, W) integers; what is outside the classes, such as 255, becomes black.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        return self.classes.colorize(_checked(labels))

    def overlay(self, image: ImageLike, labels: np.ndarray, alpha: float = 0.5) -> np.ndarray:
        """Tint an image with the colours of its classes.

        Args:
            image: As for a call.
            labels: (H, W) integers; what is outside the classes keeps the image.
            alpha: Opacity of the colours, 0-1.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            UserError: If image and labels differ in size.
        """
        pixels = to_rgb(image)
        if pixels.shape[:2] != _checked(labels).shape:
            raise UserError(
                f"the image is {pixels.shape[:2]} and its labels are {labels.shape}; give those of this image"
            )
        return drawing.overlay(pixels, labels, self.classes, alpha)

    def _probabilities(self, image: ImageLike) -> torch.Tensor:
        scores = self._scores(to_rgb(image)).float()
        return scores if self.inference.averages else scores.softmax(0)

    def _refuse_labels_only(self) -> None:
        if self.segmenter.labels_only:
            raise UserError(
                f"{self.segmenter.path or 'the file'} knows labels only; export it with export.head=logits to get "
                "logits or probabilities"
            )

    @torch.inference_mode()
    def _scores(self, pixels: np.ndarray) -> torch.Tensor:
        """Return what (H, W, 3) uint8 RGB scores: (C, H, W)."""
        return self.inference(self.segmenter, self._batch(pixels))[0]

    @torch.inference_mode()
    def _labels(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the labels of (H, W, 3) uint8 RGB: (H, W) uint8."""
        return self.inference.labels(self.segmenter, self._batch(pixels))[0]

    def _batch(self, pixels: np.ndarray) -> torch.Tensor:
        image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(self.device)
        return image.permute(2, 0, 1)[None]


def load(
    source: str | os.PathLike[str] | IO[bytes],
    device: str = "auto",
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    sliding_window: Sequence[int] | None = None,
    short_side: int | None = None,
    provider: str = "auto",
    compile: bool = False,  # noqa: A002 (as torch calls it)
    classes: str | os.PathLike[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: bool = True,
) -> Model:
    """Open a trained network.

    Args:
        source: A file written by train.py or export.py, or a published one: its path, or the file opened in binary mode
            (``io.BytesIO`` too). Or a name in ``icnet.deploy.shipped.SHIPPED``: ``camvid``.
        device: ``auto`` for an accelerator where there is one, or ``cpu``, ``cuda:1``, ``npu``, ...; an ``.onnx`` file
            runs there if the installed onnxruntime can, or else on the CPU.
        scales: Factors on the image's size whose probabilities are averaged.
        flip: Whether to average with the mirrored image.
        sliding_window: (H, W) of overlapping windows; None for the whole image at once.
        short_side: Pixels that an image's shorter side is brought to first; None for its own, or for what weights that
            come with the project were made for.
        provider: What ONNX Runtime computes an ``.onnx`` file with: ``auto`` for what is there for the device, or
            ``cpu``, ``cuda``, ``tensorrt``, ``openvino`` or ``cann``.
        compile: Whether torch compiles a checkpoint's network, for each size of image anew.
        classes: A list of classes (YAML or JSON, see ``icnet.data.classes_file``) for an ``.onnx`` file of another
            program, which says nothing of itself.
        mean: Of such a file's input, per RGB channel, for images scaled to 0-1; None for ImageNet's.
        std: Likewise.
        resize: Whether images of another size than a file's fixed one are resized for it; otherwise they are refused.

    Returns:
        The network; call it with images.

    Raises:
        UserError: If the file is missing, broken or unknown, there is no such device or provider, or a value is out of
            range.
    """
    place = choose_device(str(device))
    told = read_told(None if classes is None else Path(classes), mean, std)
    options: dict[str, Any] = {"compiled": compile, "told": told, "resize": resize}
    if isinstance(source, (str, os.PathLike)):
        path = file_of(str(source))
        side = usual_side(path) if short_side is None else short_side
        inference = Inference(scales, flip, sliding_window, side, prefix="")
        return Model(open_segmenter(path, place, provider, **options), inference, place)
    segmenter = _open_stream(source, place, provider, options)
    return Model(segmenter, Inference(scales, flip, sliding_window, short_side, prefix=""), place)


def to_rgb(image: ImageLike) -> np.ndarray:
    """Turn what a person calls an image into (H, W, 3) uint8 RGB.

    Raises:
        UserError: If it is none; see ``Model``.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image).expanduser())
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):  # what Pillow would cut off at 255
            raise UserError(f"a PIL image of mode {image.mode} has more than 8 bits; give one of 8, such as mode RGB")
        try:
            pixels = np.array(image.convert("RGB"))
            return upright(pixels, exif_orientation(image.info.get("exif", b"")))  # as one read from its path is
        except ValueError as error:
            problem = f"a PIL image of mode {image.mode} becomes no RGB ({error})"
            raise UserError(f"{problem}; give one of mode RGB") from error
        except (OSError, SyntaxError) as error:  # it reads its file only now
            raise UserError(f"the PIL image cannot be read ({error}); give another one") from error
    allowed = "give uint8 RGB of shape (H, W, 3), a PIL image, a path, or a list of these"
    if not isinstance(image, np.ndarray):
        raise UserError(f"a {type(image).__name__} is no image; {allowed}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"an array of {image.dtype} and shape {image.shape} is no image; {allowed}")
    return image


def _checked(labels: np.ndarray) -> np.ndarray:
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu":
        given = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise UserError(f"labels are {given}; give an integer array of shape (H, W)")
    return labels


def _open_stream(file: IO[bytes], device: torch.device, provider: str, options: dict[str, Any]) -> Segmenter:
    """Open what a file object holds from where it stands; runtimes open paths, so it becomes a file for a while."""
    if not hasattr(file, "read"):
        raise UserError(f"a {type(file).__name__} is no model; give a path, or a file opened in binary mode")
    head = file.read(HEAD)
    if not isinstance(head, bytes) or not head:
        problem = "nothing to read" if isinstance(head, bytes) else "text"
        raise UserError(f"the file object holds {problem}; give one at its beginning, opened in binary mode")
    name = getattr(file, "name", "")
    name = name if isinstance(name, str) else ""  # a temporary file's is a number
    # What was registered last knows more than what is here from the beginning, such as every zip archive for torch.
    told = (runtime.suffix_of(head) for runtime in reversed(RUNTIMES.values()))
    suffix = Path(name).suffix
    if suffix not in RUNTIMES:
        suffix = next(filter(None, told), "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"model{suffix}")
        with path.open("wb") as copy:
            copy.write(head)
            shutil.copyfileobj(file, copy)
        try:
            segmenter = open_segmenter(path, device, provider, **options)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name or "the file object")) from error
    segmenter.path = Path(name) if name else None
    return segmenter
