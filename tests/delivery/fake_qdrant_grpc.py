"""Qdrant's gRPC interface in this process, answered by qdrant-client's local mode.

The client's own conversions turn messages into the models that the local mode takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc as rpc
from qdrant_client import QdrantClient, grpc
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import (
    collections_service_pb2_grpc,
    points_service_pb2_grpc,
    qdrant_pb2_grpc,
)

Fault = rpc.StatusCode | None


@dataclass
class FakeGrpc:
    """State of the server; `choose` says how a call is refused."""

    choose: Callable[[str], Fault] = lambda _call: None
    key: str | None = None
    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    asked: list[str] = field(default_factory=list)

    def enter(self, name: str, context: rpc.ServicerContext) -> QdrantClient:
        """Note a call, and refuse it where that is due."""
        self.asked.append(name)
        sent = dict(context.invocation_metadata())
        if self.key is not None and sent.get("api-key") != self.key:
            context.abort(rpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")
        fault = self.choose(name)
        if fault is not None:
            context.abort(fault, "no luck")
        return self.client


class _Root(qdrant_pb2_grpc.QdrantServicer):
    def __init__(self, fake: FakeGrpc) -> None:
        self.fake = fake

    def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.fake.enter("HealthCheck", context)
        return grpc.HealthCheckReply(title="qdrant", version="1.20.0")


class _Collections(collections_service_pb2_grpc.CollectionsServicer):
    def __init__(self, fake: FakeGrpc) -> None:
        self.fake = fake

    def CollectionExists(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("CollectionExists", context)
        found = client.collection_exists(request.collection_name)
        return grpc.CollectionExistsResponse(result=grpc.CollectionExists(exists=found))

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Get", context)
        info = client.get_collection(request.collection_name)
        return grpc.GetCollectionInfoResponse(
            result=RestToGrpc.convert_collection_info(info)
        )

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Create", context)
        client.create_collection(
            request.collection_name,
            vectors_config=GrpcToRest.convert_vectors_config(request.vectors_config),
            sparse_vectors_config=GrpcToRest.convert_sparse_vector_config(
                request.sparse_vectors_config
            ),
        )
        assert request.hnsw_config.m == 48
        assert request.quantization_config.scalar.always_ram
        return grpc.CollectionOperationResponse(result=True)


class _Points(points_service_pb2_grpc.PointsServicer):
    def __init__(self, fake: FakeGrpc) -> None:
        self.fake = fake

    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Upsert", context)
        points = [GrpcToRest.convert_point_struct(point) for point in request.points]
        client.upsert(request.collection_name, points)
        return _done(request)

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.fake.enter(f"CreateFieldIndex {request.field_name}", context)
        return _done(request)

    def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Count", context)
        found = client.count(request.collection_name).count
        return grpc.CountResponse(result=grpc.CountResult(count=found))

    def Scroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Scroll", context)
        records, offset = client.scroll(
            request.collection_name, limit=request.limit, with_payload=False
        )
        assert offset is None
        for record in records:
            record.payload = {}  # the conversion takes none for an error
        return grpc.ScrollResponse(
            result=[RestToGrpc.convert_record(record) for record in records]
        )

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("Get points", context)
        records = client.retrieve(
            request.collection_name,
            [GrpcToRest.convert_point_id(one) for one in request.ids],
            with_payload=True,
            with_vectors=True,
        )
        return grpc.GetResponse(
            result=[RestToGrpc.convert_record(record) for record in records]
        )

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        client = self.fake.enter("QueryBatch", context)
        asked = [GrpcToRest.convert_query_points(q) for q in request.query_points]
        answers = client.query_batch_points(request.collection_name, asked)
        return grpc.QueryBatchResponse(
            result=[
                grpc.BatchResult(
                    result=[RestToGrpc.convert_scored_point(p) for p in one.points]
                )
                for one in answers
            ]
        )


def _done(request: Any) -> Any:
    assert request.wait
    result = grpc.UpdateResult(operation_id=0, status=grpc.UpdateStatus.Completed)
    return grpc.PointsOperationResponse(result=result)


@contextmanager
def serving(fake: FakeGrpc) -> Iterator[int]:
    """Serve on a free port; gives its number."""
    server = rpc.server(ThreadPoolExecutor(1))
    qdrant_pb2_grpc.add_QdrantServicer_to_server(_Root(fake), server)
    collections_service_pb2_grpc.add_CollectionsServicer_to_server(
        _Collections(fake), server
    )
    points_service_pb2_grpc.add_PointsServicer_to_server(_Points(fake), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
        fake.client.close()
