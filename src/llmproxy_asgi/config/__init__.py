"""What an operator writes: the schema, and how it is read from files and the environment."""
