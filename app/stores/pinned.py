"""What a collection has on disk beside the truth, pinned: open files stay readable whatever becomes of their names."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from app.stores import lexical_files, lexical_folder, snapshot
from app.stores.archive import Part

ATTEMPTS = 50
"""To open files that stay the current ones for as long as that takes."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """Files of one index that belong together, and the last change that they hold for sure."""

    sequence: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Of one collection; None where there is none that can be used."""

    vectors: Pinned | None
    words: Pinned | None

    @property
    def every(self) -> list[Pinned]:
        return [each for each in (self.vectors, self.words) if each]

    @property
    def parts(self) -> list[Part]:
        return [part for each in self.every for part in each.parts]


class Pins:
    """Opens files below a folder, and lets go of those that are not kept."""

    def __init__(self, root: Path, held: ExitStack) -> None:
        self._root = root
        self._held = held

    def pin(self, path: Path) -> Part:
        part = Part(path.relative_to(self._root).as_posix(), path.open("rb"))
        self._held.callback(part.close)
        return part

    def snapshots(self, folder: Path) -> Snapshots:
        return Snapshots(self._vectors(folder), self._words(folder / "lexical"))

    def _vectors(self, folder: Path) -> Pinned | None:
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError), ExitStack() as held:
                pins = Pins(self._root, held)
                first = pins.pin(folder / snapshot.MANIFEST)
                try:
                    manifest = snapshot.parse(first.file.read())
                except ValueError:
                    return None
                parts = first, pins.pin(folder / manifest.file)
                self._held.push(held.pop_all())
                return Pinned(manifest.sequence, parts)
        return None

    def _words(self, folder: Path) -> Pinned | None:
        """The manifest is opened first: files may be ahead of it, and are never behind."""
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError), ExitStack() as held:
                pins = Pins(self._root, held)
                names = lexical_folder.MANIFEST, lexical_files.SEGMENTS, lexical_files.MANAGED
                parts = [pins.pin(folder / name) for name in names]
                try:
                    sequence, segments = lexical_folder.parse(parts[0].file.read()).sequence, parts[1].file.read()
                    parts += [pins.pin(file) for file in lexical_files.committed(folder, segments)]
                except ValueError:
                    return None
                if (folder / lexical_files.SEGMENTS).read_bytes() == segments:  # otherwise some may be gone by now
                    self._held.push(held.pop_all())
                    return Pinned(sequence, tuple(parts))
        return None
