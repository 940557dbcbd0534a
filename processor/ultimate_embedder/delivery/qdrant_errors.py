"""Failures of qdrant-client as DeliveryError: which may pass, and which may not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..errors import DeliveryError
from .retry import Unsteady
from .store import TooLarge

if TYPE_CHECKING:
    import grpc
    from qdrant_client.http.exceptions import UnexpectedResponse

_MAY_PASS: Final = {408, 425, 429, 500, 502, 503, 504}
_REFUSED: Final = {401, 403}
_KEY_CURE: Final = "Set QDRANT_API_KEY to a key that may write."
_ADDRESS_CURE: Final = "Check the address and that Qdrant is running."
_LONGEST_WAIT: Final = 120.0


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn the client's failures into DeliveryError, on one line.

    Raises:
        Unsteady: a failure that may pass.
        TooLarge: the request was larger than the server takes.
        DeliveryError: any other.
    """
    from qdrant_client.common.client_exceptions import (
        QdrantException,
        ResourceExhaustedResponse,
    )
    from qdrant_client.http.exceptions import (
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except UnexpectedResponse as error:
        raise _answered(where, error) from error
    except ResponseHandlingException as error:
        raise _unanswered(where, error.source) from error
    except ResourceExhaustedResponse as error:
        wait = min(float(error.retry_after_s), _LONGEST_WAIT)
        raise Unsteady(f"{where} is asked too often.", wait=wait) from error
    except QdrantException as error:
        raise Unsteady(f"{where} answered: {one_line(error)}.") from error
    except OSError as error:  # the local mode's folder
        why = error.strerror or one_line(error)
        raise DeliveryError(
            f"{where} cannot be opened or written: {why}.",
            cure="Choose another folder, or mend its permissions.",
        ) from error
    except (ValueError, RuntimeError, AssertionError) as error:  # the local mode's
        raise DeliveryError(f"{where}: {one_line(error).rstrip('.')}.") from error
    except Exception as error:  # gRPC's, which is only there where gRPC is
        failure = _of_grpc(where, error)
        if failure is None:
            raise
        raise failure from error


def one_line(error: object) -> str:
    """Return what an error says, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _answered(where: str, error: UnexpectedResponse) -> DeliveryError:
    status = error.status_code
    said = f"{where} answered: {status} {_reason(error)}."
    if status == 413:
        return TooLarge(said)
    if status in _REFUSED:
        return DeliveryError(said, cure=_KEY_CURE)
    if status in _MAY_PASS:
        return Unsteady(said)
    return DeliveryError(said)


def _reason(error: UnexpectedResponse) -> str:
    """Return what Qdrant says under `status.error`, else the start of the answer."""
    try:
        return one_line(json.loads(error.content)["status"]["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):  # not Qdrant's own answer
        content = one_line(error.content.decode("utf-8", "replace"))
        return one_line(f"{error.reason_phrase} {content}").rstrip(". ")


def _unanswered(where: str, source: Exception) -> DeliveryError:
    import httpx

    if isinstance(source, httpx.TransportError):
        why = one_line(source).rstrip(".") or type(source).__name__
        nobody = isinstance(source, httpx.ConnectError | httpx.ConnectTimeout)
        said = f"{where} cannot be reached: {why}."
        return Unsteady(said, cure=_ADDRESS_CURE, nobody=nobody)
    return DeliveryError(
        f"{where} does not answer as Qdrant does: {one_line(source)}.",
        cure="Check the address, the port included.",
    )


def _of_grpc(where: str, error: Exception) -> DeliveryError | None:
    """Return the failure that an error of gRPC means; None: it is none of gRPC's."""
    import grpc

    if not isinstance(error, grpc.RpcError) or not isinstance(error, grpc.Call):
        return None
    code, said = error.code(), one_line(error.details() or "")
    text = f"{where} answered: {code.name} {said.rstrip('.')}."
    codes = grpc.StatusCode
    if code is codes.RESOURCE_EXHAUSTED and "larger than max" in said:
        return TooLarge(text)
    if code is codes.OUT_OF_RANGE and "too large" in said:
        return TooLarge(text)
    if code in {codes.UNAUTHENTICATED, codes.PERMISSION_DENIED}:
        return DeliveryError(text, cure=_KEY_CURE)
    if code in _passing(codes):
        nobody = code is codes.UNAVAILABLE
        return Unsteady(text, cure=_ADDRESS_CURE, nobody=nobody)
    return DeliveryError(text)


def _passing(codes: type[grpc.StatusCode]) -> set[grpc.StatusCode]:
    return {
        codes.UNAVAILABLE,
        codes.DEADLINE_EXCEEDED,
        codes.RESOURCE_EXHAUSTED,
        codes.ABORTED,
        codes.CANCELLED,
        codes.INTERNAL,
        codes.UNKNOWN,
    }
