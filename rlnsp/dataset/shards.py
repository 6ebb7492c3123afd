"""Tar files as WebDataset writes them, read by an index of their members; nothing is ever unpacked.

``webdataset``'s own reader streams a shard from its beginning and cannot say where it was, nor does it look
at what members are; an index gives both, exact places and a look at every name before a byte is used.
"""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from rlnsp.dataset.safety import UnsafePath, check_name
from rlnsp.settings import ConfigError

BLOCK = 512
"""Bytes; what a tar file consists of."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where each member's bytes are."""

    path: Path
    members: Mapping[str, tuple[int, int]]
    """(offset, size) by name."""
    broken: str = ""
    """Why there are no more of them, where the file breaks off."""

    def read(self, name: str) -> bytes:
        """A member's bytes."""
        offset, size = self.members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def open_shard(path: Path) -> Shard:
    """The index of a tar file.  It is kept while the file stays as it is.

    Raises:
        ConfigError: it is no tar file, is compressed, or has a member that is no plain file inside it.
    """
    status = path.stat()
    return _indexed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _indexed(path: Path, changed: int, size: int) -> Shard:
    members: dict[str, tuple[int, int]] = {}
    broken = ""
    try:
        # "r:": of a compressed file every member would have to be read to get to the last.
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            try:
                for member in tar:
                    if member.isdir():
                        continue
                    name = str(PurePosixPath(member.name))  # tar of a whole folder writes ./NAME
                    _check(path, member, name, members)
                    if member.offset_data + member.size > size:
                        broken = f"breaks off in {member.name!r}"
                        break
                    members[name] = member.offset_data, member.size
            except tarfile.TarError as error:
                broken = f"breaks off ({error})"
            # A header that cannot be read ends the iteration as the end does, but that is of zeros.
            if not broken and _goes_on(file, tar.offset):
                broken = f"breaks off after {len(members)} members"
    except tarfile.TarError as error:
        raise ConfigError(
            f"{path}: not a plain tar file ({error}); make it anew, uncompressed, or drop it"
        ) from error
    return Shard(path=path, members=members, broken=broken)


def _check(path: Path, member: tarfile.TarInfo, name: str, members: Mapping[str, object]) -> None:
    try:
        check_name(member.name)
    except UnsafePath as error:
        raise ConfigError(f"{path}: member {member.name!r} {error}; make the shard anew") from error
    if not member.isreg() or member.issparse():
        raise ConfigError(f"{path}: member {member.name!r} is no plain file; make the shard without it")
    if name in members:
        raise ConfigError(f"{path}: two members are named {name!r}; make the shard anew")


def _goes_on(file: BinaryIO, offset: int) -> bool:
    file.seek(offset, io.SEEK_SET)
    return any(file.read(BLOCK))
