"""mount(2) takes all options as one text: a value must not begin a second option (CVE-2024-9407)."""

from __future__ import annotations

import pytest

from pyruntime.kernel.mounts import FilesystemError, mount_over

NOWHERE = (1 << 31) - 1
"""No descriptor: whatever gets as far as mounting fails with EBADF, which is no FilesystemError."""


@pytest.mark.parametrize(
    "option",
    [
        (b"lowerdir", b"/a,upperdir=/etc"),
        (b"lowerdir", b"/a" * 200 + b",workdir=/b"),
        (b"x,y", None),
        (b"context", b'system_u:object_r:a_t:s0:c1",exec'),
    ],
)
def test_a_value_that_would_split_is_refused(option: tuple[bytes, bytes | None]) -> None:
    with pytest.raises(FilesystemError) as caught:
        mount_over(NOWHERE, b"overlay", [option], None)
    assert caught.value.detail.startswith(b"the option " + option[0]) and b"would split it" in caught.value.detail


@pytest.mark.parametrize("option", [(b"lowerdir", rb"/a\,b"), (b"context", b"system_u:object_r:a_t:s0:c1,c2")])
def test_a_value_that_would_not_gets_to_the_mount(option: tuple[bytes, bytes | None]) -> None:
    with pytest.raises(OSError) as caught:
        mount_over(NOWHERE, b"overlay", [option], None)
    assert not isinstance(caught.value, FilesystemError)
