"""Checks at build time that the function will be able to import a user's step.

The code is parsed, not executed: the build has credentials in its environment, and its machine may have another
architecture. Imports in a `try` or under `TYPE_CHECKING` are not checked.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping

from errors import SourceError

INTERFACE = "ec2_decommission.custom_step"  # the only module of the function that a step should import
FACTORY = "make_step"

# The packages that Lambda's image contains besides Python itself.
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-python.html
_OF_THE_RUNTIME = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3"})


def check(step: str, files: Mapping[str, bytes], runtime: str) -> list[str]:
    """Follows the imports from the step's `__init__.py`. `files` has all files of the package, by name.

    Returns warnings. Raises SourceError with a sentence for each problem that would make the step fail.
    """
    return _Reader(step, files, runtime).read()


class _Reader:
    def __init__(self, step: str, files: Mapping[str, bytes], runtime: str) -> None:
        self._what = f"The custom step {step}"
        self._package = f"custom_steps.{step}"
        self._files = files
        major, _, minor = runtime.removeprefix("python").partition(".")
        self._version = (int(major), int(minor))
        self._roots = {name.split("/")[0].split(".")[0] for name in files}
        self._problems: list[str] = []
        self._warnings: list[str] = []

    def read(self) -> list[str]:
        waiting, seen = [self._package], set[str]()
        while waiting:
            module = waiting.pop()
            own = module == self._package or module.startswith(f"{self._package}.")
            file = self._file(module) if own else None
            if file is None or file in seen:
                continue
            seen.add(file)
            tree = self._parse(file)
            if tree is None:
                continue
            if module == self._package and not _binds(tree, FACTORY):
                self._problems.append(
                    f"{self._what}: its __init__.py does not define {FACTORY}, which the function calls."
                )
            for line, imported, names in _imports(tree.body, self._parent(module, file)):
                self._follow(imported, names, f"{self._inside(file)} line {line}")
                waiting += [imported, *(f"{imported}.{name}" for name in names)]
        if self._problems:
            raise SourceError(*self._problems)
        return self._warnings

    def _follow(self, imported: str, names: list[str], where: str) -> None:
        root = imported.partition(".")[0]
        if imported == self._package or imported.startswith(f"{self._package}."):
            if self._file(imported) is None and not self._is_directory(imported):
                self._problems.append(f"{self._what}: {where} imports {imported}, but the step has no such file.")
        elif root == "ec2_decommission":
            if {imported, *(f"{imported}.{name}" for name in names)}.isdisjoint({INTERFACE}):
                self._warnings.append(
                    f"{self._what[0].lower()}{self._what[1:]}: {where} imports {imported}, which may change in any "
                    f"version; only {INTERFACE} is stable."
                )
        elif root not in sys.stdlib_module_names and root not in _OF_THE_RUNTIME and root not in self._roots:
            self._problems.append(
                f"{self._what}: {where} imports {root}, which the package does not contain; pin it in the step's "
                "requirements_file."
            )

    def _parse(self, file: str) -> ast.Module | None:
        try:
            return ast.parse(self._files[file], filename=file, feature_version=self._version)
        except (SyntaxError, ValueError) as error:
            if sys.version_info[:2] < self._version:
                return None  # the file may be valid for the newer Python
            line = getattr(error, "lineno", None) or 1
            version = ".".join(map(str, self._version))
            self._problems.append(
                f"{self._what}: {self._inside(file)} line {line} is not valid Python {version}: {error.args[0]}."
            )
            return None

    def _inside(self, file: str) -> str:
        return file.removeprefix(f"{self._package.replace('.', '/')}/")

    def _file(self, module: str) -> str | None:
        path = module.replace(".", "/")
        return next((name for name in (f"{path}/__init__.py", f"{path}.py") if name in self._files), None)

    def _is_directory(self, module: str) -> bool:
        return any(name.startswith(f"{module.replace('.', '/')}/") for name in self._files)

    @staticmethod
    def _parent(module: str, file: str) -> str:
        """The package that the file's relative imports start from."""
        return module if file.endswith("/__init__.py") else module.rpartition(".")[0]


def _binds(tree: ast.Module, name: str) -> bool:
    """Whether the module's top level defines the name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) in (name, "*") for a in node.names):
            return True
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return True
    return False


def _imports(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line, module and imported names of each import that is neither in a `try` nor under `TYPE_CHECKING`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base is not None:
                yield node.lineno, base, [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, package)
        elif not isinstance(node, ast.Try):
            yield from _imports(ast.iter_child_nodes(node), package)


def _absolute(node: ast.ImportFrom, package: str) -> str | None:
    if node.level == 0:
        return node.module
    parts = package.split(".")
    base = ".".join(parts[: len(parts) - node.level + 1])
    return f"{base}.{node.module}" if node.module else base
