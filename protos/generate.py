"""Generate `featurestore/wire/*_pb2*` from the protos beside this file: `make protos`.

protoc derives Python import paths from the protos' folders (`featurestore.v1`); ours live in the
room `featurestore.wire`, so the imports are rewritten after generation.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
WIRE = PROTOS.parent / "featurestore" / "wire"
SERVICES = {"serving"}


def main() -> None:
    """Run protoc with the plug-ins of this interpreter's environment."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        for proto in sorted(PROTOS.glob("featurestore/v1/*.proto")):
            outputs = ["--python_out", "--mypy_out"]
            outputs += ["--grpc_python_out", "--mypy_grpc_out"] if proto.stem in SERVICES else []
            subprocess.run(
                [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
                + [f"{flag}={folder}" for flag in outputs]
                + [str(proto)],
                check=True,
                env=env,
            )
        for generated in sorted(Path(folder).rglob("*.py*")):
            text = generated.read_text()
            for old, new in (
                ("from featurestore.v1 import", "from featurestore.wire import"),
                ("import featurestore.v1.", "import featurestore.wire."),
                ("featurestore.v1.row_pb2", "featurestore.wire.row_pb2"),
                ("featurestore.v1.serving_pb2", "featurestore.wire.serving_pb2"),
                ("from featurestore.v1.", "from featurestore.wire."),
            ):
                text = text.replace(old, new)
            (WIRE / generated.name).write_text(text)
            print(f"featurestore/wire/{generated.name}")


if __name__ == "__main__":
    main()
