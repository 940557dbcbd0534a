"""Texts to token ids, over the Rust `tokenizers` library."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ..errors import ModelMismatch, ModelNotAvailable
from .protocols import Role, Tokenised


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
        self._cutting = _plain(content)
        self._cutting.enable_truncation(max_tokens)
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
        """Tokenise texts with the prompt of `role`, cut to the window."""
        prompted = [self._prefixes[role] + text for text in texts]
        encodings = self.backend.encode_batch_fast(prompted)
        ids = []
        for text, encoding in zip(prompted, encodings, strict=True):
            if len(encoding) > self.max_tokens:
                ids.append(self._cutting.encode(text).ids)
            else:
                ids.append(encoding.ids)
        return Tokenised(
            ids=tuple(np.asarray(row, dtype=np.uint32) for row in ids),
            full_lengths=tuple(len(encoding) for encoding in encodings),
        )


def _plain(content: bytes) -> Tokenizer:
    tokenizer: Tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
