"""A disk that loses power: what may be on it after each system call, by the rules of POSIX and no kinder ones.

`journal` runs a program under strace and reads back every call that changes files under a folder, SQLite's
included. `Disk` plays them: what was written is certain only when its file has been flushed (fsync, fdatasync),
a name only when its folder has been. Everything else may have reached the disk or not, each piece for itself,
in any order, a write also in part (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014; Mohan
et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018).
"""

import hashlib
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRACED = (
    "openat,close,dup,dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,truncate,ftruncate,fallocate,fsync,"
    "fdatasync,sync,syncfs,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,"
    "copy_file_range,sendfile"
)
SECTOR = 512
"""Bytes that a disk writes whole or not at all."""


@dataclass(frozen=True)
class Call:
    """One system call that succeeded."""

    name: str
    arguments: tuple[str, ...]
    result: int


def journal(command: Sequence[str], output: Path) -> list[Call]:
    """Run a program; return the calls of all its threads that may change files, in order.

    Raises
    ------
    subprocess.CalledProcessError
        If the program, or strace, fails.
    """
    traced = ["strace", "-f", "-xx", "-s", str(1 << 24), "-e", f"trace={TRACED}", "-e", "signal=none"]
    subprocess.run([*traced, "-o", str(output), *command], check=True)
    return list(_calls(output.read_text()))


_LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(?:<.*>)?(?: .*)?$", re.DOTALL)


def _calls(text: str) -> Iterator[Call]:
    unfinished: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        pid, resumed, rest = match.groups()
        if resumed:
            rest = unfinished.pop(pid) + rest
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        call = _CALL.match(rest)
        if call is not None and int(call[3]) >= 0:
            yield Call(call[1], tuple(_split(call[2])), int(call[3]))


def _split(arguments: str) -> Iterator[str]:
    """Split at commas that are not inside quotes or brackets; quoted strings keep their quotes."""
    start = depth = 0
    quoted = False
    for at, letter in enumerate(arguments):
        if letter == '"':
            quoted = not quoted  # with -xx nothing is escaped by a backslash and a quote
        elif not quoted and letter in "[{":
            depth += 1
        elif not quoted and letter in "]}":
            depth -= 1
        elif not quoted and not depth and letter == ",":
            yield arguments[start:at].strip()
            start = at + 1
    yield arguments[start:].strip()


def _bytes(argument: str) -> bytes:
    assert not argument.endswith("..."), "strace has cut a string"
    return bytes.fromhex(argument.strip('"').replace("\\x", ""))


# The disk


@dataclass(frozen=True)
class Change:
    """A change of a file's content that has not been flushed: bytes at an offset, or (data None) a new size."""

    offset: int
    data: bytes | None


@dataclass(eq=False)
class File:
    """A file: what is certain of its content, and what is not."""

    certain: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)

    def flush(self) -> None:
        """Make everything certain."""
        self.certain = self.content(self.changes)
        self.changes = []

    def content(self, changes: Sequence[Change]) -> bytearray:
        """Return the content if only these changes reach the disk."""
        data = bytearray(self.certain)
        for change in changes:
            if change.data is None:
                del data[change.offset :]
                data += bytes(change.offset - len(data))
            else:
                data += bytes(max(0, change.offset - len(data)))
                data[change.offset : change.offset + len(change.data)] = change.data
        return data


@dataclass(eq=False)
class Folder:
    """A folder: the names that are certain, and the changes (name, what it names now or None) that are not."""

    certain: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[tuple[tuple[str, "File | Folder | None"], ...]] = field(default_factory=list)

    def flush(self) -> None:
        """Make every name certain."""
        self.certain = self.names(self.changes)
        self.changes = []

    def names(
        self, changes: Sequence[tuple[tuple[str, "File | Folder | None"], ...]]
    ) -> dict[str, "File | Folder"]:
        """Return the names if only these changes reach the disk; each change does so whole (rename is atomic)."""
        names = dict(self.certain)
        for change in changes:
            for name, target in change:
                if target is None:
                    names.pop(name, None)
                else:
                    names[name] = target
        return names

    @property
    def now(self) -> dict[str, "File | Folder"]:
        """The names as programs see them."""
        return self.names(self.changes)


@dataclass(eq=False)
class _Open:
    target: File | Folder | None
    path: str
    append: bool = False
    offset: int = 0


Tree = dict[str, bytes | None]
"""Path -> content, or None for a folder."""


class Disk:
    """What lies under `root`, as system calls change it. `root` itself is there for certain, and empty."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.top = Folder()
        self._open: dict[int, _Open] = {}

    def play(self, call: Call) -> str | None:
        """Take one call in; return the path if it was a write to a file outside the root, else None."""
        name, arguments = call.name, call.arguments
        if name == "openat":
            self._opened(call)
        elif name == "close":
            self._open.pop(int(arguments[0]), None)
        elif name in ("dup", "dup2", "dup3") or (name == "fcntl" and "F_DUPFD" in arguments[1]):
            if int(arguments[0]) in self._open:
                self._open[call.result] = self._open[int(arguments[0])]
        elif name == "mkdir":
            self._enter(_bytes(arguments[0]).decode(), Folder())
        elif name == "rename":
            self._rename(_bytes(arguments[0]).decode(), _bytes(arguments[1]).decode())
        elif name in ("unlink", "rmdir"):
            self._remove(_bytes(arguments[0]).decode())
        elif name == "unlinkat":
            self._remove(self._at(arguments[0], arguments[1]))
        elif name in ("lseek", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync"):
            opened = self._open.get(int(arguments[0]))
            if opened is not None:
                return self._on_file(call, opened)
        elif name != "fcntl":
            assert self.root not in str([_shown(argument) for argument in arguments]), call
            assert not arguments[0].isdigit() or int(arguments[0]) not in self._open, call
        return None

    def _on_file(self, call: Call, opened: _Open) -> str | None:
        name, arguments, target = call.name, call.arguments, opened.target
        if name in ("fsync", "fdatasync"):
            assert target is not None
            target.flush()
            return None
        if target is None:
            return opened.path if name == "write" else None
        assert isinstance(target, File)
        if name == "lseek":
            opened.offset = call.result
        elif name == "write":
            size = len(target.content(target.changes))
            offset = size if opened.append else opened.offset
            target.changes.append(Change(offset, _bytes(arguments[1])[: call.result]))
            opened.offset = offset + call.result
        elif name == "pwrite64":
            target.changes.append(Change(int(arguments[3]), _bytes(arguments[1])[: call.result]))
        elif name == "ftruncate":
            target.changes.append(Change(int(arguments[1]), None))
        else:
            size = len(target.content(target.changes))
            assert arguments[1] in ("0", "FALLOC_FL_KEEP_SIZE"), call
            if arguments[1] == "0":
                target.changes.append(Change(max(size, int(arguments[2]) + int(arguments[3])), None))
        return None

    def _opened(self, call: Call) -> None:
        path, flags = self._at(call.arguments[0], call.arguments[1]), call.arguments[2]
        place = self._place(path)
        if place is None:
            if "O_WRONLY" in flags or "O_RDWR" in flags:
                self._open[call.result] = _Open(None, path)
            else:
                self._open.pop(call.result, None)
            return
        folder, name = place
        target = folder.now.get(name) if name else folder
        if target is None:
            assert "O_CREAT" in flags, call
            target = File()
            folder.changes.append(((name, target),))
        elif "O_TRUNC" in flags:
            assert isinstance(target, File)
            target.changes.append(Change(0, None))
        self._open[call.result] = _Open(target, path, append="O_APPEND" in flags)

    def _at(self, folder: str, path: str) -> str:
        name = _bytes(path).decode()
        if name.startswith("/") or folder == "AT_FDCWD":
            return name
        opened = self._open.get(int(folder))
        return f"{opened.path}/{name}" if opened is not None else f"?/{name}"

    def _place(self, path: str) -> tuple[Folder, str] | None:
        """Return (folder, name in it), or None if the path is not under the root; name "": the root."""
        path = os.path.normpath(path)
        if path == self.root:
            return self.top, ""
        if not path.startswith(self.root + "/"):
            return None
        folder = self.top
        *above, name = path[len(self.root) + 1 :].split("/")
        for part in above:
            inner = folder.now[part]
            assert isinstance(inner, Folder)
            folder = inner
        return folder, name

    def _enter(self, path: str, target: File | Folder) -> None:
        place = self._place(path)
        if place is not None:
            place[0].changes.append(((place[1], target),))

    def _remove(self, path: str) -> None:
        place = self._place(path)
        if place is not None:
            place[0].changes.append(((place[1], None),))

    def _rename(self, old: str, new: str) -> None:
        source, goal = self._place(old), self._place(new)
        assert (source is None) == (goal is None), (old, new)
        if source is None or goal is None:
            return
        target = source[0].now[source[1]]
        if source[0] is goal[0]:
            source[0].changes.append(((source[1], None), (goal[1], target)))
        else:  # each folder's part may reach the disk without the other's
            goal[0].changes.append(((goal[1], target),))
            source[0].changes.append(((source[1], None),))

    # After the cut

    def tree(self, data: Callable[[File], Sequence[Change]], names: Callable[[Folder], bool]) -> Tree:
        """Return what is there if of each file these changes, and of folders' changes those `names` keeps, last."""
        found: Tree = {}

        def visit(folder: Folder, path: str) -> None:
            kept = folder.names([change for change in folder.changes if names(folder)])
            for name, target in sorted(kept.items(), key=lambda entry: entry[0]):
                if name.endswith("-shm"):
                    continue  # SQLite makes its wal-index anew
                if isinstance(target, Folder):
                    found[f"{path}{name}"] = None
                    visit(target, f"{path}{name}/")
                else:
                    found[f"{path}{name}"] = bytes(target.content(data(target)))

        visit(self.top, "")
        return found

    def trees(self, chance: random.Random, randomly: int) -> Iterator[Tree]:
        """Yield what may be there if the power fails now: extremes, and some of what lies between."""

        def everything(file: File) -> Sequence[Change]:
            return file.changes

        def nothing(_: File) -> Sequence[Change]:
            return ()

        def some(file: File) -> Sequence[Change]:
            return [change for change in file.changes if chance.random() < 0.5]

        def torn(file: File) -> Sequence[Change]:
            """Everything, but the last write only in part."""
            if not file.changes or not file.changes[-1].data:
                return file.changes
            last = file.changes[-1]
            assert last.data is not None
            sectors = len(last.data) // SECTOR
            cut = chance.randint(0, sectors) * SECTOR
            return [*file.changes[:-1], Change(last.offset, last.data[:cut])]

        def grown(file: File) -> Sequence[Change]:
            """The size, but not the bytes: zeros."""
            return [Change(len(file.content(file.changes)), None)] if file.changes else ()

        yield self.tree(nothing, lambda _: False)
        yield self.tree(everything, lambda _: True)
        yield self.tree(nothing, lambda _: True)
        yield self.tree(everything, lambda _: False)
        yield self.tree(torn, lambda _: True)
        yield self.tree(grown, lambda _: True)
        for _ in range(randomly):
            yield self.tree(chance.choice((some, torn, everything)), lambda _: chance.random() < 0.5)


def fingerprint(tree: Tree) -> bytes:
    """Return the same bytes for equal trees."""
    digest = hashlib.sha256()
    for path, content in sorted(tree.items()):
        digest.update(
            path.encode() + b"\0" + (hashlib.sha256(content).digest() if content is not None else b"/")
        )
    return digest.digest()


def write_out(tree: Tree, folder: Path) -> None:
    """Make a tree in an empty folder."""
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(mode=0o750)
        else:
            (folder / path).write_bytes(content)


def read_in(folder: Path) -> Tree:
    """Return the tree under a folder, without SQLite's wal-index."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith("-shm")
    }


def _shown(argument: str) -> str:
    return _bytes(argument).decode("utf-8", "replace") if argument.startswith('"') else argument
