"""The search as a page in the browser.

python -m psdiff_jax.app --folder photos                                 index a folder, and search it meanwhile
python -m psdiff_jax.app --index runs/photos/index --run runs/mine       search an index that stands
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path
from typing import Any

from psdiff_jax.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m psdiff_jax.app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="folder of the index (default: in the user's cache)")
    parser.add_argument("--run", metavar="DIR", help="--workdir of a run, or an .npz (default: the shipped weights)")
    parser.add_argument(
        "--reid-weights", metavar="FILE", help="re-ID network that embeds crops of the people found (docs/search.md)"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="images and videos to index, or to look for changes")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but this machine asks for a token"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument(
        "--public-url", default="", metavar="URL", help="https://NAME under which a proxy serves the page"
    )
    try:
        serve(**vars(parser.parse_args()))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass


def serve(host: str, port: int, public_url: str, **sources: Any) -> None:
    """Answers until it is interrupted. public_url: see `security.Gate`. sources: see `desk.open_desk`."""
    with _listen(host, port) as listener:
        try:
            import uvicorn

            from psdiff_jax.app.server import create_app
        except ImportError as error:
            raise InputError(f"the page needs {error.name}: pip install 'psdiff-jax[app]'") from error
        from psdiff_jax.app.desk import open_desk
        from psdiff_jax.app.security import Gate

        gate = Gate(host, listener.getsockname()[1], public_url)
        app = create_app(open_desk(gate, **sources))
        print(f"Person search: {gate.address}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, lifespan="off")).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    """Before the model is loaded, which takes seconds."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot listen there ({reason}); give another") from error


if __name__ == "__main__":
    main()
