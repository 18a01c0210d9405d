"""Protocols: each is read into, and written from, one vocabulary (`conversation.py`)."""
