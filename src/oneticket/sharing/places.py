"""Where shared tickets lie: a folder, a web address, a file system of fsspec, the Hugging Face hub."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from filelock import FileLock

from oneticket.errors import InputError, TicketError
from oneticket.ticket.format import write as write_file

PATIENCE = 30.0
"""Seconds after which a web server that says nothing is given up."""


class Place(Protocol):
    """Files by relative names, with ``/`` between their parts; ``where`` names the place for messages."""

    where: str

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of a file, None where it is not there; TicketError for one of more than ``most`` bytes."""
        ...

    def write(self, files: Mapping[str, bytes], message: str) -> None:
        """Write files one after the other, each whole or not at all; none of them stays when one fails."""
        ...

    def changing(self) -> Any:
        """A context to write in, alone where that can be had; InputError for a place that is only read."""
        ...


def place_of(text: str, *, private: bool = False) -> Place:
    """The place that a user names: ``FOLDER``, ``https://…``, ``s3://…``, ``hf:user/name``; nothing is opened yet.

    Parameters
    ----------
    text : str
        A folder, a URL, or an id of the Hugging Face hub after ``hf:``, with ``@revision`` to read another one.
    private : bool, default False
        Whether a repository of the hub that is made is private.

    Raises
    ------
    InputError
        For a text that names no place, and where the library that it needs is missing.
    """
    scheme, separator, rest = text.partition("://")
    if text.startswith("hf:") and not separator:
        return _Hub(text.removeprefix("hf:"), private)
    if private:
        raise InputError("only repositories of the hub can be private", where=text, expected="hf:user/name")
    if not separator or scheme == "file":
        return _Folder(Path(rest if separator else text))
    if scheme in ("http", "https"):
        return _Web(text.rstrip("/"))
    return _FileSystem(text.rstrip("/"))


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root, self.where = root, str(root)
        if root.exists() and not root.is_dir():
            raise InputError("this is a file", where=self.where, expected="a folder of shared tickets")

    def read(self, name: str, most: int) -> bytes | None:
        try:
            with (self.root / name).open("rb") as file:
                return _all_of(file, most, f"{self.where}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise TicketError(f"cannot be read ({error.strerror})", where=str(self.root / name)) from error

    def write(self, files: Mapping[str, bytes], message: str) -> None:
        made: list[Path] = []
        try:
            for name, data in files.items():
                target = self.root / name
                made += [folder for folder in target.parents if not folder.exists()]
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    made.insert(0, target)
                write_file(target, data)
        except BaseException as error:
            for path in made:  # files before their folders, inner folders before outer ones
                with suppress(OSError):
                    path.rmdir() if path.is_dir() else path.unlink()
            if isinstance(error, OSError):
                raise InputError(f"cannot be written ({error.strerror})", where=self.where) from error
            raise

    @contextmanager
    def changing(self) -> Iterator[None]:
        if not self.root.is_dir():  # it is about to be made
            yield
            return
        with FileLock(self.root / ".index.lock"):
            yield


class _Web:
    """A web server, which is only read."""

    def __init__(self, root: str) -> None:
        self.where = root

    def read(self, name: str, most: int) -> bytes | None:
        address = f"{self.where}/{name}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
                return _all_of(answer, most, address)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return None
            raise TicketError(f"the server answers {error.code} {error.reason}", where=address) from error
        except (OSError, ValueError) as error:
            expected = "a server that can be reached; a copied folder works without a network"
            raise TicketError(f"cannot be read ({error})", where=address, expected=expected) from error

    def write(self, files: Mapping[str, bytes], message: str) -> None:
        self.changing()

    def changing(self) -> NoReturn:
        expected = "a folder, a URL such as s3://bucket/folder, or hf:user/name"
        raise InputError("a web server is only read", where=self.where, expected=expected)


class _FileSystem:
    """What fsspec opens by a URL: ``s3://``, ``gs://``, ``memory://`` and others."""

    def __init__(self, url: str) -> None:
        self.where = url
        try:
            import fsspec
        except ImportError:
            raise InputError("needs fsspec", where=url, expected="pip install 'oneticket[share]'") from None
        try:
            self.system, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # an unknown protocol, or one whose library is missing
            raise InputError(f"cannot be opened ({error})", where=url, expected="a URL that fsspec knows") from error

    def read(self, name: str, most: int) -> bytes | None:
        path = f"{self.root}/{name}"
        try:
            with self.system.open(path, "rb") as file:
                return _all_of(file, most, f"{self.where}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except TicketError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise TicketError(f"cannot be read ({error})", where=f"{self.where}/{name}") from error

    def write(self, files: Mapping[str, bytes], message: str) -> None:
        made: list[str] = []
        try:
            for name, data in files.items():
                path = f"{self.root}/{name}"
                if not self.system.exists(path):
                    made.append(path)
                self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.system.pipe_file(path, data)
                if self.system.cat_file(path) != data:
                    raise InputError("was not written as it is", where=f"{self.where}/{name}")
        except BaseException as error:
            for path in made:
                with suppress(Exception):
                    self.system.rm_file(path)
            if isinstance(error, InputError) or not isinstance(error, Exception):
                raise
            raise InputError(f"cannot be written ({error})", where=self.where) from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        yield


class _Hub:
    """A repository of the Hugging Face hub; what is pushed is one commit."""

    def __init__(self, name: str, private: bool) -> None:
        self.where, self.private = f"hf:{name}", private
        self.repository, _, revision = name.partition("@")
        self.revision = revision or None
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.repository):
            raise InputError("this is not a valid id of the hub", where=self.where, expected="hf:user/name")
        try:
            import huggingface_hub
        except ImportError:
            remedy = "pip install 'oneticket[hub]'"
            raise InputError("needs huggingface_hub", where=self.where, expected=remedy) from None
        self.hub: Any = huggingface_hub

    def read(self, name: str, most: int) -> bytes | None:
        from huggingface_hub import errors

        try:
            path = Path(self.hub.hf_hub_download(self.repository, name, revision=self.revision))
            with path.open("rb") as file:
                return _all_of(file, most, f"{self.where}/{name}")
        except errors.LocalEntryNotFoundError as error:  # also a kind of EntryNotFoundError
            raise self._unreachable(error) from error
        except (errors.EntryNotFoundError, errors.RepositoryNotFoundError):
            return None
        except TicketError:
            raise
        except Exception as error:
            raise self._unreachable(error) from error

    def write(self, files: Mapping[str, bytes], message: str) -> None:
        added = [self.hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        try:
            interface = self.hub.HfApi()
            interface.create_repo(self.repository, private=self.private, exist_ok=True)
            interface.create_commit(self.repository, added, commit_message=message, revision=self.revision)
        except Exception as error:
            raise self._unreachable(error) from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        yield

    def _unreachable(self, error: Exception) -> TicketError:
        reason = str(error).partition("\n")[0] or type(error).__name__
        expected = "a network, a repository that exists, and `hf auth login` to write; a folder works offline"
        return TicketError(f"the hub did not do it ({reason})", where=self.where, expected=expected)


def _all_of(file: Any, most: int, where: str) -> bytes:
    """The content of an open file; read in pieces, since what an index promises need not fit into memory."""
    data = bytearray()
    while piece := file.read(2**20):
        data += piece
        if len(data) > most:
            raise TicketError(f"has more than {most} bytes", where=where, expected="the size that its index names")
    return bytes(data)
