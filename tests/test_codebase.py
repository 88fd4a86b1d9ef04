"""Static checks as ordinary tests: one version, imports that run one way, kernels kept apart."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "krylov"
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ISA_SOURCES = sorted(CSRC.glob("kernels/isa_*.cpp"))


# -------------------------------------------------------------------------------------------------
# Version and dependencies


def declared_version() -> str:
    return re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE).group(1)


def test_version_agrees_everywhere():
    import krylov

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE).group(1)
    found = {
        "CHANGELOG.md": newest,
        "krylov.__version__": krylov.__version__,
        "krylov.build_config()": krylov.build_config()["version"],
    }
    assert found == dict.fromkeys(found, declared_version())


def requirement_names(text: str) -> set[str]:
    """Return the distributions named in the requirement strings of a TOML fragment."""
    names = re.findall(r'"([A-Za-z][A-Za-z0-9_.-]*)(?:\[[^"]*\])?\s*[><=~!][^"]*"', text)
    return {name.lower() for name in names}


def test_constraints_pin_every_direct_dependency():
    sections = re.findall(
        r"^(?:requires|dependencies|torch|plot|bench|bench-torch|test|dev) = (\[.*?\])$",
        PYPROJECT,
        re.MULTILINE | re.DOTALL,
    )
    wanted = set().union(*map(requirement_names, sections)) - {"krylov"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line}
    expected = {"numpy", "torch", "pybind11", "hypothesis", "curvlinops-for-pytorch"}
    assert expected <= wanted, "the pattern lost a section"
    assert wanted <= pinned


# -------------------------------------------------------------------------------------------------
# Python: krylov.torch and the command line stand on krylov, never the other way round


def imported_modules(path: Path) -> set[str]:
    """Return every module that a file imports, at any depth, as absolute dotted names."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]  # for __init__.py too, whose own name is the last part
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def names_below(root: str, modules: set[str]) -> set[str]:
    return {name for name in modules if name == root or name.startswith(root + ".")}


def test_python_imports_run_one_way():
    above = {"torch": "krylov/torch", "krylov.torch": "krylov/torch", "krylov.cli": "krylov/cli"}
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        modules = imported_modules(path)
        for target, home in above.items():
            # The command line may reach for everything, benchmarks for all that they measure.
            above_all = (
                ("krylov/cli/",) if home == "krylov/cli" else ("krylov/cli/", "krylov/bench/")
            )
            allowed = place.startswith((home + "/", *above_all))
            if not allowed and names_below(target, modules):
                wrong.append(f"{place} imports {target}")
    assert not wrong


def test_import_krylov_does_not_import_torch(tmp_path):
    # Elsewhere than in the checkout, whose krylov/ holds no compiled module.
    code = "import sys, krylov; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr or "importing krylov imported torch"


def stub_names(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_")}


def test_stub_lists_what_the_compiled_module_has():
    from krylov import _core

    compiled = {name for name in dir(_core) if not name.startswith("_")}
    assert stub_names(PACKAGE / "_core.pyi") == compiled


# -------------------------------------------------------------------------------------------------
# C++: csrc/python -> csrc/solvers, csrc/sparse -> csrc/kernels -> csrc/core

MAY_INCLUDE = {
    "core": {"core"},
    "kernels": {"core", "kernels"},
    "sparse": {"core", "kernels", "sparse"},
    "lowrank": {"core", "kernels", "lowrank"},
    "solvers": {"core", "kernels", "sparse", "lowrank", "solvers"},
    "python": {"core", "kernels", "sparse", "lowrank", "solvers", "python"},
}
NO_TEMPLATES_INSIDE = {"stdint.h", "stddef.h", "string.h", "cstdint", "cstddef", "immintrin.h"}


def native_files() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".hpp", ".inl", ".h"})


def includes(path: Path) -> tuple[set[str], set[str]]:
    """Return what a file includes: its own project's headers ("...") and system headers (<...>)."""
    text = path.read_text(encoding="utf-8")
    own = set(re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE))
    system = set(re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE))
    return own, system


def test_native_includes_run_one_way():
    wrong = []
    for path in native_files():
        folder = path.relative_to(CSRC).parts[0]
        for header in includes(path)[0]:
            assert (CSRC / header).is_file(), f"{path}: includes are written relative to csrc/"
            if header.split("/")[0] not in MAY_INCLUDE[folder]:
                wrong.append(f"{path.relative_to(ROOT)} includes {header}")
    assert not wrong


def test_only_bindings_know_python():
    wrong = [
        f"{path.relative_to(ROOT)} includes <{header}>"
        for path in native_files()
        for header in includes(path)[1]
        if header.startswith(("pybind11/", "Python.h")) and path.parent != CSRC / "python"
    ]
    assert not wrong


@pytest.mark.parametrize("source", ISA_SOURCES, ids=lambda path: path.stem)
def test_instruction_set_files_include_no_library_templates(source):
    """An inline function of theirs, compiled here for AVX-512, could be linked in for everyone."""
    pending, seen, system = [source], set(), set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        own, angled = includes(path)
        system |= angled
        pending += [CSRC / header for header in own]
    assert system <= NO_TEMPLATES_INSIDE


def instruction_set_flags(name: str) -> list[str]:
    """Return the compiler flags that cmake/isa.cmake gives to this instruction set."""
    text = (ROOT / "cmake" / "isa.cmake").read_text(encoding="utf-8")
    match = re.search(rf"set\(KRYLOV_FLAGS_{name.upper()}\s+([^)]*)\)", text)
    return match.group(1).split() if match else []


def find_compiler() -> str | None:
    names = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.mark.parametrize("source", ISA_SOURCES, ids=lambda path: path.stem)
def test_instruction_set_files_emit_no_weak_symbols(source, tmp_path):
    """A weak symbol compiled for AVX-512 may be the copy that the linker keeps for everyone.

    Without optimisation only what must be inlined is, so every function a build might emit shows.
    """
    compiler, nm = find_compiler(), shutil.which("nm")
    if compiler is None or nm is None:
        pytest.skip("needs a C++ compiler and nm to look into object files")
    name = source.stem.removeprefix("isa_")
    flags = [*instruction_set_flags(name), "-std=c++17", "-fPIC", "-fvisibility=hidden", "-O0"]
    machine = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True).stdout
    if name != "baseline" and not machine.startswith("x86_64"):
        pytest.skip(f"{name} is built for x86-64 only, this compiler makes code for {machine}")

    target = tmp_path / "isa.o"
    compile_it = [compiler, *flags, f"-I{CSRC}", "-c", str(source), "-o", str(target)]
    subprocess.run(compile_it, check=True)
    list_symbols = [nm, "--demangle", "--defined-only", str(target)]
    listing = subprocess.run(list_symbols, check=True, capture_output=True, text=True).stdout
    symbols = [line.split(None, 2)[1:] for line in listing.splitlines()]
    weak = [symbol for kind, symbol in symbols if kind in "WwVvu"]
    visible = [symbol for kind, symbol in symbols if kind.isupper() and kind not in "WV"]
    assert not weak, "make these always_inline or static"
    # What is left to the linker must carry the instruction set in its name.
    assert visible
    assert [symbol for symbol in visible if f"krylov::{name}::" not in symbol] == []
