"""The images that a command names: files, image_ids of the dataset, and folders with everything below them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgg.data.sources.records import SUFFIXES
from fgg.errors import FggError, names
from fgg.explain.explained_model import Picture, Subject, read_picture
from fgg.progress import progress

UNSAFE = re.compile(r"[^\w.,=+-]")


@dataclass(frozen=True)
class Given:
    """An image that is to be explained.

    Attributes:
        name: its name in the text and the tables: an image_id, a file's name, or its path below the folder.
        source: its path or image_id.
        in_folder: it was found in a folder; if it cannot be read, the others are explained all the same.
    """

    name: str
    source: str
    in_folder: bool = False


@dataclass
class Listed:
    """The images that were named, in that order, and the files of folders that are no images by their names."""

    images: list[Given] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def listed(arguments: Sequence[str]) -> Listed:
    """List the images; those of a folder, and of the folders in it, are sorted by their path.

    Raises:
        FggError: a folder holds no images.
    """
    found = Listed()
    for argument in arguments:
        folder = Path(argument)
        if not folder.is_dir():
            name = folder.name if folder.is_file() else argument
            found.images.append(Given(name, argument))
            continue
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        own = [path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
        if not own:
            raise FggError(f"the folder {argument} holds no image; images end in {', '.join(SUFFIXES)}")
        found.images += [Given(path.relative_to(folder).as_posix(), str(path), in_folder=True) for path in own]
        found.others += [str(path) for path in files if path not in set(own)]
    return found


def file_names(images: Sequence[Given], what: str) -> dict[str, str]:
    """Name of an image -> a name for its files, with signs that every file system takes.

    Raises:
        FggError: two images would get the same files.
    """
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for each in images:
        safe = UNSAFE.sub("_", each.name).lstrip(".") or "_"
        if safe in owners:
            raise FggError(
                f"{what}: {owners[safe]} and {each.source} would share a name; rename one, or explain them apart"
            )
        owners[safe], found[each.name] = each.source, safe
    return found


def unreadable_message(faults: Sequence[str], of: int) -> str:
    """The message about images of folders that could not be read."""
    return f"{len(faults)} of {of} images could not be read: {names(faults, len(faults))}"


class Pictures:
    """The images, read one at a time, with progress on standard error if there are several.

    Args:
        faults: gets a line per image of a folder that cannot be read.

    Raises:
        FggError: an image that was named, and not found in a folder, cannot be read.
    """

    def __init__(self, subject: Subject, given: Sequence[Given], faults: list[str]) -> None:
        self.subject, self.given, self.faults = subject, given, faults
        for each in given:
            if not each.in_folder:
                self._read(each)

    def __iter__(self) -> Iterator[Picture]:
        several = len(self.given) > 1
        with progress([], len(self.given), "explain") if several else contextlib.nullcontext() as bar:
            for each in self.given:
                try:
                    picture = self._read(each)
                except FggError as error:
                    if not each.in_folder:
                        raise
                    self.faults.append(str(error))
                    print(f"warning: {error}", file=sys.stderr)
                else:
                    yield picture
                if bar is not None:
                    bar.update()

    def first(self, count: int) -> list[Picture]:
        """The first images that can be read."""
        found: list[Picture] = []
        for each in self.given:
            if len(found) == count:
                break
            with contextlib.suppress(FggError):  # the loop over all images reports it
                found.append(self._read(each))
        return found

    def _read(self, each: Given) -> Picture:
        picture = read_picture(self.subject, each.source)
        picture.name = each.name
        return picture
