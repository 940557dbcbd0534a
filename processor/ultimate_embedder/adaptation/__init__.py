"""Training of the residual reranker: on mined pools, or on a bundle's own probes."""
