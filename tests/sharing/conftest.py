"""Small tickets, and every kind of place that they are shared at, each without a network."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from oneticket.masks import Masks
from oneticket.sharing import Place, place_of
from oneticket.ticket import Provenance, Seen, Ticket


def small(seed: int = 0, **about: Any) -> Ticket:
    generator = torch.Generator().manual_seed(seed)
    masks = Masks({"fc.weight": torch.rand(6, 4, generator=generator) < 0.5})
    known = {"model": "lenet-300-100", "seen": (Seen(name="digits", samples=12, recipe={"lr": 0.1}),), "rewind": "1ep"}
    weights = {"fc.weight": torch.randn(6, 4, generator=generator)}
    return Ticket(masks, weights, {"head.bias": torch.ones(2)}, "head", Provenance(**{**known, **about}))


@pytest.fixture
def make() -> Callable[..., Ticket]:
    """``make(seed, notes=…)``: a small ticket, and what is to stand in its provenance."""
    return small


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    """The file of a ticket."""
    small().save(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The file of another ticket."""
    small(1).save(tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


class FakeHub:
    """The part of the hub's interface that is used; a repository is a folder, a commit is applied whole or not."""

    def __init__(self, root: Path) -> None:
        self.root, self.commits, self.made = root, [], {}
        self.refuses = False

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.made.setdefault(name, private)

    def create_commit(self, name: str, operations: Any, *, commit_message: str, revision: str | None) -> None:
        if self.refuses:
            raise OSError("403 Forbidden\nmore")
        self.commits.append(commit_message)
        for added in operations:
            path = self.root / name / added.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(added.path_or_fileobj)

    def download(self, name: str, file: str, *, revision: str | None) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        if not (self.root / name / file).exists():
            raise EntryNotFoundError(f"{file} is not there")
        return str(self.root / name / file)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    library = pytest.importorskip("huggingface_hub")
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(library, "HfApi", lambda: fake)
    monkeypatch.setattr(library, "hf_hub_download", fake.download)
    return fake


@pytest.fixture(params=["folder", "memory", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place to push to: of each kind one."""
    if request.param == "hub":
        request.getfixturevalue("hub")
        return place_of("hf:someone/tickets")
    if request.param == "memory":
        pytest.importorskip("fsspec")
        return place_of(f"memory://{tmp_path.name}/shared")
    return place_of(str(tmp_path / "shared" / "deep"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on this machine that shows the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()
