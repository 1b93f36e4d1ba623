"""Multipart forms as they come in: bounded, whole, and on disk where they are long."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.datastructures import FormData
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.api.deps import pieces
from app.errors import Malformed, TooLarge
from app.files.types import PATH
from app.settings import Settings

IN_MEMORY = 2**18
"""Of a file; what is longer goes to disk."""

UTF8 = ("utf-8", "utf8")


class _Form(MultiPartParser):
    """Knows whether the form was whole: a body that breaks off would otherwise lose its last file in silence."""

    spool_max_size = IN_MEMORY
    _whole = False

    def on_end(self) -> None:
        self._whole = True

    async def parse(self) -> FormData:
        if self._encoding().lower() not in UTF8:
            raise Malformed("The form must be in UTF-8: leave `charset` out of its content type.")
        self.stream = self._to_its_end(self.stream)
        return await super().parse()

    def _encoding(self) -> str:
        """Of its names, as its content type says; some that Python knows turn a name into what is no text."""
        _, options = parse_options_header(self.headers["content-type"])
        return options.get(b"charset", b"utf-8").decode("latin-1")

    async def _to_its_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for piece in stream:
            yield piece
        if not self._whole:
            raise Malformed("The form breaks off before its end.")


async def read_form(request: Request, settings: Settings, stack: ExitStack) -> FormData:
    """The form; the stack closes its files."""
    parser = _Form(request.headers, _bounded(request, settings.max_upload_bytes), max_files=settings.max_files)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Malformed(f"The form can't be read: {error.message}") from error
    for _, each in form.multi_items():
        if isinstance(each, UploadFile):
            stack.callback(each.file.close)
            each.filename = _name(each)
    return form


def _name(file: UploadFile) -> str:
    """A form spells a quotation mark as `%22`, and nothing tells it from a name that has just that: hence a header."""
    if (told := file.headers.get(PATH)) is None:
        return file.filename or ""
    return unquote_to_bytes(told.encode("latin-1")).decode("utf-8", "surrogateescape")


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for piece in pieces(request):
        size += len(piece)
        if size > most:
            raise TooLarge(f"The upload is longer than {most} bytes. Send fewer files at once.")
        yield piece
