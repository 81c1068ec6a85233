"""The house in figures: rooms, arrows between them, circles and floors, the longest files and functions.

    python tests/benchmarks/structure.py                          # this tree
    python tests/benchmarks/structure.py --tree OLD/TREE          # another one, e.g. a worktree of a release

A room is a folder of modules. In a folder that holds further rooms each file is a room of its own (`agent/config.py`,
`agent/core/ecg.py`). An arrow is an import from one room into another, those inside functions among them. A circle
is a set of rooms that import each other, directly or by way of others; floors are counted with each circle as one room.

Prints a table for people, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

HERE = Path(__file__).resolve().parents[2]


def rooms_and_arrows(package: str) -> tuple[set[str], set[tuple[str, str]]]:
    """The rooms of a package that can be imported, and the pairs of importer and imported."""
    graph = grimp.build_graph(package, cache_dir=None)
    folders = {module for module in graph.modules if graph.find_children(module)}
    mixed = {folder for folder in folders if folders & graph.find_children(folder)}

    def room(module: str) -> str:
        folder = module if module in folders else module.rpartition(".")[0]
        return module if folder in mixed else folder

    rooms = {room(module) for module in graph.modules}
    arrows = {
        (room(module), room(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
        if room(module) != room(other)
    }
    return rooms, arrows


def circles(rooms: set[str], arrows: set[tuple[str, str]]) -> list[set[str]]:
    """The sets of more than one room that reach each other."""
    reach = {room: {b for a, b in arrows if a == room} for room in rooms}
    changed = True
    while changed:
        changed = False
        for room, seen in reach.items():
            further = {far for near in seen for far in reach.get(near, set())} - seen
            reach[room] = seen | further
            changed |= bool(further)
    found: list[set[str]] = []
    for room in sorted(rooms):
        together = {other for other in reach[room] if room in reach.get(other, set())} | {room}
        if len(together) > 1 and together not in found:
            found.append(together)
    return found


def floors(rooms: set[str], arrows: set[tuple[str, str]], round_about: list[set[str]]) -> int:
    """The most rooms on one way down, each circle as one."""
    name = {room: min(next((c for c in round_about if room in c), {room})) for room in rooms}
    below: dict[str, set[str]] = {one: set() for one in name.values()}
    for a, b in arrows:
        if name[a] != name[b]:
            below[name[a]].add(name[b])
    height: dict[str, int] = {}
    try:
        for room in TopologicalSorter(below).static_order():
            height[room] = 1 + max((height[other] for other in below[room]), default=0)
    except CycleError as error:  # not after `circles`
        raise SystemExit(f"a circle was missed: {error}") from error
    return max(height.values(), default=0)


def files(tree: Path, package: str) -> Iterator[Path]:
    yield from sorted((tree / package).rglob("*.py"))


def longest(tree: Path, package: str) -> Mapping[str, list[tuple[int, str]]]:
    """Files by lines and functions by lines, the longest first."""
    by_file, by_function = [], []
    for path in files(tree, package):
        text = path.read_text(encoding="utf-8")
        where = str(path.relative_to(tree))
        by_file.append((len(text.splitlines()), where))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                by_function.append(((node.end_lineno or node.lineno) - node.lineno + 1, f"{where}:{node.name}"))
    return {"files": sorted(by_file, reverse=True), "functions": sorted(by_function, reverse=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=HERE)
    tree = parser.parse_args().tree.resolve()
    sys.path.insert(0, str(tree))
    result: dict[str, object] = {}
    for package in ("agent", "training"):
        rooms, arrows = rooms_and_arrows(package)
        found = circles(rooms, arrows)
        lengths = longest(tree, package)
        over = sum(lines > 400 for lines, _ in lengths["files"])
        long = sum(lines > 60 for lines, _ in lengths["functions"])
        print(f"{package}: {len(rooms)} rooms on {floors(rooms, arrows, found)} floors, {len(arrows)} arrows")
        for circle in found:
            print(f"  circle: {', '.join(sorted(circle))}")
        print(f"  {len(lengths['files'])} files, {over} over 400 lines; {long} functions over 60 lines")
        for kind in ("files", "functions"):
            print(f"  longest {kind}: " + ", ".join(f"{where} {lines}" for lines, where in lengths[kind][:4]))
        result[package] = {
            "rooms": sorted(rooms),
            "floors": floors(rooms, arrows, found),
            "arrows": len(arrows),
            "circles": [sorted(circle) for circle in found],
            "longest_file": lengths["files"][0],
            "longest_function": lengths["functions"][0],
            "files_over_400_lines": over,
            "functions_over_60_lines": long,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
