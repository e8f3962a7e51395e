"""Builds the function's package: `BUILD_SPEC='{...}' python3 lambda/build`, or `--spec FILE`.

`python3` can be an old version. So this file uses only the standard library and syntax that Python 3.6 can parse. It
finds a newer Python and runs the build with it.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)  # the oldest Python that the locked requirements are resolved for
CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3.14")


def newer_python() -> "str | None":
    for name in CANDIDATES:
        path = shutil.which(name)
        # A pyenv shim can be on PATH although its Python is not installed, so try to run each candidate.
        if path and subprocess.call([path, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL) == 0:
            return path
    return None


def start() -> int:
    sys.dont_write_bytecode = True  # the module's directory may be read-only
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    if sys.version_info < OLDEST:
        path = newer_python()
        if path is None:
            sys.stderr.write(
                f"Error: building the package needs Python {OLDEST[0]}.{OLDEST[1]} or later. This is Python "
                f"{sys.version.split()[0]} ({sys.executable}), and PATH has no working {', '.join(CANDIDATES)}. "
                "Install one, or build elsewhere and give the module a prebuilt package.\n"
            )
            return 2
        if os.name != "nt":  # exec keeps the process id, so that signals reach the build
            os.execv(path, [path, "-B", here, *sys.argv[1:]])  # noqa: S606
        return subprocess.call([path, "-B", here, *sys.argv[1:]])
    if here not in sys.path:
        sys.path.insert(0, here)
    import program  # noqa: PLC0415  # an older Python cannot parse it

    return program.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
