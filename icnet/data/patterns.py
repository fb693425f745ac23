"""Patterns that say where the files of a data set lie, such as ``images/{split}/{stem}.jpg``."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from icnet.data.listing import IMAGE_SUFFIXES, walk
from icnet.errors import UserError

SPLIT, STEM = "{split}", "{stem}"
ANY_FOLDERS = "**/"
SHOWN = 4  # names of a folder that a message lists


class Found(NamedTuple):
    """What lies where a pattern looks.

    Args:
        folder: The folder that was looked through, with everything below it.
        stems: The pattern's files, by path, with their stems.
        others: Paths, relative to ``folder``, of the files that it does not match.
    """

    folder: Path
    stems: Mapping[Path, str]
    others: list[str]

    def without(self, paths: Collection[Path]) -> "Found":
        """Return the same but for some files, which are another's."""
        return Found(self.folder, {path: stem for path, stem in self.stems.items() if path not in paths}, self.others)

    def by_stem(self, what: str) -> dict[str, Path]:
        """Return the files by their stems.

        Args:
            what: They are, for the error.

        Raises:
            UserError: If two of them share one.
        """
        files: dict[str, Path] = {}
        for path, stem in self.stems.items():
            if stem in files:
                raise UserError(
                    f"{files[stem]} and {path} are both the {what} {stem!r}; rename or remove one of them, "
                    "or give the pattern a suffix, such as {stem}.png"
                )
            files[stem] = path
        return files


class Pattern:
    """Where files of one kind lie, relative to the folder of the data set.

    ``{split}`` stands for the name of a split, inside one folder's or file's name. ``{stem}`` stands for what an image
    and its mask share, over folders too, so that ``images/{split}/{stem}`` finds ``images/train/street/1.png`` as
    ``street/1``. ``*`` stands for anything inside one name and ``**/`` for any folders, which need not be shared; with
    ``**``, ``{stem}`` stays inside one name. Everything else stands for itself. Suffixes are taken in upper and lower
    case; a pattern without one takes all of ``suffixes``.

    Args:
        key: What it is called in messages, such as ``data.images``.
        text: The pattern; an absolute one does not ask for the data set's folder.
        suffixes: Those that a file may have, in lower case.

    Raises:
        UserError: If it has no ``{stem}``, an unknown ``{name}``, or a suffix that is not taken.
    """

    def __init__(self, key: str, text: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> None:
        self.key = key
        self.text = text.removeprefix("./")
        names = re.findall(r"\{[^{}]*\}", text)
        unknown = next((name for name in names if name not in {SPLIT, STEM}), None)
        if unknown or STEM not in names:
            problem = f"has {unknown}" if unknown else f"has no {STEM}"
            raise UserError(
                f"{key}={text} {problem}; give a pattern with {STEM}, which image and mask share, and {SPLIT} for the "
                f"split, such as images/{SPLIT}/{STEM}.jpg"
            )
        suffix = PurePosixPath(text.replace("*", "_")).suffix
        self._suffixes = tuple(suffixes)
        self._body = self.text.removesuffix(".*")
        if suffix and suffix.lower() in suffixes:
            self._suffixes = (suffix,)
            self._body = self.text.removesuffix(suffix)
        elif suffix and suffix != "._" and STEM not in suffix:
            raise UserError(
                f"{key}={text} ends in {suffix}, which is not taken; give one of {', '.join(suffixes)}, or leave it "
                "out for all of them"
            )

    @property
    def has_split(self) -> bool:
        """Whether the split is told by the pattern."""
        return SPLIT in self.text

    @property
    def literal(self) -> int:
        """How many characters stand for themselves; of two patterns that match a file, the one with more means it."""
        return len(re.sub(r"\{split\}|\{stem\}|\*", "", self.text.removesuffix(".*")))

    def find(self, root: Path, split: str) -> Found:
        """Look for the files of a split.

        Args:
            root: The folder of the data set.
            split: The split's name.

        Returns:
            What was found, nothing where there is no such folder.

        Raises:
            UserError: If a folder cannot be read.
        """
        folder, rest = self._divide(root, split)
        match = self._expression(rest, re.escape(split)).fullmatch
        stems, others = {}, []
        for file in walk(folder):
            found = match(file)
            if found:
                stems[folder / file] = found["stem"]
            else:
                others.append(file)
        return Found(folder, stems, others)

    def splits(self, root: Path) -> list[str]:
        """Return the names of the splits that have files, sorted; none if the pattern has no ``{split}``."""
        if not self.has_split:
            return []
        folder, rest = self._divide(root, None)
        match = self._expression(rest, None).fullmatch
        return sorted({found["split"] for file in walk(folder) if (found := match(file))})

    def nothing_found(self, root: Path, split: str, what: str) -> str:
        """Say that there is nothing, what was looked for, and what lies there instead.

        Args:
            root: The folder of the data set.
            split: The split's name.
            what: What was looked for: image or mask.
        """
        folder, rest = self._divide(root, split)
        sought = folder / rest.replace(SPLIT, split)
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return f"there is no {what} {sought} ({self.key}={self.text}); {describe(folder)}"

    def _divide(self, root: Path, split: str | None) -> tuple[Path, str]:
        """Return the deepest folder that all files lie in, and what is left of the pattern below it."""
        parts = str(Path(self._body).expanduser()).split("/")
        plain = 0
        for part in parts[:-1]:
            if "*" in part or STEM in part or (split is None and SPLIT in part):
                break
            plain += 1
        above = "/".join(parts[:plain]).replace(SPLIT, split or "")
        return (root / (above or ("/" if plain else "."))), "/".join(parts[plain:])

    def _expression(self, rest: str, split: str | None) -> re.Pattern[str]:
        """Return what a path below the folder has to match.

        Args:
            rest: The pattern below the folder.
            split: An expression for the split's name; None to find it as the group ``split``.
        """
        named: set[str] = set()

        def group(name: str, inside: str) -> str:
            again = name in named
            named.add(name)
            return f"(?P={name})" if again else f"(?P<{name}>{inside})"

        def translate() -> Iterator[str]:
            for token in re.split(r"(\{split\}|\{stem\}|\*\*/|\*+)", rest):
                if token == SPLIT:
                    yield group("split", "[^/]+?") if split is None else split
                elif token == STEM:
                    yield group("stem", "[^/]+" if "**" in self.text else ".+")
                elif token == ANY_FOLDERS:
                    yield "(?:[^/]+/)*"
                elif token.startswith("*"):
                    yield "[^/]*"
                else:
                    yield re.escape(token)

        suffixes = "|".join(map(re.escape, self._suffixes))
        return re.compile(f"{''.join(translate())}(?i:{suffixes})")


def describe(folder: Path) -> str:
    """Say what lies in a folder, in a few words."""
    try:
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return f"{folder} cannot be read"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{folder} holds {', '.join(names[:SHOWN]) or 'nothing'}{more}"
