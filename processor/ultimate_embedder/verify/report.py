"""What a verification found: where, and what is wrong there."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..export.manifest import without_surrogates

FINDINGS_PER_FILE = 20

_THIS_PROCESS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors that are no fault of the bundle."""


def blame_no_bundle(error: BaseException) -> None:
    """Raise the error that another came from, where it is no fault of the bundle.

    Raises:
        OSError: this process has no memory or no file descriptor left.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _THIS_PROCESS:
            raise cause
        cause = cause.__cause__


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: the file (relative to the bundle), the place in it, the problem."""

    file: str
    place: str  # "line 3, byte 120", "row 7", "whole file"
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.problem}"


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result for one bundle. `checks` were made; `notes` say what was not.

    `skipped` is what needs a file that was found broken; `unchecked` says why nothing
    could be checked.
    """

    bundle: str
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    further_findings: int = 0  # beyond the first of each file
    skipped: tuple[str, ...] = ()
    unchecked: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything was looked at and nothing is wrong."""
        return not self.findings and not self.unchecked

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data: file names may be no valid Unicode."""
        document: dict[str, Any] = without_surrogates(asdict(self))
        return {"whole": self.whole, **document}


@dataclass(slots=True)
class Findings:
    """Collects faults; of each file the first `FINDINGS_PER_FILE` are kept."""

    kept: list[Finding] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unchecked: str = ""
    _broken: set[str] = field(default_factory=set)
    _counts: Counter[str] = field(default_factory=Counter)

    def add(self, file: str, place: str, problem: str) -> None:
        """Keep a fault, or count it."""
        self._counts[file] += 1
        if self._counts[file] <= FINDINGS_PER_FILE:
            self.kept.append(Finding(file, place, problem))

    def break_file(self, file: str, place: str, problem: str) -> None:
        """Keep a fault of a file that nothing else may be judged by from now on."""
        self.add(file, place, problem)
        self._broken.add(file)

    def is_broken(self, file: str) -> bool:
        """Whether nothing may be judged by a file; a fault of it was kept then."""
        return file in self._broken

    def skip(self, what: str, *needed: str) -> bool:
        """Return whether a check needs a broken file, and say that it is left out."""
        broken = [file for file in needed if file in self._broken]
        if broken:
            self.skipped.append(f"{what} (needs {', '.join(broken)})")
        return bool(broken)

    def report(self, bundle: str) -> VerificationReport:
        """Return what was found."""
        return VerificationReport(
            bundle=bundle,
            findings=tuple(self.kept),
            checks=tuple(self.checks),
            notes=tuple(self.notes),
            further_findings=self._counts.total() - len(self.kept),
            skipped=tuple(self.skipped),
            unchecked=self.unchecked,
        )
