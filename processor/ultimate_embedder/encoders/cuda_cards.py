"""Which CUDA cards this torch can compute on, and why not on the others."""

from __future__ import annotations

import re

import torch

_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)[a-z]?\Z")

Capability = tuple[int, int]


def is_built_for_cuda() -> bool:
    """Say whether this torch knows CUDA, or AMD's likeness of it, at all."""
    return torch.version.cuda is not None or torch.version.hip is not None


def usable() -> tuple[int, ...]:
    """Return the numbers of the cards that torch has kernels for."""
    return tuple(number for number in range(_count()) if _reason(number) is None)


def unusable() -> tuple[str, ...]:
    """Return a sentence for each card that cannot be used."""
    shown = torch.cuda.device_count()
    if shown and not _count():
        return (
            f"The driver shows {shown} GPU(s), but CUDA {torch.version.cuda} cannot "
            "start: the driver may be too old for this torch.",
        )
    reasons = map(_reason, range(_count()))
    return tuple(reason for reason in reasons if reason is not None)


def covers(architectures: list[str], capability: Capability) -> bool:
    """Say whether a build for these architectures runs on a card.

    Machine code (`sm_80`) runs on cards of the same major version and no lower minor
    one, PTX (`compute_80`) on all that are not older. A build that names none is not
    judged.
    """
    known = [match for one in architectures if (match := _ARCHITECTURE.match(one))]
    for match in known:
        kind, major, minor = match[1], int(match[2]), int(match[3])
        if kind == "compute" and capability >= (major, minor):
            return True
        if kind == "sm" and capability[0] == major and capability[1] >= minor:
            return True
    return not known


def _count() -> int:
    """Return how many cards there are, none where CUDA cannot start.

    The driver may count cards all the same.
    """
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _reason(number: int) -> str | None:
    found = torch.cuda.get_device_capability(number)
    built = torch.cuda.get_arch_list()
    if covers(built, found):
        return None
    name = torch.cuda.get_device_name(number)
    return (
        f"cuda:{number} ({name}, compute capability {found[0]}.{found[1]}) has no "
        f"kernels in torch {torch.__version__}, built for {', '.join(built)}."
    )
