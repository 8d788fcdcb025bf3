import ast
import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.code import SourceTree, fingerprint, syntax_hash, work_fingerprint
from pipeline.core.errors import WorkError

FILES = {
    "app/__init__.py": "",
    "app/main.py": "from app.parts import wheel\nimport app.lazy\n",
    "app/lazy.py": "def go():\n    from . import deep\n    return deep\n",
    "app/deep.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app import typed\n",
    "app/typed.py": "",
    "app/unused.py": "import app.main\n",
    "app/parts/__init__.py": "from .hub import Hub\n",
    "app/parts/hub.py": "from ..tools import Hub, missing as other\nimport os.path\n",
    "app/parts/wheel.py": "import json\n",
    "app/tools.py": "Hub = 1\nmissing = 2\n",
    "app/page/__init__.py": "",
    "app/page/templates/page.html": "<p>",
    "app/page/style.css": "p {}",
}


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SourceTree(tmp_path, ("app",))


def test_a_closure_follows_absolute_relative_and_function_level_imports_and_packages(tree: SourceTree) -> None:
    assert tree.closure(["app.main"]) == (
        "app",
        "app.deep",
        "app.lazy",
        "app.main",
        "app.parts",
        "app.parts.hub",
        "app.parts.wheel",
        "app.tools",
    )


def test_imports_for_type_checkers_do_not_count(tree: SourceTree) -> None:
    assert "app.typed" not in tree.closure(["app.deep"])


def test_the_else_branch_of_a_type_checking_block_counts(tree: SourceTree) -> None:
    (tree.root / "app/deep.py").write_text(
        "import typing\nif typing.TYPE_CHECKING:\n    import app.tools\nelse:\n    import app.typed\n"
    )
    assert tree.closure(["app.deep"]) == ("app", "app.deep", "app.typed")


def test_modules_can_be_left_out_with_what_only_they_import(tree: SourceTree) -> None:
    assert tree.closure(["app.main"], {"app.lazy", "app.parts.wheel"}) == ("app", "app.main")


def test_a_cycle_of_imports_ends(tree: SourceTree) -> None:
    (tree.root / "app/tools.py").write_text("import app.unused\n")
    assert {"app.tools", "app.unused", "app.main"} <= set(tree.closure(["app.tools"]))


def test_an_unknown_module_is_an_error_that_names_it(tree: SourceTree) -> None:
    with pytest.raises(WorkError, match=r"app\.nowhere: no such module"):
        tree.closure(["app.nowhere"])


def test_only_the_modules_that_are_reached_must_parse(tree: SourceTree) -> None:
    (tree.root / "app/unused.py").write_text("def broken(:\n")
    assert tree.closure(["app.main"])
    with pytest.raises(WorkError, match=r"unused\.py: line 1"):
        tree.closure(["app.unused"])


@pytest.mark.parametrize("touched", [name for name in FILES if name.endswith(".py")])
def test_a_touched_module_changes_a_fingerprint_exactly_when_it_is_in_the_closure(
    tree: SourceTree, touched: str
) -> None:
    module = touched.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    for root in ("app.main", "app.deep", "app.page", "app.unused"):
        inside = module in tree.closure([root])
        before = fingerprint(tree.hashes(tree.closure([root])))
        original = (tree.root / touched).read_text()
        (tree.root / touched).write_text(original + "added = 1\n")
        fresh = SourceTree(tree.root, ("app",))
        after = fingerprint(fresh.hashes(fresh.closure([root])))
        (tree.root / touched).write_text(original)
        assert (before != after) == inside, (root, module)


@pytest.mark.parametrize("name", ["app/page/templates/page.html", "app/page/style.css"])
def test_templates_count_with_the_package_that_holds_them(tree: SourceTree, name: str) -> None:
    before = {root: tree.hashes(tree.closure([root])) for root in ("app.page", "app.tools")}
    (tree.root / name).write_text("other")
    after = {root: tree.hashes(tree.closure([root])) for root in ("app.page", "app.tools")}
    assert before["app.tools"] == after["app.tools"]
    assert {key for key in before["app.page"] if before["app.page"][key] != after["app.page"][key]} == {name}


SAME = [
    "def f(a, b=1):\n    return a + b\n",
    "def f(a, b=1):\n    '''What it does.'''\n    # why\n    return a + b\n",
    "'''Module.'''\n\n\ndef f(\n    a,\n    b=1,\n):\n    return (a + b)\n",
    "def f(a, b=0x1): return a+b",
]
OTHER = [
    "def f(a, b=2):\n    return a + b\n",
    "def f(a, b=1.0):\n    return a + b\n",
    "def f(a, b=True):\n    return a + b\n",
    "def f(a, *, b=1):\n    return a + b\n",
    "def f(b, a=1):\n    return a + b\n",
    "def f(a, b=1):\n    return b + a\n",
    "def f(a, b=1):\n    return a - b\n",
    "def f(a, b=1):\n    return 'What it does.'\n",
    "def f(a, b='1'):\n    return a + b\n",
    "def f(a, b=None):\n    return a + b\n",
    "async def f(a, b=1):\n    return a + b\n",
]


def test_comments_docstrings_and_formatting_do_not_count() -> None:
    assert len({syntax_hash(ast.parse(text)) for text in SAME}) == 1


def test_everything_else_counts() -> None:
    hashes = [syntax_hash(ast.parse(text)) for text in (SAME[0], *OTHER)]
    assert len(set(hashes)) == len(hashes)


TALK = """
def f(a):
    for item in track(a, "drawing", total=3, unit="shard"):
        say(f"at {item}")
        sys.stderr.write("much\\n")
        g(item, what=f"training {a}")
    raise ValueError(f"{a}: too small; take {a + 1}") from None
"""
REWORDED = {
    '"drawing"': 'f"painting {a}"',
    '"shard"': '"file"',
    'f"at {item}"': '"there"',
    '"much\\n"': '"less\\n"',
    'f"training {a}"': '"training"',
    'f"{a}: too small; take {a + 1}"': '"too small", a',
}
CHANGED = {
    "track(a": "track(b",
    "total=3": "total=4",
    "g(item": "g(a",
    "ValueError": "KeyError",
    "from None": "from a",
    "say(": "tell(",
}


@pytest.mark.parametrize("old", [*REWORDED, *CHANGED])
def test_what_only_people_read_counts_in_the_exact_hash_alone(old: str) -> None:
    other = TALK.replace(old, REWORDED.get(old) or CHANGED[old])
    assert syntax_hash(ast.parse(TALK)) != syntax_hash(ast.parse(other))
    same = syntax_hash(ast.parse(TALK), texts=False) == syntax_hash(ast.parse(other), texts=False)
    assert same == (old in REWORDED)


ROOTS = ("pipeline.shards.make", "pipeline.methods.zskt", "pipeline.nets.lenet", "pipeline.nets.resnet")
MATTERS = (
    "methods.zskt",
    "shards.make",
    "shards.encode",
    "shards.layout",
    "nets.lenet",
    "nets.resnet",
    "core.rng",
    "core.images",
    "core.device",
)
DOES_NOT = (
    *(f"core.{name}" for name in ("checkpoint", "code", "errors", "files", "params", "progress", "work")),
    *(f"shards.{name}" for name in ("card", "decode", "executor", "manifest", "produce", "publish", "reader", "work")),
    "shards.__main__", "methods.zskd", "methods.dafl", "nets.wrn", "distill.train", "report.page",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source."""
    root = tmp_path_factory.mktemp("project")
    source = Path(__file__).resolve().parents[2] / "pipeline"
    shutil.copytree(source, root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def work_of(project: Path) -> str:
    return work_fingerprint(SourceTree(project, ("pipeline",)), ROOTS)


@pytest.mark.parametrize("module", [*MATTERS, *DOES_NOT])
def test_the_key_of_the_work_holds_what_can_change_a_byte_of_a_shard_and_nothing_else(
    project: Path, module: str
) -> None:
    before, path = work_of(project), project / "pipeline" / f"{module.replace('.', '/')}.py"
    original = path.read_text()
    path.write_text(f"{original}\nA_NUMBER = 1\n")
    after = work_of(project)
    path.write_text(original)
    assert (before != after) == (module in MATTERS)


def other_number(module: ast.Module) -> bool:
    """Change the first number that no error tells of."""
    todo: list[ast.AST] = [module]
    for node in todo:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            node.value += 7531
            return True
        todo.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Raise))
    return False


def other_words(module: ast.Module) -> bool:
    """Change what errors say."""
    calls = [node.exc for node in ast.walk(module) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    for call in calls:
        call.args = [ast.Constant("Sadly, no.")]
    return bool(calls)


def test_a_number_in_any_of_its_modules_counts_and_the_words_of_their_errors_do_not(project: Path) -> None:
    before, tree = work_of(project), SourceTree(project, ("pipeline",))
    edited = {other_number: 0, other_words: 0}
    for module in tree.closure(ROOTS, {f"pipeline.{name}" for name in DOES_NOT}):
        path = tree.modules[module]
        original = path.read_text()
        for edit in edited:
            parsed = ast.parse(original)
            if edit(parsed):
                path.write_text(ast.unparse(parsed))
                assert (work_of(project) != before) == (edit is other_number), module
                edited[edit] += 1
        path.write_text(original)
    assert min(edited.values()) > 10


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans()), max_size=3))
def test_two_different_literals_never_share_a_hash(values: list[object]) -> None:
    seen: dict[str, str] = {}
    for ordered in itertools.permutations(values):
        for text in (repr(list(ordered)), repr(tuple(ordered)), repr({"k": list(ordered)})):
            assert seen.setdefault(syntax_hash(ast.parse(text)), text) == text


def test_a_known_hash_stays_the_same_in_every_python() -> None:
    # The shared cache is keyed by these hashes, so another interpreter must not give other ones.
    assert syntax_hash(ast.parse(_EVERYTHING)) == _KNOWN


_EVERYTHING = '''
from __future__ import annotations
import a.b as c
async def f(x: int, /, *args: str, key=None, **rest) -> dict[str, int]:
    async with x as y, c():
        await y
    for i in range(3):
        if i: continue
        else: break
    try:
        raise ValueError(f"{x!r:>{i}} and {x=}") from None
    except* (A, B) as e:
        pass
    match x:
        case {"a": [1, *others], **more} | None if x: return {**rest, "k": {1, 2}}
        case Point(x=0) as p: del p
    return [lambda q: q[1:2, ...] for z in y if not z < 1 <= 2]
@d
class C(B, metaclass=M):
    """Doc."""
    field: int = -1
    def g(self): global h; h = (n := 5); assert h, u"text"; yield from b"bytes"
'''
_KNOWN = "9fb428f9c3fd73aecbb9aee2658f36b3a71d8020fe87dce646828209778ed385"
