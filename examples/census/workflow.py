"""
A census of a tree of Python files, done durably: one run, a child run per package, a step per file.

    census ── find_packages            a step: walks the disk
           ├─ count_package "asyncio"  a child run
           │  ├─ count_file            a step in a thread: reads and parses one file
           │  └─ count_file …
           └─ count_package "json" …
"""

from __future__ import annotations

import ast
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from perdure import App, Context, WorkerOptions

MODULES_PER_CHUNK = 20
PACKAGES_AT_ONCE = 4
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}
TESTS = "test"
BODIES_LOG = "bodies.log"
PARSING = threading.Lock()  # before 3.11.8 two threads that parse can fail with a SystemError (cpython#106905)

app = App("sqlite:///census.db", worker=WorkerOptions(threads=4))


@dataclass
class Job:
    """What to count: the Python files below a folder, with the library's own test suite or without."""

    root: str
    tests: bool = False


@dataclass
class Package:
    """Files to be counted together: a package, or a handful of single modules. Paths are relative to the root."""

    name: str
    root: str
    files: list[str]


@dataclass
class FileCount:
    """What one file holds. `problem` says why it could not be parsed."""

    file: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    documented: int = 0
    problem: str = ""

    @property
    def definitions(self) -> int:
        """What could have a docstring: the module, its functions and its classes."""
        return 0 if self.problem else 1 + self.functions + self.classes


@dataclass
class Tally:
    """Sums over files."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    definitions: int = 0
    documented: int = 0
    unparsed: list[str] = field(default_factory=list)

    def add(self, count: FileCount) -> None:
        self.files += 1
        self.lines += count.lines
        self.functions += count.functions
        self.classes += count.classes
        self.definitions += count.definitions
        self.documented += count.documented
        if count.problem:
            self.unparsed.append(f"{count.file}: {count.problem}")

    def merge(self, other: Tally) -> None:
        self.files += other.files
        self.lines += other.lines
        self.functions += other.functions
        self.classes += other.classes
        self.definitions += other.definitions
        self.documented += other.documented
        self.unparsed += other.unparsed


@dataclass
class PackageCount:
    name: str
    tally: Tally
    largest: list[FileCount]


@dataclass
class Report:
    root: str
    total: Tally
    packages: dict[str, Tally]
    largest: list[FileCount]


@app.step
def find_packages(job: Job) -> list[Package]:
    """Walk the disk. Its result is recorded, so a recovered run counts the files that were there at the start."""
    groups: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(job.root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT and (job.tests or name != TESTS))
        place = Path(folder).relative_to(job.root)
        group = place.parts[0] if place.parts else ""
        groups.setdefault(group, []).extend(str(place / name) for name in sorted(names) if name.endswith(".py"))
    single = groups.pop("", [])
    packages = [Package(name, job.root, files) for name, files in groups.items() if files]
    for begin in range(0, len(single), MODULES_PER_CHUNK):
        files = single[begin : begin + MODULES_PER_CHUNK]
        packages.append(Package(f"{Path(files[0]).stem} … {Path(files[-1]).stem}", job.root, files))
    return packages


@app.step
def count_file(root: str, file: str) -> FileCount:
    """Read and parse one file, in a thread. A file that is no valid Python is a result too, not an error."""
    note_body(file)
    count = FileCount(file)
    try:
        source = Path(root, file).read_bytes()
        count.lines = source.count(b"\n")
        with PARSING:
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        count.problem = f"{type(error).__name__}: {str(error).partition(' (')[0]}"
        return count
    count.documented = has_docstring(tree)
    for definition in definitions(tree.body):
        count.classes += isinstance(definition, ast.ClassDef)
        count.functions += not isinstance(definition, ast.ClassDef)
        count.documented += has_docstring(definition)
    return count


@app.workflow
async def count_package(ctx: Context, package: Package) -> PackageCount:
    async def count(file: str) -> FileCount:
        return await ctx.step(count_file, package.root, file)

    counts = await ctx.map(count, package.files, name="files")
    tally = Tally()
    for each in counts:
        tally.add(each)
    return PackageCount(package.name, tally, largest_of(counts))


@app.workflow
async def census(ctx: Context, job: Job) -> Report:
    packages = await ctx.step(find_packages, job)
    await ctx.emit("found", {"packages": len(packages), "files": sum(len(package.files) for package in packages)})
    counted = await ctx.map(count_package, packages, concurrency=PACKAGES_AT_ONCE, name="packages")
    total = Tally()
    for package in counted:
        total.merge(package.tally)
    return Report(
        job.root,
        total,
        {package.name: package.tally for package in counted},
        largest_of(count for package in counted for count in package.largest),
    )


def largest_of(counts: Iterable[FileCount]) -> list[FileCount]:
    """The ten files with the most lines."""
    return sorted(counts, key=lambda count: (-count.lines, count.file))[:10]


def definitions(body: list[ast.stmt]) -> Iterable[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Every function and class, however deep: only statements are looked at, which is all that can hold them."""
    left = list(body)
    while left:
        statement = left.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            left.extend(getattr(statement, name, ()))


def has_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def note_body(file: str) -> None:
    """
    Write down that a body began, outside perdure, so that the demo can tell how often each one ran.

    One small append is one write of the kernel: it survives `kill -9` of this process.
    """
    log = os.open(BODIES_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(log, f"{os.getpid()} {file}\n".encode())
    finally:
        os.close(log)
