"""Embeddings: texts in, vectors out. One vocabulary (`records`) and a module for each vendor's wire format."""
