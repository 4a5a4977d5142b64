"""Planning `linux.netDevices`: names that the kernel would refuse are refused before anything is touched."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.plan.netdevices import plan_net_devices


def test_nothing_named_is_no_step() -> None:
    assert plan_net_devices(None, False, True) is None
    assert plan_net_devices({}, False, True) is None


def test_a_step_says_what_moves_where() -> None:
    step = plan_net_devices({"eth0": {"name": "wan"}, "ib0": {}, "x1": {"name": "eth%d"}}, True, False)
    assert step is not None
    assert step.devices == [("eth0", "wan"), ("ib0", "ib0"), ("x1", "eth%d")]
    assert step.describe() == "move network interfaces eth0 as wan, ib0, x1 as eth%d into the container"


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", ".", "..", "a\0b", "x" * 16, "é" * 8, "a\nb", "a%d"])
def test_names_the_kernel_does_not_take(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_net_devices({name: {}} if name else {"": {}}, True, False)
    assert caught.value.path.startswith("linux.netDevices.")


@pytest.mark.parametrize("target", ["a%s", "%deth", "a%d%d", "x" * 15 + "%d", "a/b", "%"])
def test_targets_the_kernel_does_not_take(target: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_net_devices({"eth0": {"name": target}}, True, False)
    assert caught.value.path == "linux.netDevices.eth0.name"


@pytest.mark.parametrize("name", ["x" * 15, "é" * 7, "eth0.100", "a@b"])
def test_names_the_kernel_takes(name: str) -> None:
    assert plan_net_devices({name: {}}, True, False) is not None


def test_two_interfaces_cannot_have_one_name() -> None:
    with pytest.raises(SpecError, match="also the name for a"):
        plan_net_devices({"a": {"name": "c"}, "b": {"name": "c"}}, True, False)
    assert plan_net_devices({"a": {"name": "c%d"}, "b": {"name": "c%d"}}, True, False) is not None


def test_it_needs_a_network_namespace_and_root() -> None:
    with pytest.raises(SpecError, match="no network namespace"):
        plan_net_devices({"a": {}}, False, False)
    with pytest.raises(SpecError, match="needs root"):
        plan_net_devices({"a": {}}, True, True)
