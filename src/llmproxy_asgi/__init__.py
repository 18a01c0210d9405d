"""An LLM gateway that mounts inside a Python web app and shares its login."""
