"""`winnow backup` and `winnow restore`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from app.errors import StartupError
from app.service.backup import of_folder
from app.stores.archive import Held, Manifest, unpack
from app.stores.data_dir import DATABASE, claim
from app.stores.disk import rename, sync
from app.stores.restore import restore as put_in_place
from app.terminal.audit import tell
from app.terminal.bench import as_failures
from app.terminal.client import UNUSABLE, Failure, Target, connect, read_settings, stderr
from app.terminal.options import DataDir, Url


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the backup goes; one that is there is replaced.")],
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Back up everything: documents, vectors, jobs, calibrations, feedback, and the indexes as they are built.

    A running service goes on searching and taking in meanwhile; what it had acknowledged before is in the backup. The
    file is read back and checked before it gets its name, so that a backup that is there is whole.

    \b
    winnow backup winnow.tar --url http://localhost:8000
    winnow backup winnow.tar --data-dir /var/lib/winnow          # of a service that is stopped
    """
    target = Target(url, data_dir)
    with as_failures(), _beside(file) as partial:
        if target.address():
            asyncio.run(_download(target, partial))
        else:
            _gather(read_settings(data_dir=data_dir).data_dir, partial)
        sync(partial)
        with _bar("checking", partial.stat().st_size) as advance:
            manifest = unpack(partial, None, advance)
    _tell(manifest, f"{file}: {file.stat().st_size:,} bytes, checked")


def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, metavar="FILE", help="What `backup` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Put aside what is in the data folder, rather than refuse.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Fill a data folder from a backup. The service that works in it must be stopped.

    All of the file is checked before anything is replaced, and it is replaced as one: whoever kills this leaves the old
    content or the new.

    \b
    winnow restore winnow.tar --data-dir /var/lib/winnow
    """
    settings = read_settings(data_dir=data_dir)
    folder = settings.data_dir
    with as_failures(), _claimed(folder), _bar("restoring", file.stat().st_size) as advance:
        restored = put_in_place(file, folder, force=force, advance=advance)
    tell(settings, "restore")
    _tell(restored.manifest, f"{folder.resolve()}: restored from {file}, of {restored.manifest.created_at}")
    if restored.replaced:
        typer.echo(f"What was there before is in {restored.replaced}: remove it when you do not need it any more.")


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A file that gets its name when it is whole, and leaves nothing behind if it never is."""
    if file.is_dir():
        raise Failure(f"{file} is a folder: name a file in it.", UNUSABLE)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        yield partial
        rename(partial, file)
    finally:
        partial.unlink(missing_ok=True)


async def _download(target: Target, partial: Path) -> None:
    async with connect(target) as client:
        with stderr.status("the service saves its indexes and copies its database") as status:
            async with client.stream("/backup") as response:
                status.stop()
                size = response.headers.get("content-length")  # which a proxy may have left out
                with _into(partial, int(size) if size else None) as take:
                    async for piece in response.aiter_bytes():
                        take(piece)


def _gather(data_dir: Path, partial: Path) -> None:
    if not (data_dir / DATABASE).exists():
        raise Failure(
            f"There is no data in {data_dir.resolve()}. Name another folder with --data-dir, or a running service with "
            "--url.",
            UNUSABLE,
        )
    with ExitStack() as held:
        with stderr.status("copying the database"):
            archive = held.enter_context(of_folder(data_dir))
        with _into(partial, archive.size) as take:
            for piece in archive.blocks():
                take(piece)


@contextmanager
def _into(partial: Path, size: int | None) -> Iterator[Callable[[bytes], object]]:
    """Write a file of this length, if there is room for it; None where nobody knows it."""
    if size and (free := shutil.disk_usage(partial.parent).free) < size:
        raise Failure(f"The backup takes {size:,} bytes, and {partial.parent.resolve()} has room for {free:,}.")
    with partial.open("wb") as file, _bar("writing", size) as advance:

        def take(piece: bytes) -> None:
            file.write(piece)
            advance(len(piece))

        yield take


@contextmanager
def _claimed(data_dir: Path) -> Iterator[None]:
    try:
        held = claim(data_dir)
    except StartupError as error:
        raise Failure(f"A service works in {data_dir.resolve()}: stop it first.", UNUSABLE) from error
    with held:
        yield


@contextmanager
def _bar(what: str, size: int | None) -> Iterator[Callable[[int], object]]:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=stderr, transient=True, disable=not stderr.is_terminal
    ) as bars:
        task = bars.add_task(what, total=size)
        yield lambda amount: bars.advance(task, amount)


def _tell(manifest: Manifest, what: str) -> None:
    typer.echo(what)
    for each in manifest.collections:
        typer.echo(f"  {each.name}: {each.documents:,} documents{_unbuilt(each)}")


def _unbuilt(held: Held) -> str:
    """What a service that starts with this will have to build, if anything."""
    missing = [name for name, seen in (("vectors", held.vectors), ("words", held.words)) if seen is None]
    return f" (the next start builds its index of {' and of '.join(missing)})" if missing and held.sequence else ""
