"""Made-up conversations: hypothesis strategies for requests, answers and streams that are legal in the vocabulary."""
