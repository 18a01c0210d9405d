"""The shared parts of OpenAI's protocols Chat Completions and Responses."""
