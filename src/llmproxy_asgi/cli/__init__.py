"""The `llmproxy` command: read arguments, call the library, print. Each command imports what it needs when it runs."""
