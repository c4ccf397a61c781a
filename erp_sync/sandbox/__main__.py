"""`python -m erp_sync.sandbox`: the ERP alone. Prints one line of JSON, with its address, when it is ready."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from pydantic import ValidationError

from erp_sync.sandbox.config import SandboxConfig, Switches
from erp_sync.sandbox.server import Address, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m erp_sync.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--database", type=Path, help="keep memory and journal in this file")
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument(
        "--config", help="JSON of a SandboxConfig; - reads it from the first line of stdin, and ends with stdin"
    )
    options = parser.parse_args()
    try:
        config = _config(options)
    except (OSError, ValidationError) as error:
        parser.error(str(error).replace("\n", " "))

    def ready(address: Address) -> None:
        line = {"root_url": address.root_url, "admin_url": address.admin_url, "pid": os.getpid(), "user": config.user}
        if "password" not in config.model_fields_set:
            line["password"] = config.password.get_secret_value()
        print(json.dumps({**line, "tenant": config.tenant}), flush=True)  # noqa: T201 - the command's own result

    try:
        run(config, options.host, options.port, ready, ends_with_stdin=options.config == "-")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _config(options: argparse.Namespace) -> SandboxConfig:
    if options.config is None:
        return SandboxConfig(database=options.database, switches=Switches(latency_ms=options.latency_ms))
    # Unbuffered: the rest of stdin belongs to whoever waits for its end.
    text = _first_line() if options.config == "-" else Path(options.config).read_text(encoding="utf-8")
    return SandboxConfig.model_validate_json(text)


def _first_line() -> str:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line.decode()


if __name__ == "__main__":
    main()
