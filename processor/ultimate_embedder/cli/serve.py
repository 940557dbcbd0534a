"""`serve`: bundles behind HTTP, and a page to look at them with."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MissingExtra, UsageError
from ..export.folders import no_bundle
from ..export.layout import MANIFEST
from ..models.choice import choose_rerank
from ..search import Bundle, open_bundle
from ..settings import decide
from ..telemetry.printable import printable

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHORTEST_TOKEN = 16
_LAST_REQUESTS_SECONDS = 10


def serve(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Folders of bundles, or a folder that holds bundles."),
    ],
    *,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Other than loopback needs a token."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", help="0: any free one.", min=0, max=65535)
    ] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Whose first line every request must carry."),
    ] = None,
    at_once: Annotated[
        int, typer.Option(metavar="N", help="Searches that run at once.", min=1)
    ] = 2,
    waiting: Annotated[
        int,
        typer.Option(metavar="N", help="Searches that may wait; more get 503.", min=0),
    ] = 32,
    rerank_model: Annotated[
        str | None,
        typer.Option(
            "--rerank-model",
            metavar="KEY|ORG/NAME|DIR",
            help="Rerank with another model than the bundle's, as `adapt` writes.",
            show_default="the bundle's",
        ),
    ] = None,
    offline: Annotated[
        bool | None,
        typer.Option(
            "--offline/--online",
            help="Open no connection, or fetch models that are missing.",
            show_default="offline for profile embedded",
        ),
    ] = None,
) -> None:
    """Serve bundles over HTTP until Ctrl-C: search, chunks, and a page for people.

    Open the printed address in a browser; /docs there tells of the interface. It reads
    bundles and never starts a run.

    Exit codes: 0 ended by Ctrl-C or SIGTERM; 1 a damaged bundle, or a model is missing;
    2 bad usage, or no bundle.
    """
    _require_extra()
    token = _token(token_file, host)
    if offline is None:
        offline = bool(decide({})[0]["offline"].value)
    opened = _open(bundles, rerank_model, offline=offline)
    listening = listen(host, port)
    _run(opened, listening, token=token, at_once=at_once, waiting=waiting)


def _require_extra() -> None:
    for library in ("fastapi", "fastapi_offline", "uvicorn"):
        if find_spec(library) is None:
            raise MissingExtra("Serving over HTTP", "serve")


def _token(file: Path | None, host: str) -> str | None:
    """Return the token; None: the service is for this machine alone and has none."""
    if file is None:
        if not _is_loopback(host):
            raise UsageError(
                f"Serving on {host} lets other machines in.",
                cure="Give --token-file FILE, or listen on 127.0.0.1.",
            )
        return None
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The token cannot be read from {file}: {error}.",
            cure="Name a file of ASCII text whose first line is the token.",
        ) from error
    token = lines[0].strip() if lines else ""
    if len(token) < _SHORTEST_TOKEN:
        raise UsageError(
            f"The token in {file} is shorter than {_SHORTEST_TOKEN} characters.",
            cure="Make one: python -c 'import secrets; print(secrets.token_hex())'.",
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open(
    folders: Sequence[Path], rerank_model: str | None, *, offline: bool
) -> dict[str, Bundle]:
    rerank = choose_rerank(rerank_model, offline=offline) if rerank_model else None
    found: dict[str, Bundle] = {}
    for folder in folders:
        for path in _bundles_in(folder):
            bundle = open_bundle(path, offline=offline, rerank=rerank)
            name = bundle.manifest.collection
            if name in found:
                raise UsageError(
                    f"Two of the bundles hold the collection {name}; {path} is one.",
                    cure="Serve one of them.",
                )
            found[name] = bundle
    return found


def _bundles_in(folder: Path) -> list[Path]:
    if (folder / MANIFEST).is_file():
        return [folder]
    inner = sorted(found.parent for found in folder.glob(f"*/{MANIFEST}"))
    if not inner:
        raise no_bundle(folder)
    return inner


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; what it accepts sends at once.

    Without TCP_NODELAY the second part of an answer waits for the client to confirm the
    first, which takes it some 40 ms. Accepted sockets inherit the option.

    Raises:
        UsageError: the port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"Port {port} of {host} cannot be listened on: {_why(error)}.",
            cure="Choose another with --port; 0 takes a free one.",
        ) from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _why(error: OSError) -> str:
    """Return the system's words for an error; Python adds the address to them."""
    return os.strerror(error.errno) if error.errno else str(error)


def _run(
    opened: dict[str, Bundle],
    listening: socket.socket,
    *,
    token: str | None,
    at_once: int,
    waiting: int,
) -> None:
    import uvicorn

    from ..serving.app import ServiceLimits, create_app
    from ..serving.service import SearchService

    service = SearchService(opened)
    _say(opened)
    for name, why in service.warm_up().items():
        sys.stdout.write(printable(f"{name}: no reranked ranking: {why}") + "\n")
    app = create_app(
        service,
        limits=ServiceLimits(at_once=at_once, waiting=waiting),
        token=token,
        hosts=("*",) if token else own_names(listening),
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # addresses hold chunk ids, which hold file names
        server_header=False,
        timeout_graceful_shutdown=_LAST_REQUESTS_SECONDS,
    )
    sys.stdout.write(f"Serving on {_address(listening)} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):  # raised again once the server has closed
        uvicorn.Server(config).run(sockets=[listening])
    sys.stdout.write("Ended.\n")


def _say(opened: dict[str, Bundle]) -> None:
    for name, bundle in opened.items():
        text = f"{name}: {len(bundle):,} chunks, {', '.join(bundle.stages)}"
        sys.stdout.write(printable(text) + "\n")
        for stage, why in bundle.missing.items():
            sys.stdout.write(printable(f"{name}: no {stage} ranking: {why}") + "\n")
    sys.stdout.write("Loading the models ...\n")
    sys.stdout.flush()


def own_names(listening: socket.socket) -> tuple[str, ...]:
    """Return the names under which a service for this machine alone may be asked."""
    return (*_LOOPBACK, listening.getsockname()[0])


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
