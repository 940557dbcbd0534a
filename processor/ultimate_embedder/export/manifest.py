"""The manifest of a bundle (`processing_summary.json`): schema v4.1, v4.0 readable.

A folder without a manifest is not a bundle: it is written last.

Its own sum, `manifest_sha256`, is taken over the bytes of the file with the value
blank: in the file, at the first `"manifest_sha256": "<64 hex digits>"`, leave out the
64 digits, keep all else, and take the SHA-256 of what remains.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError

from ..errors import BundleError, NewerBundle
from ..records import SparseInferenceRun
from .checksums import HashedFile
from .folders import looks_like_bundle, no_bundle
from .layout import MANIFEST
from .manifest_sections import (
    Artifact,
    BaselineComparison,
    Compatibility,
    ConservationCounts,
    DenseRun,
    Environment,
    ExportSettings,
    FeatureToggles,
    FusionRun,
    RerankSection,
    Section,
    StagePerformance,
    SubdirCounts,
    TelemetrySection,
)
from .strict_json import non_finite_place

SCHEMA_VERSION = "v4.1"
SCHEMA_MAJOR = 4

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?")
_OWN_SUM = re.compile(rb'("manifest_sha256"\s*:\s*")([0-9a-f]{64})(")')
_BLANK = b'"manifest_sha256": ""'
_CURE = "Restore a copy of the bundle or build it anew."


class Manifest(Section):
    """Everything a bundle says about itself. Immutable; `model_copy` makes another."""

    schema_version: str = SCHEMA_VERSION
    manifest_sha256: str = ""
    compatibility: Compatibility = Compatibility()
    generated_at: str = ""
    collection: str
    chunk_count: int = Field(ge=0)
    run_id: str = ""
    run_fingerprint: str | None = None  # of all that the bundle follows from
    run_facts: dict[str, str] | None = None  # the same by name, each hashed
    feature_toggles: FeatureToggles | None = None
    dense_run: tuple[DenseRun, ...] | None = None
    sparse_run: tuple[SparseInferenceRun, ...] | None = None
    fusion_run: FusionRun | None = None
    rerank_run: RerankSection | None = None
    source_subdirs: dict[str, SubdirCounts] = Field(default_factory=dict)
    conservation: ConservationCounts | None = None
    telemetry: TelemetrySection = TelemetrySection()
    performance_baseline: dict[str, StagePerformance] = Field(default_factory=dict)
    baseline: BaselineComparison | None = None
    environment: Environment = Environment()
    export: ExportSettings | None = None
    artifacts: tuple[Artifact, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, bundle: Path) -> Manifest:
        """Return the manifest of the bundle in a folder.

        Raises:
            BundleError: there is none, it is damaged, or its schema is of another
                major version.
        """
        content = read_manifest_bytes(bundle)
        manifest = cls.parse(content)
        states_sums = manifest.manifest_sha256 or manifest.artifacts
        if states_sums and not own_sum_holds(content):
            raise BundleError(
                f"{MANIFEST} was changed after it was written: its own sum differs.",
                cure=_CURE,
            )
        return manifest

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """Return the manifest in the bytes of a file; its own sum is not looked at.

        Raises:
            BundleError: it is damaged, or its schema is of another major version.
        """
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise BundleError(f"{MANIFEST} is no JSON: {error}.", cure=_CURE) from error
        _check_version(document)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"{MANIFEST} does not fit its schema: {place}: {first['msg']}.",
                cure=_CURE,
            ) from error

    def write(self, bundle: Path) -> Manifest:
        """Write the file into a folder; return the manifest with its own sum.

        Raises:
            BundleError: a free-form section holds what cannot be JSON.
            OSError: the file cannot be written.
        """
        content = self._dump()
        digest = hashlib.sha256(content).hexdigest()
        filled = _BLANK[:-1] + digest.encode() + b'"'
        with HashedFile(bundle / MANIFEST) as file:
            file.write(content.replace(_BLANK, filled, 1))
        return self.model_copy(update={"manifest_sha256": digest})

    def _dump(self) -> bytes:
        document = without_surrogates(self.model_dump() | {"manifest_sha256": ""})
        if place := non_finite_place(document):
            raise BundleError(f"The manifest cannot be written: {place} is not finite.")
        try:
            return orjson.dumps(
                document,
                option=orjson.OPT_INDENT_2
                | orjson.OPT_APPEND_NEWLINE
                | orjson.OPT_SERIALIZE_NUMPY,
            )
        except TypeError as error:
            raise BundleError(f"The manifest cannot be written: {error}.") from error


def read_manifest_bytes(bundle: Path) -> bytes:
    """Return the bytes of a folder's manifest.

    Raises:
        NotABundle: the folder is none, or holds nothing of a bundle.
        BundleError: the manifest is missing among its files, or cannot be read.
    """
    try:
        return (bundle / MANIFEST).read_bytes()
    except OSError as error:
        if not looks_like_bundle(bundle):
            raise no_bundle(bundle) from error
        raise BundleError(
            f"{bundle} is not a whole bundle: {MANIFEST} cannot be read "
            f"({error.strerror}).",
            cure="Mend its permissions."
            if isinstance(error, PermissionError)
            else _CURE,
        ) from error


def own_sum_holds(content: bytes) -> bool:
    """Whether a manifest's bytes agree with the sum that stands in them."""
    match = _OWN_SUM.search(content)
    if match is None:
        return False
    blank = content[: match.start(2)] + content[match.end(2) :]
    return hashlib.sha256(blank).hexdigest().encode() == match[2]


def without_surrogates(value: Any) -> Any:
    """Return nested data with each lone surrogate as `\\udXXX`, tuples as lists."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {
            without_surrogates(key): without_surrogates(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in value]
    return value


def _check_version(document: Any) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    match = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if match is None:
        raise BundleError(
            f"{MANIFEST} states no schema version of the form v4.1.", cure=_CURE
        )
    if int(match[1]) > SCHEMA_MAJOR:
        raise NewerBundle(
            f"{MANIFEST} has schema {version}; this program reads v{SCHEMA_MAJOR}.",
            cure="Update this program.",
        )
    if int(match[1]) < SCHEMA_MAJOR:
        raise BundleError(
            f"{MANIFEST} has schema {version}, older than v4.0.",
            cure="Build the bundle anew.",
        )
