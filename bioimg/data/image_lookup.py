"""Find the files that a table means by paths, by names or by ids without a suffix."""

import difflib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bioimg.data.image_folder import list_image_paths
from bioimg.errors import UserError
from bioimg.text import join_first


class FoundPaths(NamedTuple):
    """The paths of images below a folder, and how many of them had to be looked for."""

    paths: list[str]
    searched_count: int


def find_paths(source: str, folder: Path, values: Sequence[str]) -> FoundPaths:
    """Return the path of an image below the folder for each value.

    A value is a path from the folder or else the end of a path: a file's name, with or without
    its suffix, or also the folders before it. Case doesn't matter for these.

    source: what holds the values, as in "the table of `data`, set.csv,".

    Raises:
        UserError: there is no such file, or there are several; lists them.
    """
    is_direct = [_is_file(folder / value) for value in values]
    if all(is_direct):
        return FoundPaths(list(values), 0)
    candidates = list_image_paths(folder)
    paths_by_name = _index_names(candidates)
    paths, missing, ambiguous = [], [], []
    for value, direct in zip(values, is_direct, strict=True):
        matches = [value] if direct else _find_matches(value, paths_by_name)
        if not matches:
            missing.append(value)
        elif len(matches) > 1:
            ambiguous.append(f"{value} ({' or '.join(matches[:3])})")
        else:
            paths.append(matches[0])
    if missing:
        raise _missing_files_error(source, folder, missing, candidates)
    if ambiguous:
        raise UserError(
            f"{source} names images of which there are several below {folder}: "
            f"{join_first(ambiguous, 3)}. Write their paths from there, or name the folder of the "
            "right ones with --images DIR."
        )
    return FoundPaths(paths, is_direct.count(False))


def _is_file(path: Path) -> bool:
    # a broken link is a file that can't be read, which is told later
    return os.path.lexists(path) and not path.is_dir()


def _index_names(paths: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the paths of each file name, with and without suffix, in lower case."""
    paths_by_name = defaultdict(list)
    for path in paths:
        name = PurePosixPath(path.casefold())
        paths_by_name[name.name].append(path)
        paths_by_name[name.stem].append(path)
    return paths_by_name


def _find_matches(value: str, paths_by_name: Mapping[str, list[str]]) -> list[str]:
    end = f"/{value.casefold().lstrip('./')}"
    name = end.rsplit("/", 1)[-1]
    matches = []
    for path in paths_by_name.get(name, ()):
        whole = PurePosixPath(f"/{path.casefold()}")
        if str(whole).endswith(end) or str(whole.with_suffix("")).endswith(end):
            matches.append(path)
    return matches


def _missing_files_error(
    source: str, folder: Path, missing: Sequence[str], candidates: Sequence[str]
) -> UserError:
    names = {PurePosixPath(path).name: path for path in candidates}
    closest = difflib.get_close_matches(PurePosixPath(missing[0]).name, names, n=1)
    if closest:
        hint = f" The closest file to {missing[0]} is {names[closest[0]]}."
    elif candidates:
        hint = f" Images there are called, for example, {join_first(candidates[:3])}."
    else:
        hint = " There are no images."
    return UserError(
        f"{source} names files that don't exist below {folder}: {join_first(missing)}.{hint} Fix "
        "the table, or name the folder of the images with --images DIR."
    )
