"""The errors a caller can meet, sorted by what the caller would do next.

    EmbedderError
    ├── UsageError              change the command or the settings       (exit 2)
    │   ├── UnknownModel            ask for one of the names listed
    │   ├── UnknownFilter           filter by one of the names listed
    │   └── MissingExtra            install the named extra
    ├── InputError              mend or remove the input named           (exit 1)
    ├── ModelError              fetch, replace or reconfigure a model    (exit 1)
    │   ├── ModelNotAvailable       weights cannot be had here
    │   └── ModelMismatch           the weights are not what the registry says
    ├── BundleError             rebuild the bundle or restore a copy     (exit 1)
    │   ├── NotABundle              name the folder of a bundle          (exit 2)
    │   └── NewerBundle             update this program
    ├── DeliveryError           look at the target store                 (exit 1)
    └── RunStopped              run the same command again               (exit 3)
        ├── DeviceError             the device is busy or too small
        │   ├── DeviceBusy
        │   ├── DeviceOutOfMemory
        │   └── MemoryCapExceeded
        ├── FolderBusy              another run works in the output folder
        ├── OutOfMemory             the process may have no more memory
        └── OutputError             disk full, folder not writable meanwhile

Each message is one line; `cure`, when given, is a second sentence that says what to do.
"""

from __future__ import annotations

from tokenize import TokenError
from typing import ClassVar

UNREADABLE_ARRAY = (OSError, ValueError, EOFError, SyntaxError, TokenError)
"""What numpy raises over a file that is no array: it reads the header as Python."""


class EmbedderError(Exception):
    """An expected failure: shown as one line, a traceback only under --debug."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message} {self.cure}" if self.cure else self.message


class UsageError(EmbedderError):
    """The command or a setting is wrong; nothing was started."""

    exit_code: ClassVar[int] = 2


class UnknownModel(UsageError):
    """A model key that is in no registry."""


class UnknownFilter(UsageError):
    """A metadata key, or a folder, that no chunk of the collection has."""


class MissingExtra(UsageError):
    """An optional library was asked for and is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the optional dependencies '{extra}'.",
            cure=f"Install them, in the checkout: pip install '.[{extra}]'",
        )


class InputError(EmbedderError):
    """Input that cannot be used at all; damaged parts of it are quarantined instead."""


class ModelError(EmbedderError):
    """A model cannot be used as it is."""


class ModelNotAvailable(ModelError):
    """The weights are neither on this machine nor allowed or able to be fetched."""


class ModelMismatch(ModelError):
    """What was loaded differs from what the registry states."""


class BundleError(EmbedderError):
    """A bundle is missing, incomplete, damaged or of an unknown schema."""


class NotABundle(BundleError):
    """The folder named is none, or holds nothing of a bundle."""

    exit_code: ClassVar[int] = 2


class NewerBundle(BundleError):
    """A later version of this program made the bundle."""


class DeliveryError(EmbedderError):
    """A target store refused a bundle or does not fit it."""


class RunStopped(EmbedderError):
    """The run ended early and lost nothing: the same command resumes it."""

    exit_code: ClassVar[int] = 3


class DeviceError(RunStopped):
    """The device cannot be used now, or not for this work."""


class DeviceBusy(DeviceError):
    """Another holder has the device."""


class DeviceOutOfMemory(DeviceError):
    """An allocation on the device failed, down to the smallest batch.

    `row` says which text did not fit alone, where there is one to name.
    """

    def __init__(
        self, message: str, *, cure: str | None = None, row: int | None = None
    ) -> None:
        super().__init__(message, cure=cure)
        self.row = row


class MemoryCapExceeded(DeviceError):
    """The measured peak went over the cap."""


class FolderBusy(RunStopped):
    """Another run works in the output folder: this one has done nothing yet."""


class OutOfMemory(RunStopped):
    """The system gives this process no more memory."""

    def __init__(self) -> None:
        super().__init__(
            "Memory ran out; what is finished is kept.",
            cure="Give the process more, or use fewer workers or smaller chunk files; "
            "then run the same command.",
        )


class OutputError(RunStopped):
    """Writing failed: disk full or permissions changed."""
