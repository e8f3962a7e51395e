"""Mutation tests for the decision code: `make mutants`.

A mutant changes one expression: it forces a condition to true or false, drops an operand of `and` or `or`, swaps
`and` and `or`, inverts a comparison, or drops a comprehension's filter. The tests run on each mutant in a fork of
this process, which has everything imported. A surviving mutant is a condition that no test covers, or an equivalent
mutant. tests/mutants/equivalent.txt lists the equivalent mutants with reasons.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "lambda" / "src"
EQUIVALENT = ROOT / "tests" / "mutants" / "equivalent.txt"
SECONDS = 60.0

# The files to mutate, and the tests that must kill the mutants, fastest first.
SUITES: dict[str, tuple[str, ...]] = {
    "ec2_decommission/steps/route53/plan.py": ("tests/unit/test_route53_plan.py", "tests/exhaustive/test_route53.py"),
    "ec2_decommission/steps/route53/names.py": (
        "tests/unit/test_route53_names.py",
        "tests/unit/test_route53_plan.py",
        "tests/exhaustive/test_route53.py",
    ),
    "ec2_decommission/steps/chef/plan.py": ("tests/unit/test_chef_plan.py", "tests/exhaustive/test_chef.py"),
    "ec2_decommission/steps/consul/plan.py": ("tests/unit/test_consul_plan.py", "tests/exhaustive/test_consul.py"),
    "ec2_decommission/steps/http/plan.py": ("tests/unit/test_http_plan.py",),
    "ec2_decommission/live.py": ("tests/unit/test_live.py",),
    "ec2_decommission/instance_filter.py": ("tests/unit/test_instance_filter.py", "tests/unit/test_handler.py"),
}


@dataclass(frozen=True)
class Mutant:
    """One changed expression in a file."""

    file: str
    line: int
    before: str
    after: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before}  ->  {self.after}"


def mutants(file: str) -> Iterator[Mutant]:
    """All mutants of one file."""
    source = (SOURCE / file).read_text()
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    for index, node in enumerate(nodes):
        for field, after in _changes(node):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[index]
            before = _expression(node, field)
            _put(target, field, after)
            ast.fix_missing_locations(changed)
            line = getattr(before, "lineno", getattr(node, "lineno", 0))
            yield Mutant(file, line, ast.unparse(before), ast.unparse(after), changed)


def _unchanged(file: str) -> Mutant:
    return Mutant(file, 0, "", "", ast.parse((SOURCE / file).read_text()))


def _changes(node: ast.AST) -> Iterator[tuple[str | tuple[str, int], ast.expr]]:
    """The fields of a node that can change, with their replacements."""
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not _is_type_checking(node.test):
        for value in (True, False):
            if not isinstance(node.test, ast.Constant):
                yield "test", ast.Constant(value)
    if isinstance(node, ast.comprehension):
        for number, _ in enumerate(node.ifs):
            yield ("ifs", number), ast.Constant(True)
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for number, child in enumerate(children):
            place = (field, number) if isinstance(value, list) else field
            if isinstance(child, ast.BoolOp):
                other = ast.And() if isinstance(child.op, ast.Or) else ast.Or()
                yield place, ast.BoolOp(other, child.values)
                for left_out, _ in enumerate(child.values):
                    rest = [v for n, v in enumerate(child.values) if n != left_out]
                    yield place, rest[0] if len(rest) == 1 else ast.BoolOp(child.op, rest)
            if isinstance(child, ast.UnaryOp) and isinstance(child.op, ast.Not):
                yield place, child.operand
            if isinstance(child, ast.Compare) and len(child.ops) == 1:
                for swapped in _SWAPPED.get(type(child.ops[0]), ()):
                    yield place, ast.Compare(child.left, [swapped()], child.comparators)


_SWAPPED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
}


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _expression(node: ast.AST, field: str | tuple[str, int]) -> ast.expr:
    value = getattr(node, field) if isinstance(field, str) else getattr(node, field[0])[field[1]]
    if not isinstance(value, ast.expr):
        raise TypeError(f"{field} is not an expression")
    return value


def _put(node: ast.AST, field: str | tuple[str, int], value: ast.expr) -> None:
    if isinstance(field, str):
        setattr(node, field, copy.deepcopy(value))
    else:
        getattr(node, field[0])[field[1]] = copy.deepcopy(value)


def survives(mutant: Mutant, suites: tuple[str, ...]) -> bool:
    """Whether all tests pass with the mutant. Runs them in a fork."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            sys.stderr = io.StringIO()
            code = _run(mutant, suites)
        os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False  # an endless loop counts as killed


def _run(mutant: Mutant, suites: tuple[str, ...]) -> int:
    import pytest  # noqa: PLC0415  # imported before the fork

    name = mutant.file.removesuffix(".py").replace("/", ".")
    module = sys.modules[name]
    _replace(module, mutant.tree)
    for suite in suites:
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--no-header"]
        if pytest.main([*options, str(ROOT / suite)]) != 0:
            return 1
    return 0


def _replace(module: ModuleType, tree: ast.Module) -> None:
    """Runs the mutated source in the module, and updates the modules that imported its functions."""
    old = dict(vars(module))
    exec(compile(tree, str(module.__file__), "exec"), vars(module))  # noqa: S102
    for other in list(sys.modules.values()):
        if not getattr(other, "__name__", "").startswith("ec2_decommission") or other is module:
            continue
        for key, value in list(vars(other).items()):
            if key in old and value is old[key] and callable(value):
                setattr(other, key, vars(module)[key])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="mutate only the files whose path contains one of these")
    parser.add_argument("--list", action="store_true", help="list the mutants without running tests")
    arguments = parser.parse_args()
    sys.path[:0] = [str(SOURCE), str(ROOT)]
    os.chdir(ROOT)
    os.environ["EXHAUSTIVE"] = "sample"  # only a sample of the exhaustive worlds
    chosen = {f: s for f, s in SUITES.items() if not arguments.files or any(part in f for part in arguments.files)}
    for file in chosen:
        __import__(file.removesuffix(".py").replace("/", "."))
    import hypothesis  # noqa: F401, PLC0415  # imported once, before the forks
    import pytest  # noqa: F401, PLC0415

    equivalent = {line.split("  #")[0] for line in EQUIVALENT.read_text().splitlines() if line and line[0] != "#"}
    killed, survived, known = 0, [], 0
    for file, suites in chosen.items():
        present = tuple(suite for suite in suites if (ROOT / suite).is_file())
        if not arguments.list and not survives(_unchanged(file), present):
            print(f"{file}: its tests fail on the unchanged code", file=sys.stderr)
            return 2
        for mutant in mutants(file):
            if arguments.list:
                print(mutant.name)
            elif mutant.name in equivalent:
                known += 1
            elif survives(mutant, present):
                survived.append(mutant)
                print(f"survived: {mutant.file}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
            else:
                killed += 1
    if not arguments.list:
        print(f"{killed + len(survived)} mutants, {killed} killed, {len(survived)} survived; {known} equivalent")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
