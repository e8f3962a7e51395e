"""The operator's command: `python3 operator --help`.

This file runs on whatever `python3` is, so it keeps to syntax that Python 3.6 reads, and says what is missing.
The directory has no `__init__.py`: as a package it would stand in the way of the standard library's `operator`.
"""

import os
import sys

OLDEST = (3, 11)


def start() -> int:
    sys.dont_write_bytecode = True  # the checkout stays clean
    if sys.version_info < OLDEST:  # the very case this is here for
        sys.stderr.write(
            "Error: the operator's command needs Python %d.%d or later; this is Python %s (%s).\n"  # noqa: UP031
            % (OLDEST[0], OLDEST[1], sys.version.split()[0], sys.executable)
        )
        return 2
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    # Dead letters are read by the function's own parser, which lies beside this directory.
    source = os.path.join(os.path.dirname(here), "lambda", "src")  # noqa: PTH118, PTH120
    sys.path[:0] = [path for path in (here, source) if path not in sys.path]
    try:
        import boto3  # noqa: F401, PLC0415
    except ImportError:
        sys.stderr.write(
            f"Error: the operator's command needs boto3, and {sys.executable} has none: "
            f"{sys.executable} -m pip install boto3\n"
        )
        return 2
    import program  # noqa: PLC0415  # only now is the Python known to be able to read it

    return program.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
