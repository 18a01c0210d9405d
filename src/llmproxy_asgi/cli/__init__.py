"""The command: reads arguments, calls the library, prints. What is heavy is imported by the command that needs it."""
