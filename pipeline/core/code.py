"""Fingerprints of code: which of our modules a consumer really imports, and hashes of their syntax.

There are two. The exact one (`fingerprint`) changes with everything but comments, formatting and docstrings: what a
stage's outputs depend on. That of the work (`work_fingerprint`) changes only with what can change a byte that the code
computes: what half-finished work depends on, which nobody wants to lose to the rewording of an error.
"""

import ast
from collections.abc import Container, Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import cast

from .errors import WorkError
from .files import sha256_bytes, sha256_file

__all__ = ["SourceTree", "fingerprint", "syntax_hash", "work_fingerprint"]

_SKIPPED_FIELDS = {"kind", "type_comment"}  # u"" prefixes and comments: no meaning at run time
_NO_BYTE = tuple(  # modules of the core that can change no byte of what is computed
    f"pipeline.core.{name}" for name in ("checkpoint", "code", "errors", "files", "params", "progress", "work")
)
_TALK = {"say", "sys.stderr.write"}  # calls whose arguments only people read
_BAR = {"track"}  # calls whose texts name a progress bar
_BAR_NAME = "what"  # an argument that hands such a text on


class SourceTree:
    """The import graph of a few packages, read from their syntax; nothing is imported or run.

    Imports inside functions count; those under ``if TYPE_CHECKING:`` do not, and neither does what is imported
    by name at run time (`importlib.import_module`): a registry stays one module, and whoever asks names the member.
    """

    def __init__(self, root: Path, packages: tuple[str, ...] = ("pipeline", "stages")) -> None:
        """`packages` are folders under `root`."""
        self.root = root
        self.packages = packages

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Every module's dotted name and file."""
        found: dict[str, Path] = {}
        for package in self.packages:
            for path in sorted((self.root / package).rglob("*.py")):
                parts = path.relative_to(self.root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    def closure(self, roots: Iterable[str], without: Container[str] = ()) -> tuple[str, ...]:
        """The modules that importing `roots` brings in, the packages above each of them included, sorted.

        Args:
            roots: dotted names.
            without: modules to leave out, with whatever only they import.

        Raises:
            WorkError: a root is not a module of ours, or a file does not parse.
        """
        seen: set[str] = set()
        todo = list(roots)
        while todo:
            module = todo.pop()
            if module in seen or module in without:
                continue
            if module not in self.modules:
                raise WorkError(f"{module}: no such module under {', '.join(self.packages)} in {self.root}")
            seen.add(module)
            todo.extend(self._above(module))
            todo.extend(self._imports(module))
        return tuple(sorted(seen))

    def hashes(self, modules: Iterable[str]) -> dict[str, str]:
        """For each module its `syntax_hash`; for each data file of their packages (a template, say) its sha256."""
        found: dict[str, str] = {}
        for module in modules:
            path = self.modules[module]
            found[module] = _syntax(path)
            if path.name == "__init__.py":
                found |= {str(file.relative_to(self.root)): sha256_file(file) for file in _package_data(path.parent)}
        return found

    def _above(self, module: str) -> Iterator[str]:
        """The packages whose `__init__` runs before the module does."""
        parts = module.split(".")
        for end in range(1, len(parts)):
            if (name := ".".join(parts[:end])) in self.modules:
                yield name

    def _imports(self, module: str) -> Iterator[str]:
        path = self.modules[module]
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for level, name in _imports_of(path):
            if module_name := self._longest(_absolute(level, name, package)):
                yield module_name

    def _longest(self, name: str) -> str:
        """`from a.b import c` names a module or something in one: the longest name that is a file; else nothing."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name


def syntax_hash(tree: ast.AST, *, texts: bool = True) -> str:
    """sha256 of a syntax tree without docstrings, comments, formatting and positions.

    Empty fields are left out, so that the fields which newer Python versions add do not change the hash.

    Args:
        tree: as `ast.parse` gives it.
        texts: whether what only people read counts: the arguments of raised exceptions and of `say` and
            `sys.stderr.write`, and the names of progress bars.
    """
    pieces: list[str] = []
    _collect(tree, texts, pieces)
    return sha256_bytes("".join(f"{piece}\n" for piece in pieces).encode())


def fingerprint(hashes: dict[str, str]) -> str:
    """One sha256 over the names and hashes that `SourceTree.hashes` gives."""
    return sha256_bytes("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode())


def work_fingerprint(tree: SourceTree, roots: Iterable[str]) -> str:
    """One sha256 over all code that can change a byte of what `roots` compute.

    That is what they import, registries resolved by the caller, without the modules of the core that only keep, check
    or tell, without data files, and without the texts that only people read.

    Raises:
        WorkError: a root is not a module of ours, or a file does not parse.
    """
    modules = tree.closure(roots, _NO_BYTE)
    return fingerprint({name: _syntax(tree.modules[name], texts=False) for name in modules})


def _collect(value: object, texts: bool, pieces: list[str]) -> None:
    """Append what a part of a syntax tree says."""
    if isinstance(value, ast.Constant):
        pieces.append(f"{type(value.value).__name__} {value.value!r}")
    elif isinstance(value, ast.AST):
        pieces.append(f"({type(value).__name__}")
        for name, field in ast.iter_fields(value if texts else _untold(value)):
            content = _normal(value, field)
            if content is None or content == [] or name in _SKIPPED_FIELDS:
                continue
            pieces.append(f".{name}")
            _collect(content, texts, pieces)
        pieces.append(")")
    elif isinstance(value, list):
        pieces.append("[")
        for item in cast(list[object], value):
            _collect(item, texts, pieces)
        pieces.append("]")
    else:
        pieces.append(repr(value))


def _untold(node: ast.AST) -> ast.AST:
    """A node without the arguments that only people read."""
    match node:
        case ast.Raise(exc=ast.Call(func=kind), cause=cause):
            return ast.Raise(exc=kind, cause=cause)
        case ast.Call(func=function, args=args, keywords=keywords):
            called = _dotted(function)
            if called in _TALK:
                args, keywords = [], []
            elif called in _BAR:
                args = [value for value in args if not _is_text(value)]
                keywords = [word for word in keywords if not _is_text(word.value)]
            kept = [word for word in keywords if not (word.arg == _BAR_NAME and _is_text(word.value))]
            return ast.Call(func=function, args=args, keywords=kept)
        case _:
            return node


def _dotted(value: ast.expr) -> str:
    """A plain name such as ``sys.stderr.write``; empty for any other expression."""
    if isinstance(value, ast.Name):
        return value.id
    if isinstance(value, ast.Attribute) and (base := _dotted(value.value)):
        return f"{base}.{value.attr}"
    return ""


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))


def _normal(node: ast.AST, field: object) -> object:
    """A field as every Python version writes it, docstrings taken off."""
    if isinstance(node, ast.JoinedStr):
        return list(_merged(node.values))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and field is node.body:
        match node.body[:1]:
            case [ast.Expr(value=ast.Constant(value=str()))]:
                return node.body[1:]
            case _:
                return node.body
    return field


def _merged(values: list[ast.expr]) -> Iterator[ast.expr]:
    """The parts of an f-string; some versions of Python cut its text into several pieces, some of them empty."""
    text = ""
    for value in values:
        if isinstance(value, ast.Constant):
            text += str(value.value)
            continue
        if text:
            yield ast.Constant(text)
        text = ""
        yield value
    if text:
        yield ast.Constant(text)


def _run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node except those that only a type checker sees."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            todo.extend(node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


def _is_type_checking(test: ast.expr) -> bool:
    match test:
        case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
            return True
        case _:
            return False


def _imported_names(node: ast.AST) -> Iterator[tuple[int, str]]:
    """What an import statement asks for: the number of leading dots, and the dotted name after them."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = f"{node.module}." if node.module else ""
        yield from ((node.level, f"{base}{alias.name}") for alias in node.names)


def _absolute(level: int, name: str, package: str) -> str:
    """Resolve leading dots against the package that the import stands in."""
    if level == 0:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], name])


def _package_data(folder: Path) -> Iterator[Path]:
    """Files that are no code, down to the next package."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").exists():
                yield from _package_data(path)
        elif path.suffix not in {".py", ".pyc", ".pyi"} and not path.name.startswith("."):
            yield path


def _syntax(path: Path, *, texts: bool = True) -> str:
    return _syntax_of(path.read_bytes(), str(path), texts)


def _imports_of(path: Path) -> tuple[tuple[int, str], ...]:
    return _imports_in(path.read_bytes(), str(path))


@lru_cache(maxsize=4096)
def _syntax_of(content: bytes, name: str, texts: bool) -> str:
    return syntax_hash(_parsed(content, name), texts=texts)


@lru_cache(maxsize=4096)
def _imports_in(content: bytes, name: str) -> tuple[tuple[int, str], ...]:
    nodes = _run_time_nodes(_parsed(content, name))
    return tuple(dict.fromkeys(item for node in nodes for item in _imported_names(node)))


@lru_cache(maxsize=4096)
def _parsed(content: bytes, name: str) -> ast.Module:
    try:
        return ast.parse(content, filename=name)
    except SyntaxError as error:
        raise WorkError(f"{name}: line {error.lineno}: {error.msg}; correct the file, then run again") from error
