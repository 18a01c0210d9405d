"""Routing: from the model name of a request to the targets that can serve it."""
