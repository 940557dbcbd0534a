"""Texts to token ids, over the Rust `tokenizers` library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ..errors import ModelMismatch, ModelNotAvailable
from .protocols import Frame, Role, Tokenised

_ANY_TEXT = "a"


class HubTokenizer:
    """The tokenizer of one model, with its window and its prompts.

    `backend` neither truncates nor pads: the splitter reads offsets from it. It must
    not be changed.
    """

    def __init__(
        self,
        path: Path,
        max_tokens: int,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        """Read `tokenizer.json` from the folder `path`.

        Raises:
            ModelNotAvailable: the folder has no tokenizer.json.
            ModelMismatch: the window has no room for text.
        """
        source = path / "tokenizer.json"
        if not source.is_file():
            raise ModelNotAvailable(
                f"{path.name} has no tokenizer.json.",
                cure="Save the model once with a fast tokenizer.",
            )
        content = source.read_bytes()
        self.max_tokens = max_tokens
        self._prefixes: dict[Role, str] = {
            "query": query_prefix,
            "document": document_prefix,
        }
        self.backend = _plain(content)
        self.special_tokens = self.backend.num_special_tokens_to_add(is_pair=False)
        if max_tokens <= self.special_tokens:
            raise ModelMismatch(
                f"A window of {max_tokens} tokens has no room for text beside "
                f"{self.special_tokens} special tokens."
            )
        self.fingerprint = hashlib.sha256(
            b"\0".join(
                (
                    hashlib.sha256(content).digest(),
                    str(max_tokens).encode(),
                    query_prefix.encode(),
                    document_prefix.encode(),
                )
            )
        ).hexdigest()

    def encode(self, texts: Sequence[str], role: Role) -> Tokenised:
        """Tokenise texts with the prompt of `role`, however long they are.

        Raises:
            ModelMismatch: the window has no room for text beside that prompt.
        """
        frame = self.frame(role)
        prompted = [self._prefixes[role] + text for text in texts]
        encodings = self.backend.encode_batch_fast(prompted)
        return Tokenised(
            ids=tuple(np.asarray(row.ids, dtype=np.uint32) for row in encodings),
            frame=frame,
        )

    def frame(self, role: Role) -> Frame:
        """Return how many special and prompt tokens stand around a text.

        A prompt's last token may join with a text's first; it counts as text then.

        Raises:
            ModelMismatch: the window has no room for text beside them.
        """
        prompt = self.backend.encode(self._prefixes[role])
        text = self.backend.encode(self._prefixes[role] + _ANY_TEXT)
        head = _run(text.special_tokens_mask)
        tail = _run(text.special_tokens_mask[::-1])
        own = prompt.ids[head : len(prompt.ids) - tail]
        pairs = zip(own, text.ids[head:], strict=False)
        head += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if head + tail >= self.max_tokens:
            raise ModelMismatch(
                f"A window of {self.max_tokens} tokens has no room for text beside "
                f"{head + tail} special and prompt tokens.",
                cure=f"Shorten the {role} prompt, or use a model with a larger window.",
            )
        return Frame(head, tail)


def _run(mask: Sequence[int]) -> int:
    """Return how many special tokens stand at the beginning."""
    return sum(1 for _ in takewhile(bool, mask))


def _plain(content: bytes) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
