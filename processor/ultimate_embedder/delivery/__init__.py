"""From a bundle into a vector store: Qdrant by address, by folder, or embedded."""
