"""What goes over the wire, one model each."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from ..retrieval.quality import QualityCard
from ..search import Stage

MAX_QUERY_CHARACTERS = 2_000
MAX_TOP_K = 100
NOT_BLANK = r"[^\s\x1c-\x1f]"
"""Also of what Python takes for space, the separators of ASCII."""
MAX_FILTERS = 8
MAX_NAME_CHARACTERS = 512


def _number(found: object) -> object:
    """Let what JSON Schema calls an integer through, 5.0 too, and no other type."""
    if isinstance(found, bool | str):
        raise ValueError("It is no whole number")
    return found


WholeNumber = Annotated[int, BeforeValidator(_number)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
FilterValue = bool | int | float | Annotated[str, Field(max_length=2_000)]


class Message(BaseModel):
    """A request or an answer; a request with unknown fields is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SearchRequest(Message):
    """A question and how to answer it."""

    query: Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS, pattern=NOT_BLANK)]
    collection: Name | None = Field(
        None, description="Needed where several collections are served."
    )
    top_k: WholeNumber = Field(10, ge=1, le=MAX_TOP_K, description="How many chunks.")
    sparse: StrictBool = Field(
        True, description="Fuse the dense ranking with the sparse one."
    )
    rerank: StrictBool = Field(
        False, description="Let the reranker sort the first candidates (slower)."
    )
    filters: dict[Name, FilterValue] = Field(
        default_factory=dict,
        max_length=MAX_FILTERS,
        description="Equalities on metadata, e.g. source_subdir; all must hold.",
    )
    compare: StrictBool = Field(
        False, description="Return every stage's ranking beside the hits."
    )
    highlight: StrictBool = Field(
        False, description="Say where the words of the query stand in each text."
    )


class Place(Message):
    """Where a stage put a chunk."""

    rank: int = Field(ge=1)
    score: float


class SearchHit(Message):
    """A chunk that was found. `stages` holds those whose ranking lists it."""

    rank: int = Field(ge=1)
    score: float
    chunk_id: str
    text: str | None = Field(None, description="null in a bundle that holds no texts.")
    metadata: dict[str, Any] = Field(default_factory=dict)
    stages: dict[Stage, Place] = Field(default_factory=dict)
    highlights: list[tuple[int, int]] = Field(
        default_factory=list,
        description="Spans of characters (Unicode code points), end excluded.",
    )


class SearchResponse(Message):
    """The hits of the last stage that was asked for."""

    collection: str
    stage: Stage = Field(description="The stage whose ranking `hits` is.")
    hits: list[SearchHit]
    rankings: dict[Stage, list[SearchHit]] = Field(
        default_factory=dict, description="Every stage's ranking, with `compare`."
    )
    missing: dict[Stage, str] = Field(
        default_factory=dict, description="Stages that have no ranking, and why."
    )
    milliseconds: dict[str, float] = Field(
        description="What each stage took, and `total`."
    )


class ChunkResponse(Message):
    """One chunk, and its neighbours in the same source file."""

    collection: str
    chunk_id: str
    row: int = Field(ge=0)
    text: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    number: int = Field(ge=1, description="Its place among its file's chunks.")
    of: int = Field(ge=1, description="How many chunks its file has.")
    before: str | None = Field(None, description="The chunk before it, if any.")
    after: str | None = Field(None, description="The chunk after it, if any.")


class CollectionInfo(Message):
    """What a collection offers."""

    name: str
    chunks: int = Field(ge=0)
    source_subdirs: dict[str, int] = Field(description="Chunks by first-level folder.")
    stages: dict[Stage, str] = Field(
        description="What each stage that can run runs with."
    )
    missing: dict[Stage, str] = Field(description="Stages that cannot run, and why.")
    generated_at: str
    quality: QualityCard | None = Field(
        None, description="How well known answers were found when it was built."
    )


class CollectionsResponse(Message):
    """All collections that are served."""

    collections: list[CollectionInfo]


class Health(Message):
    """The service answers."""

    status: str = "ok"
    collections: int = Field(ge=0)


class Problem(Message):
    """What went wrong, in one line, and what to do about it."""

    error: str
    cure: str | None = None
