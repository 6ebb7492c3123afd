"""Data sets on a hub, fetched by ``datasets`` into its cache, and read there as tables on this machine are.

They are named as everywhere in that world: ``hf://datasets/OWNER/NAME``, and after it ``@REVISION`` and
``?config=NAME`` where they are wanted.  Where the hub is (HF_ENDPOINT), whether it may be asked
(HF_HUB_OFFLINE), who asks (HF_TOKEN) and where the cache lies (HF_HOME) are its own settings.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rlnsp.settings import ConfigError

SCHEME = "hf://datasets/"
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^?]+))?(\?config=(?P<config>.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """Which, of a hub's."""

    name: str
    """OWNER/NAME."""
    revision: str | None
    """A branch, a tag or a commit."""
    config: str | None
    """Of several in one repository, which."""


def place_of(name: str) -> Path | str:
    """Where a data set is, as users name it: the name itself if it is a hub's, else a path."""
    return name if is_on_hub(name) else Path(name)


def is_on_hub(place: Path | str) -> bool:
    """It names a hub's data set, or means to."""
    return isinstance(place, str) and place.startswith("hf:")


def parse(place: str) -> HubDataset:
    """What a name says.

    Raises:
        ConfigError: it is not of the form above.
    """
    found = _NAME.fullmatch(place.removeprefix(SCHEME)) if place.startswith(SCHEME) else None
    if found is None:
        raise ConfigError(
            f"{place}: not the name of a data set on a hub; write {SCHEME}OWNER/NAME, and after it "
            "@REVISION and ?config=NAME where they are wanted"
        )
    return HubDataset(name=found["name"], revision=found["revision"], config=found["config"])


@lru_cache
def fetch(place: str) -> list[tuple[str, list[Path]]]:
    """(split, its tables on this machine), downloaded if they are not there yet.

    Of several processes with one cache the first to come downloads: the others wait at its lock.

    Raises:
        ConfigError: it cannot be had; the message says what to do.
    """
    asked = parse(place)
    import datasets  # slow to import
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    # Of the client that this release of the hub's is built on, one of two.
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        # Where a folder of the same name lies here, it is not that which is meant: the scheme says so.
        splits = datasets.load_dataset(
            SCHEME + asked.name, name=asked.config, revision=asked.revision, keep_in_memory=False
        )
    except DatasetNotFoundError as error:
        raise ConfigError(
            f"{place}: {_line(error)} Check the name and the revision; of one that is gated or private, get "
            "access on its page, and log in: `hf auth login`, or HF_TOKEN"
        ) from error
    except (ConnectionError, HTTPError) as error:
        raise ConfigError(
            f"{place}: cannot be fetched ({_line(error)}); check the connection, name a mirror in "
            "HF_ENDPOINT, or bring a cache that has it (HF_HOME)"
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise ConfigError(
            f"{place}: `datasets` cannot read it ({_line(error)}); name one of its configs by ?config=NAME "
            "if it has several; one that needs code of its own to be read, or is damaged, cannot be used"
        ) from error
    tables = {
        str(split): [Path(file["filename"]).resolve() for file in table.cache_files]
        for split, table in splits.items()
    }
    _check_commit(place, asked, {file.parent.name for files in tables.values() for file in files})
    return list(tables.items())


def is_fetched(file: Path, table: Path) -> bool:
    """``file``, which a cell of ``table`` names, is one that ``datasets`` fetched with it.

    It fetches the videos of a repository that holds them beside its table, and names them by their places.
    Of any other table a name like that is its author's, who may not say what is read here.
    """
    import datasets.config
    from huggingface_hub import constants

    cache = Path(datasets.config.HF_DATASETS_CACHE).resolve()
    whole = file.resolve()
    return table.resolve().is_relative_to(cache) and (
        whole.is_relative_to(Path(constants.HF_HUB_CACHE).resolve()) or whole.is_relative_to(cache)
    )


def _check_commit(place: str, asked: HubDataset, found: set[str]) -> None:
    """Where the hub cannot be asked ``datasets`` takes the newest that its cache has, of any revision.

    Args:
        place: for messages.
        asked: the same.
        found: commits; folders of the cache are named by them.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    commit = asked.revision
    if commit is None or not _COMMIT.fullmatch(commit):
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=asked.name, repo_type="dataset")
        ref = folder / "refs" / (asked.revision or "main")
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else None
    if found - {commit}:
        raise ConfigError(
            f"{place}: this revision cannot be fetched, and what the cache has is commit "
            f"{min(found - {commit})}; check its name and the connection, or name that one"
        )


def _line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:400]
