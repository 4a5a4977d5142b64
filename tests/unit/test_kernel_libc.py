"""Paths on their way to the kernel."""

from __future__ import annotations

import pytest

from pyruntime.errors import RuntimeFailure
from pyruntime.kernel.libc import path


def test_a_path_is_bytes() -> None:
    assert path("/a/\u00e9") == path(b"/a/\xc3\xa9") == b"/a/\xc3\xa9"
    assert path("/\udcff") == b"/\xff", "a name that is not UTF-8"
    assert len(path("x" * 4095)) == 4095


@pytest.mark.parametrize("bad", ["x" * 4096, b"/" * 5000, "\u00e9" * 2048, "a\0b", b"allowed\0/../x"])
def test_what_the_kernel_would_misread_is_refused(bad: str | bytes) -> None:
    with pytest.raises(RuntimeFailure, match=r"a path|in a path") as caught:
        path(bad)
    assert len(str(caught.value)) < 400 and "\0" not in str(caught.value)
