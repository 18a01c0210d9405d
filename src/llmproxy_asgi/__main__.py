"""The command's door: `llmproxy` and `python -m llmproxy_asgi`. Says what to install where the command cannot run."""

import sys
from importlib.util import find_spec

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command; ends the process."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The command needs {' and '.join(missing)}, which the library alone does not bring. Install it with:\n"
            '  pip install "llmproxy-asgi[server]"'
        )
    from llmproxy_asgi.cli.program import program

    program(prog_name="llmproxy")


if __name__ == "__main__":
    main()
