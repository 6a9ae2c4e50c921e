"""Write a module, and all that it uses of this package, as one file that runs without the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = __name__.partition(".")[0]
_FUTURE = "from __future__ import annotations"


@dataclass
class _Module:
    """The names that a module defines, and the origin of the names that it uses."""

    name: str
    text: str
    defined: dict[str, ast.stmt] = field(default_factory=dict)
    """The statement that defines each name."""
    said: dict[str, ast.stmt] = field(default_factory=dict)
    """The docstring of a constant: the string after it."""
    ours: dict[str, str] = field(default_factory=dict)
    """The module of the package that each name comes from."""
    others: dict[str, str] = field(default_factory=dict)
    """The statement that imports each name from elsewhere."""

    @classmethod
    def read(cls, name: str) -> _Module:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        module = cls(name, Path(spec.origin).read_text(encoding="utf-8"))
        last: list[str] = []
        for node in ast.parse(module.text).body:
            if isinstance(node, ast.Expr) and last:
                module.said |= dict.fromkeys(last, node)
            last = list(_names_of(node))
            module.defined |= dict.fromkeys(last, node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module.take_import(node)
        return module

    def take_import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Note where the names of an import come from."""
        source = node.module if isinstance(node, ast.ImportFrom) and node.module else ""
        for alias in node.names:
            if source.partition(".")[0] == _PACKAGE:
                if alias.asname:
                    raise ValueError(f"{self.name}: {source}.{alias.name} is imported under another name")
                self.ours[alias.name] = source
            elif source != "__future__":
                renamed = f" as {alias.asname}" if alias.asname else ""
                statement = f"from {source} import {alias.name}" if source else f"import {alias.name}"
                self.others[alias.asname or alias.name] = statement + renamed

    def source_of(self, name: str) -> str:
        """Return the statement that defines a name, with the comment above it and the docstring below it."""
        node, lines = self.defined[name], self.text.splitlines()
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]) - 1
        last = self.said[name].end_lineno if name in self.said else node.end_lineno
        while first and lines[first - 1].startswith("#"):
            first -= 1
        return "\n".join(lines[first:last])


def _names_of(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def flatten(name: str, entry: str = "main") -> str:
    """Return the source of a program: a module of this package, with all that it uses of other modules.

    What is not used is left out. Comments and docstrings are kept.

    Args:
        name: The module. Its block `if __name__ == "__main__"` ends the program.
        entry: The function from which everything that is used is reached.

    Raises:
        ValueError: Two modules define a name that is used, a function imports from the package, or an import renames
            a name of the package.
    """
    modules: dict[str, _Module] = {}
    used: dict[str, tuple[str, str]] = {}
    imports: set[str] = set()

    def enter(module: str, wanted: str) -> None:
        if module not in modules:
            modules[module] = _Module.read(module)
        here = modules[module]
        if wanted in here.ours:
            enter(here.ours[wanted], wanted)
        elif wanted in here.others:
            imports.add(here.others[wanted])
        elif wanted in here.defined and used.get(wanted) != (module, wanted):
            if wanted in used:
                raise ValueError(f"{wanted} is defined in {used[wanted][0]} and in {module}; rename one of them")
            used[wanted] = module, wanted
            node = here.defined[wanted]
            for each in ast.walk(node):
                if isinstance(each, ast.ImportFrom) and (each.module or "").partition(".")[0] == _PACKAGE:
                    raise ValueError(f"{module}: {wanted} imports {each.module} when it is called")
                if isinstance(each, ast.Name):
                    enter(module, each.id)

    enter(name, entry)
    start = modules[name]
    docstring = ast.get_docstring(ast.parse(start.text), clean=False) or ""
    parts = [f'"""{docstring}"""', _FUTURE, "\n".join(sorted(imports, key=_rank))]
    for module in _in_order(modules, name):
        names = [each for where, each in used.values() if where == module]
        names.sort(key=lambda each: modules[module].defined[each].lineno)
        sources = dict.fromkeys(modules[module].source_of(each) for each in names)
        parts.append("\n".join([f"# Of {module}.", "", "\n\n\n".join(sources)]))
    block = next(
        node for node in ast.parse(start.text).body if isinstance(node, ast.If) and "__name__" in ast.dump(node)
    )
    parts.append("\n".join(start.text.splitlines()[block.lineno - 1 : block.end_lineno]))
    return "\n\n\n".join(parts) + "\n"


def _in_order(modules: Mapping[str, _Module], last: str) -> list[str]:
    """Return the modules, each after those that it imports from."""
    order: list[str] = []

    def visit(name: str) -> None:
        for other in modules[name].ours.values():
            if other in modules and other not in order:
                visit(other)
        if name not in order:
            order.append(name)

    visit(last)
    return order


def _rank(statement: str) -> tuple[bool, str]:
    return statement.startswith("from"), statement
