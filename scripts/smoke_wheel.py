"""Build the wheel, install it out of sight of the source tree, and run a newcomer's first commands from it."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{command[1:]} ended with status {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The build tools are in .venv, so the build needs no network.
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=False)
        site = next((folder / "venv").glob("lib*/python3*/site-packages"), folder / "venv/Lib/site-packages")
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=folder)
        # Dependencies come from .venv. addsitedir is not used: it would follow the editable install to the source tree.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        command = (python, "-m", "neverblink")
        where = run(python, "-c", "import neverblink; print(neverblink.__file__)", cwd=folder).strip()
        if not where.startswith(str(site)):
            raise SystemExit(f"the smoke test would not test the wheel but {where}")
        version = run(*command, "--version", cwd=folder).strip()
        run(*command, "--help", cwd=folder)
        run(*command, "doctor", cwd=folder)
        vtt = folder / "demo.vtt"
        run(*command, "watch", "arcade:pong", "--seconds", 3, "--no-realtime", "--vtt", vtt, cwd=folder)
        if not vtt.read_text().startswith("WEBVTT"):
            raise SystemExit(f"not a WebVTT file: {vtt.read_text()[:200]!r}")
        print(f"{wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB): {version}, help, doctor and watch work")


if __name__ == "__main__":
    main()
