"""Selects the pip settings that a build keeps: which package index to use, and how to reach it.

pip has many other settings, in configuration files and in PIP_* variables. They can change what is installed and
where (target, prefix, user, root, constraint, no-deps, only-binary, platform, dry-run, ...), so a build ignores them.
The build hides the configuration files from pip and passes the kept settings as variables.
https://pip.pypa.io/en/stable/topics/configuration/
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from errors import BuildError
from home import home

KEPT = frozenset(
    {
        "cache-dir",
        "cert",
        "client-cert",
        "default-timeout",
        "extra-index-url",
        "find-links",
        "index-url",
        "keyring-provider",
        "no-cache-dir",
        "no-index",
        "no-proxy-env",
        "proxy",
        "pypi-url",
        "resume-retries",
        "retries",
        "timeout",
        "trusted-host",
    }
)
# The settings of these pip commands also apply to the build's downloads.
_SECTIONS = ("global", "wheel", "download", "install")
_FILE = "pip.ini" if os.name == "nt" else "pip.conf"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that pass the kept settings to pip and hide its configuration files.

    The function is idempotent: for its own result, it returns the same result. Raises BuildError if a configuration
    file is malformed.

    >>> environment({"PIP_CONFIG_FILE": "/dev/null", "PIP_RETRIES": "2", "PIP_TARGET": "/elsewhere"})
    {'PIP_RETRIES': '2', 'PIP_CONFIG_FILE': '/dev/null'}
    """
    found: dict[str, str] = {}
    for path in _files(environ):
        found |= _read(path)
    variables = {name: value for name, value in environ.items() if name.startswith("PIP_") and value}
    found |= {_normal(name.removeprefix("PIP_")): value for name, value in variables.items()}
    kept = {f"PIP_{name.upper().replace('-', '_')}": found[name] for name in sorted(KEPT & set(found))}
    if home(environ) is None:
        kept.setdefault("PIP_NO_CACHE_DIR", "1")  # pip's default cache is in the home directory
    return kept | {"PIP_CONFIG_FILE": os.devnull}


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """pip's configuration files, each overriding the previous: system, user, this Python's, PIP_CONFIG_FILE."""
    chosen = environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    own = home(environ)
    user = [own / ("pip" if os.name == "nt" else ".pip") / _FILE] if own else []
    if os.name == "nt":
        yield Path(environ.get("PROGRAMDATA", "C:\\ProgramData")) / "pip" / _FILE
        configuration = environ.get("APPDATA")
    else:
        shared = "/Library/Application Support" if sys.platform == "darwin" else "/etc/xdg"
        for directory in (environ.get("XDG_CONFIG_DIRS") or shared).split(os.pathsep):
            yield Path(directory) / "pip" / _FILE
        yield Path("/etc") / _FILE
        configuration = environ.get("XDG_CONFIG_HOME") or (str(own / ".config") if own else None)
    if configuration:
        user.append(Path(configuration) / "pip" / _FILE)
    if sys.platform == "darwin" and own:
        user.append(own / "Library" / "Application Support" / "pip" / _FILE)
    yield from user
    yield Path(sys.prefix) / _FILE
    if chosen:
        yield Path(chosen)


def _read(path: Path) -> dict[str, str]:
    """The settings in one file; none if the file is missing or unreadable."""
    parser = configparser.RawConfigParser()
    parser.optionxform = _normal  # type: ignore[assignment,method-assign]
    try:
        parser.read(path)
    except (configparser.Error, UnicodeDecodeError) as error:
        raise BuildError(f"The pip configuration file {path} is malformed ({type(error).__name__}).") from None
    found: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            found |= {name: value for name, value in parser.items(section) if value}  # pip ignores empty values too
    return found


def _normal(name: str) -> str:
    """Normalizes a setting's name: INDEX_URL, index_url and --index-url become `index-url`."""
    return name.lower().replace("_", "-").removeprefix("--")
