"""A collection's store by where it is: an address, a folder, an embedded engine."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ..addresses import address_parts, without_login
from ..errors import DeliveryError, MissingExtra, UsageError
from .edge_store import EdgeStore
from .qdrant_errors import told
from .qdrant_store import QdrantStore
from .retry import Retries
from .store import Store

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

Transport = Literal["auto", "grpc", "http"]
REQUEST_SECONDS: Final = 60
GRPC_PORT: Final = 6334
_PROBE_SECONDS: Final = 3
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How a server is reached.

    `transport` auto takes gRPC where `grpc_port` answers as Qdrant's, HTTP elsewhere.
    `seconds` is how long one answer may take.
    """

    url: str
    api_key: str | None = None
    transport: Transport = "auto"
    grpc_port: int = GRPC_PORT
    seconds: int = REQUEST_SECONDS

    def __post_init__(self) -> None:
        parts = address_parts(self.url)
        if (
            parts is None
            or parts.scheme not in {"", "http", "https"}
            or not parts.hostname
        ):
            raise UsageError(
                f"'{self.place}' is no address of a Qdrant server.",
                cure="Write it as http://localhost:6333.",
            )

    @property
    def place(self) -> str:
        """The address as it is told and kept: the client makes no use of a login."""
        return without_login(self.url)

    @property
    def beneath_a_path(self) -> bool:
        """Whether a proxy serves it under a path, as it cannot serve gRPC."""
        parts = address_parts(self.url)
        return parts is not None and parts.path not in {"", "/"}

    @property
    def key_in_clear(self) -> bool:
        """Whether the key would travel over a network unencrypted."""
        parts = address_parts(self.url)
        return (
            self.api_key is not None
            and parts is not None
            and parts.scheme != "https"
            and parts.hostname not in _LOOPBACK
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where to: `place` as a person would say it, and how a collection is opened.

    `indexed` is False where no index is ever made: every point is compared.
    """

    place: str
    open: Callable[[str], Store]
    indexed: bool = True


def choose_target(
    server: Server | None,
    path: Path | None,
    edge: Path | None,
    retries: Retries | None = None,
) -> Target:
    """Return the one target that was named.

    Raises:
        UsageError: there is not exactly one.
    """
    match (server, path, edge):
        case (Server(), None, None):
            return Target(server.place, lambda name: at_server(server, name, retries))
        case (None, Path(), None):
            return Target(str(path), lambda name: in_folder(path, name), indexed=False)
        case (None, None, Path()):
            return Target(str(edge), lambda name: EdgeStore(edge, name))
        case _:
            raise UsageError("Give exactly one of --url, --path and --edge.")


def at_server(
    server: Server, collection: str, retries: Retries | None = None
) -> QdrantStore:
    """Return the collection on a server; at most its gRPC port is tried.

    Raises:
        MissingExtra: qdrant-client is not installed.
        DeliveryError: the address is none.
    """
    grpc = server.transport == "grpc" or (
        server.transport == "auto"
        and not server.beneath_a_path
        and _answers_grpc(server)
    )
    place = f"{server.place} ({'gRPC' if grpc else 'HTTP'})"
    client = _client(server, grpc=grpc, seconds=server.seconds)
    return QdrantStore(
        client, collection, place, identity=server.place, retries=retries
    )


def in_folder(folder: Path, collection: str) -> QdrantStore:
    """Return the collection in a local folder, which is made when missing.

    Raises:
        MissingExtra: qdrant-client is not installed.
        DeliveryError: the folder cannot be used, or another process has it open.
    """
    client = _client_class()
    with told(f"Qdrant at {folder}"), _without_warnings():
        _forget_torn_index(folder)
        opened = client(path=str(folder))
    return QdrantStore(
        opened,
        collection,
        str(folder),
        identity=str(folder.resolve()),
        served=False,
    )


def _forget_torn_index(folder: Path) -> None:
    """Remove an empty meta.json: the client writes it in two steps when it makes a
    folder, and cannot open one where it was killed between them."""
    meta = folder / "meta.json"
    if meta.is_file() and meta.stat().st_size == 0:
        meta.unlink()


def _client_class() -> type[QdrantClient]:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtra("Qdrant", "qdrant") from error
    return QdrantClient


def _client(server: Server, *, grpc: bool, seconds: int) -> QdrantClient:
    client = _client_class()
    with told(f"Qdrant at {server.place}"), _without_warnings():
        return client(
            # Without a scheme the client takes a host that is not local for one.
            url=server.url if "//" in server.url else f"http://{server.url}",
            api_key=server.api_key,
            prefer_grpc=grpc,
            grpc_port=server.grpc_port,
            timeout=seconds,
            check_compatibility=False,  # a request whose failure only warns
        )


def _answers_grpc(server: Server) -> bool:
    """Return whether the gRPC port answers a health check."""
    client = _client(server, grpc=True, seconds=_PROBE_SECONDS)
    try:
        with told("gRPC"):
            client.info()
    except DeliveryError:
        return False
    finally:
        with contextlib.suppress(RuntimeWarning):
            client.close()
    return True


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence two pieces of advice: one on large local collections, and one on keys,
    which the command gives itself where it holds."""
    with warnings.catch_warnings():
        for start in ("Local mode is not", "Api key is used with an insecure"):
            warnings.filterwarnings("ignore", start, UserWarning)
        yield
