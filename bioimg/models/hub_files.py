"""Files of models on the Hugging Face hub: from its cache on this machine, or downloaded.

huggingface_hub does the work, so its settings hold: HF_HOME (where the cache is), HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

from bioimg.errors import UserError

WEIGHTS_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""Names of files of weights, the first that exists counts."""


class Repository(NamedTuple):
    """A repository of the hub, and one of its commits, tags or branches."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hub:{self.name}@{self.revision}" if self.revision else f"hub:{self.name}"

    @classmethod
    def parse(cls, text: str) -> "Repository":
        """Return the repository of OWNER/NAME or OWNER/NAME@REVISION, with or without `hub:`."""
        text = text.removeprefix("hub:")
        name, _, revision = text.partition("@")
        return cls(name, revision or None)


def is_model_folder(folder: Path) -> bool:
    """Return True if a folder holds what timm saves: a description of the model, and weights."""
    has_weights = any((folder / name).is_file() for name in WEIGHTS_FILES)
    return has_weights and (folder / "config.json").is_file()


def find_weights_file(folder: Path, field_value: str) -> Path:
    """Return the path of the weights in a folder.

    Raises:
        UserError: it has none.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"{field_value}, but {folder} has none of the files {', '.join(WEIGHTS_FILES)}. Save the "
        "weights there, or give a file as `weights`."
    )


def find_cached_weights(repository: Repository) -> Path | None:
    """Return the path of a repository's weights in the hub's cache; None if they aren't there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, revision = repository
    with contextlib.suppress(HFValidationError):
        for filename in WEIGHTS_FILES:
            path = try_to_load_from_cache(name, filename, revision=revision)
            if isinstance(path, str):
                return Path(path)
    return None


def is_any_cached(pattern: str) -> bool:
    """Return True if the hub's cache holds weights of a repository whose name fits a pattern.

    pattern: as for `glob`, such as `timm/resnet50.*`.
    """
    from huggingface_hub import constants

    folders = f"models--{pattern.replace('/', '--')}/snapshots/*"
    files = Path(constants.HF_HUB_CACHE).glob(f"{folders}/*")
    return any(file.name in WEIGHTS_FILES for file in files)


def fetch_weights_file(repository: Repository, field_value: str) -> Path:
    """Return the path of a repository's weights on this machine, downloaded if they aren't there.

    field_value: what asks for them, for errors: "the value of `model` is 'uni'".

    Raises:
        UserError: they can't be had. It says what to do about it.
    """
    if cached := find_cached_weights(repository):
        return cached
    for name in WEIGHTS_FILES:
        with contextlib.suppress(FileNotFoundError):
            return fetch_file(repository, name, field_value)
    raise UserError(
        f"{field_value}, but {repository.name} has none of the files {', '.join(WEIGHTS_FILES)}. "
        "Name another repository, or give a file as `weights`."
    )


def fetch_file(repository: Repository, filename: str, field_value: str) -> Path:
    """Return the path of a repository's file on this machine, downloaded if it isn't there.

    Raises:
        FileNotFoundError: the repository has no such file.
        UserError: it can't be had. It says what to do about it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = repository
    try:
        return Path(hf_hub_download(name, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        raise _unreachable_error(repository, filename, field_value, error) from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(filename) from error
    except GatedRepoError as error:
        raise UserError(
            f"{field_value}, but you haven't been given access to {name}. Accept its conditions at "
            f"{_repository_address(name)}, then log in with `hf auth login`, or set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{field_value}, but {_repository_address(name)} doesn't exist, or is open only to "
            "some. Check the name, or log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{field_value}, but {_repository_address(name)} has no revision {revision!r}. Name a "
            "commit, tag or branch of it."
        ) from error
    except HFValidationError as error:
        raise UserError(
            f"{field_value}, but {name!r} isn't a name of a repository. Write it as OWNER/NAME."
        ) from error
    except Exception as error:
        # what a connection that breaks off raises depends on the hub's HTTP library
        raise _unreachable_error(repository, filename, field_value, error) from error


def why_unreachable(repository: Repository) -> str | None:
    """Return why a repository's weights can't be downloaded, or None if they can."""
    from huggingface_hub import file_exists

    name, revision = repository
    try:
        if any(file_exists(name, filename, revision=revision) for filename in WEIGHTS_FILES):
            return None
    except OSError as error:
        return str(error).splitlines()[0]
    return "it has no weights"


def commit_of(path: Path) -> str:
    """Return the commit that a file in the hub's cache belongs to (`snapshots/COMMIT/file`)."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else ""


def _repository_address(name: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _unreachable_error(
    repository: Repository, filename: str, field_value: str, error: Exception
) -> UserError:
    from huggingface_hub import constants

    reason = str(error.__cause__ or error).splitlines()[0]
    return UserError(
        f"{field_value}, but {filename} of {repository.name} isn't on this machine and can't be "
        f"downloaded ({reason}). Download it on a machine with network access (`hf download "
        f"{repository.name}`), and copy that machine's cache to {constants.HF_HUB_CACHE}."
    )
