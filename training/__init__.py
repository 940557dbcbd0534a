"""The recipe of the shipped reranker: training pairs mined from packages."""
