"""The configuration: its schema, and how it is read from files and the environment."""
