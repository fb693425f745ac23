"""Text files that list the images of a split, one name a line, as Pascal VOC's ``ImageSets`` and many others have them.

A line may be a stem, a file's name or a path, with or without suffix, absolute or from any folder. Empty lines and
those that begin with ``#`` do not count. A line may name the mask too, behind the image.
"""

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from icnet.data.listing import is_hidden, is_image, say_once
from icnet.data.patterns import SPLIT, describe
from icnet.errors import UserError


class NameLists:
    """The lists of a data set, one for each split.

    Args:
        text: Their path with ``{split}``, relative to the folder of the data set.

    Raises:
        UserError: If it has no ``{split}``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        if SPLIT not in text:
            raise UserError(
                f"data.lists={text} has no {SPLIT}; give the path of each split's list, such as lists/{SPLIT}.txt"
            )

    def split_of(self, root: Path, path: Path) -> str | None:
        """Return the split that a file is the list of; None if it is something else."""
        first, *rest = map(re.escape, self._whole(root).split(SPLIT))
        found = re.fullmatch(f"{first}([^/]+)" + r"\1".join(rest), str(path))
        return found[1] if found else None

    def splits(self, root: Path) -> list[str]:
        """Return the splits that have a list, sorted."""
        before, after = self._whole(root).split(SPLIT, 1)
        folder, _, begin = before.rpartition("/")
        names = Path(folder or "/").glob(glob.escape(begin) + "*" + glob.escape(after).replace(SPLIT, "*"))
        return sorted({split for path in names if (split := self.split_of(root, path)) and not is_hidden(path.name)})

    def file(self, root: Path, split: str) -> Path:
        """Return the list of a split.

        Raises:
            UserError: If there is none.
        """
        file = Path(self._whole(root).replace(SPLIT, split))
        if not file.is_file():
            folder = next(folder for folder in file.parents if folder.is_dir())
            raise UserError(
                f"there is no list {file} (data.lists={self.text}); {describe(folder)}; write the list, or set "
                "data.lists, data.train_split and data.val_split to those that are there"
            )
        return file

    def _whole(self, root: Path) -> str:
        return str(root / Path(self.text).expanduser())


def read_names(file: Path) -> list[str]:
    """Read the lines of a list that name something.

    Args:
        file: UTF-8 text, with or without byte order mark, of any kind of line ends.

    Raises:
        UserError: If it cannot be read, or names nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"the list {file} cannot be read ({error.strerror}); correct data.lists") from None
    except UnicodeDecodeError:
        raise UserError(f"the list {file} is no UTF-8 text; save it as such, one name a line") from None
    names = [line.strip() for line in lines]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise UserError(f"the list {file} names no image; write one name a line, or correct data.lists")
    return names


def choose(file: Path, images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """Return the stems of the images that a list names, each once, in its order; repeated ones are told in the log.

    Args:
        file: The list.
        images: The images that there are, by stem.
        masks: The masks that there are, by stem.

    Raises:
        UserError: If a line names no image, several ones, or a mask that is another image's.
    """
    names, tails = read_names(file), _tails(images)
    chosen: dict[str, str] = {}  # stem to the line that named it
    missing: list[str] = []
    repeated: list[str] = []
    for name in names:
        stem = _stem(file, name, images, tails)
        if stem is None:
            stem, mask = _columns(file, name, images, tails)
            if stem and mask and not _is_tail(mask, masks.get(stem)):
                raise UserError(
                    f"{file} names {mask} as the mask of {images[stem]}, but data.masks finds "
                    f"{masks.get(stem, 'none')}; correct one of them, or list the images alone"
                )
        if stem is None:
            missing.append(name)
        elif stem in chosen:
            repeated.append(name)
        else:
            chosen[stem] = name
    if missing:
        example = f", such as {next(iter(images.values()))}" if images else ""
        raise UserError(
            f"{file} names {len(missing)} image(s) that are not there, the first is {missing[0]}; data.images finds "
            f"{len(images)} files{example}; correct the list or data.images"
        )
    if repeated:
        say_once(f"{file} names {len(repeated)} image(s) again, the first is {repeated[0]}: each is used once")
    return list(chosen)


def _stem(file: Path, name: str, images: Mapping[str, Path], tails: Mapping[str, set[str]]) -> str | None:
    """Return the stem of the image that a name means; None if there is none."""
    if name in images:
        return name
    bare = _bare(name)
    found = tails.get(bare, set())
    if not found:  # a path from elsewhere, as lists that came with another copy have them
        found = {tail for tail in _ends(bare) if tail in images}
        found = {max(found, key=len)} if found else found
    if len(found) > 1:
        first, second = sorted(str(images[stem]) for stem in found)[:2]
        raise UserError(f"{file} names {name}, which may be {first} or {second}; write more of its path")
    return next(iter(found), None)


def _columns(
    file: Path, line: str, images: Mapping[str, Path], tails: Mapping[str, set[str]]
) -> tuple[str | None, str | None]:
    """Read a line as an image and, behind blanks, a comma or a semicolon, its mask."""
    image, *rest = re.split(r"\s*[,;\t ]\s*", line)
    if len(rest) != 1:
        return None, None
    return _stem(file, image, images, tails), rest[0]


def _is_tail(name: str, path: Path | None) -> bool:
    """Tell whether a name, of any folders before it, is that of a file."""
    return path is not None and PurePosixPath(_bare(name)).name == path.stem


def _tails(images: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return the stems by every text that they may be named by: ends of their paths without suffix, and of stems."""
    tails: dict[str, set[str]] = {}
    for stem, path in images.items():
        for end in {*_ends(path.with_suffix("").as_posix()), *_ends(stem)}:
            tails.setdefault(end, set()).add(stem)
    return tails


def _ends(path: str) -> Iterator[str]:
    """Yield a path, and it without its first folder, its first two and so on."""
    parts = path.strip("/").split("/")
    yield from ("/".join(parts[start:]) for start in range(len(parts)))


def _bare(name: str) -> str:
    """Return a name as a path with ``/`` between its parts, without the suffix of an image."""
    path = name.replace("\\", "/").removeprefix("./").strip("/")
    return str(PurePosixPath(path).with_suffix("")) if is_image(path) else path
