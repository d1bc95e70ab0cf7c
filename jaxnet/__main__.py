"""``python -m jaxnet``: the command line, which ``jaxnet.cli`` holds."""

import sys


def main() -> None:
    """Runs the command line; where the extra ``cli`` isn't installed, says so in a line and exits with 2."""
    try:
        from jaxnet.cli import app
    except ImportError as error:
        print(f"The command line: {error}", file=sys.stderr)
        sys.exit(2)
    app(prog_name="python -m jaxnet")


if __name__ == "__main__":
    main()
