"""Splitting speed on one core: ours, semantic-text-splitter and chonkie.

Markdown and Python, the same texts, limit and tokenizer for all, turns in alternation.
Ours includes finding the structure and the checks of the limit.

    python -m benchmarks.chunker_speed [--turns N] [--megabytes N] [--data FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Callable

import tree_sitter_python
from chonkie import RecursiveChunker
from semantic_text_splitter import CodeSplitter, MarkdownSplitter

from benchmarks import corpus, harness
from benchmarks.harness import Aim, Table
from processor.ultimate_embedder.chunking import code, markdown
from processor.ultimate_embedder.chunking.splitter import split
from processor.ultimate_embedder.chunking.tokens import TokenCounter

WANTED: dict[corpus.Kind, float] = {"Markdown": 3.0, "Python": 5.0}
Split = Callable[[str], int]


def contenders() -> dict[corpus.Kind, dict[str, Split]]:
    """Return for each kind of text the splitters, as counts of chunks."""
    tokenizer = corpus.minilm_tokenizer().backend
    counter = TokenCounter(tokenizer, corpus.LIMIT_TOKENS)
    budget = counter.budget
    prose = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, budget)
    python = CodeSplitter.from_huggingface_tokenizer(
        tree_sitter_python.language(), tokenizer, budget
    )
    chonkie = RecursiveChunker(tokenizer=tokenizer, chunk_size=budget)
    return {
        "Markdown": {
            "ours": lambda text: len(split(text, markdown.find(text), counter)),
            "semantic-text-splitter": lambda text: len(prose.chunks(text)),
            "chonkie, recursive": lambda text: len(chonkie.chunk(text)),
        },
        "Python": {
            "ours": lambda text: len(split(text, code.find(text, "python"), counter)),
            "semantic-text-splitter": lambda text: len(python.chunks(text)),
            "chonkie, recursive": lambda text: len(chonkie.chunk(text)),
        },
    }


def measure(
    kind: corpus.Kind, texts: list[str], splits: dict[str, Split], turns: int
) -> Table:
    """Return the medians for one kind of text."""
    pieces: dict[str, int] = {}

    def run(name: str) -> Callable[[], None]:
        def all_texts() -> None:
            pieces[name] = sum(map(splits[name], texts))

        return all_texts

    megabytes = sum(map(len, texts)) / 1e6
    seconds = harness.take_turns({name: run(name) for name in splits}, turns)
    made = ", ".join(f"{name} {count:,}" for name, count in pieces.items())
    return Table(
        f"chunking-{kind.lower()}",
        f"Splitting {kind}, one core",
        "MB",
        harness.rows_of(seconds, megabytes, "semantic-text-splitter"),
        reference="semantic-text-splitter",
        aims=(Aim("ours", "semantic-text-splitter", at_least=WANTED[kind]),),
        remark=f"{megabytes:.2f} MB, limit {corpus.LIMIT_TOKENS} tokens of MiniLM. "
        f"Chunks: {made}.",
    )


def main() -> int:
    parser = harness.parser(__doc__ or "", turns=3)
    parser.add_argument("--megabytes", type=float, default=0.4)
    asked = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for all
    tables = []
    for kind, splits in contenders().items():
        whole = corpus.documents(asked.data, kind)
        texts = corpus.up_to(whole, int(asked.megabytes * 1e6))
        if texts:
            tables.append(measure(kind, texts, splits, asked.turns))
    return harness.report(tables, asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
