"""A client of the Container Runtime Interface, as a kubelet is one: messages as dictionaries, over gRPC.

Of `runtime.v1` only the fields are here that tests use; fields that we do not know are skipped, as protobuf wants it.
An answer has all of its fields, the absent ones with the value that protobuf says they have.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

_numbers = itertools.count(1)

# MESSAGE field=number:type ...; types: s string, y bytes, i integer or enumeration, b bool, m map of strings, or the
# name of a message; a * before the type says repeated.
SCHEMA = """
Int64Value value=1:i
ImageSpec image=1:s
KeyValue key=1:s value=2:y
Capability add_capabilities=1:*s drop_capabilities=2:*s
SecurityProfile profile_type=1:i localhost_ref=2:s
NamespaceOption network=1:i pid=2:i ipc=3:i target_id=4:s
Mount container_path=1:s host_path=2:s readonly=3:b propagation=5:i
Device container_path=1:s host_path=2:s permissions=3:s
LinuxContainerResources cpu_period=1:i cpu_quota=2:i cpu_shares=3:i memory_limit_in_bytes=4:i oom_score_adj=5:i
  cpuset_cpus=6:s cpuset_mems=7:s unified=9:m memory_swap_limit_in_bytes=10:i

PodSandboxMetadata name=1:s uid=2:s namespace=3:s attempt=4:i
LinuxSandboxSecurityContext namespace_options=1:NamespaceOption run_as_user=3:Int64Value run_as_group=8:Int64Value
  readonly_rootfs=4:b privileged=6:b seccomp=9:SecurityProfile
LinuxPodSandboxConfig cgroup_parent=1:s security_context=2:LinuxSandboxSecurityContext sysctls=3:m
DNSConfig servers=1:*s searches=2:*s options=3:*s
PodSandboxConfig metadata=1:PodSandboxMetadata hostname=2:s log_directory=3:s dns_config=4:DNSConfig labels=6:m
  annotations=7:m linux=8:LinuxPodSandboxConfig
RunPodSandboxRequest config=1:PodSandboxConfig runtime_handler=2:s
RunPodSandboxResponse pod_sandbox_id=1:s
StopPodSandboxRequest pod_sandbox_id=1:s
StopPodSandboxResponse
RemovePodSandboxRequest pod_sandbox_id=1:s
RemovePodSandboxResponse
PodSandboxStatusRequest pod_sandbox_id=1:s verbose=2:b
PodSandboxNetworkStatus ip=1:s
PodSandboxStatus id=1:s metadata=2:PodSandboxMetadata state=3:i created_at=4:i network=5:PodSandboxNetworkStatus
  labels=7:m annotations=8:m runtime_handler=9:s
PodSandboxStatusResponse status=1:PodSandboxStatus info=2:m
ListPodSandboxRequest
PodSandbox id=1:s metadata=2:PodSandboxMetadata state=3:i labels=5:m runtime_handler=7:s
ListPodSandboxResponse items=1:*PodSandbox

ContainerMetadata name=1:s attempt=2:i
LinuxContainerSecurityContext capabilities=1:Capability privileged=2:b namespace_options=3:NamespaceOption
  run_as_user=5:Int64Value run_as_group=12:Int64Value run_as_username=6:s readonly_rootfs=7:b supplemental_groups=8:*i
  no_new_privs=11:b masked_paths=13:*s readonly_paths=14:*s seccomp=15:SecurityProfile
LinuxContainerConfig resources=1:LinuxContainerResources security_context=2:LinuxContainerSecurityContext
ContainerConfig metadata=1:ContainerMetadata image=2:ImageSpec command=3:*s args=4:*s working_dir=5:s envs=6:*KeyValue
  mounts=7:*Mount devices=8:*Device labels=9:m annotations=10:m log_path=11:s stdin=12:b stdin_once=13:b tty=14:b
  linux=15:LinuxContainerConfig
CreateContainerRequest pod_sandbox_id=1:s config=2:ContainerConfig sandbox_config=3:PodSandboxConfig
CreateContainerResponse container_id=1:s
StartContainerRequest container_id=1:s
StartContainerResponse
StopContainerRequest container_id=1:s timeout=2:i
StopContainerResponse
RemoveContainerRequest container_id=1:s
RemoveContainerResponse
ContainerFilter id=1:s pod_sandbox_id=3:s label_selector=4:m
ListContainersRequest filter=1:ContainerFilter
Container id=1:s pod_sandbox_id=2:s metadata=3:ContainerMetadata state=6:i labels=8:m
ListContainersResponse containers=1:*Container
ContainerStatusRequest container_id=1:s verbose=2:b
ContainerStatus id=1:s metadata=2:ContainerMetadata state=3:i created_at=4:i started_at=5:i finished_at=6:i
  exit_code=7:i reason=10:s message=11:s mounts=14:*Mount log_path=15:s
ContainerStatusResponse status=1:ContainerStatus info=2:m
UpdateContainerResourcesRequest container_id=1:s linux=2:LinuxContainerResources
UpdateContainerResourcesResponse
ReopenContainerLogRequest container_id=1:s
ReopenContainerLogResponse
ExecSyncRequest container_id=1:s cmd=2:*s timeout=3:i
ExecSyncResponse stdout=1:y stderr=2:y exit_code=3:i
ExecRequest container_id=1:s cmd=2:*s tty=3:b stdin=4:b stdout=5:b stderr=6:b
ExecResponse url=1:s
AttachRequest container_id=1:s stdin=2:b tty=3:b stdout=4:b stderr=5:b
AttachResponse url=1:s

UInt64Value value=1:i
CpuUsage timestamp=1:i usage_core_nano_seconds=2:UInt64Value
MemoryUsage timestamp=1:i working_set_bytes=2:UInt64Value usage_bytes=4:UInt64Value rss_bytes=5:UInt64Value
ContainerAttributes id=1:s metadata=2:ContainerMetadata labels=3:m
ContainerStats attributes=1:ContainerAttributes cpu=2:CpuUsage memory=3:MemoryUsage
ContainerStatsRequest container_id=1:s
ContainerStatsResponse stats=1:ContainerStats
ContainerStatsFilter id=1:s pod_sandbox_id=2:s
ListContainerStatsRequest filter=1:ContainerStatsFilter
ListContainerStatsResponse stats=1:*ContainerStats

VersionRequest version=1:s
VersionResponse version=1:s runtime_name=2:s runtime_version=3:s runtime_api_version=4:s
StatusRequest verbose=1:b
RuntimeCondition type=1:s status=2:b reason=3:s message=4:s
RuntimeStatus conditions=1:*RuntimeCondition
StatusResponse status=1:RuntimeStatus info=2:m
ImageStatusRequest image=1:ImageSpec
Image id=1:s repo_tags=2:*s
ImageStatusResponse image=1:Image
"""

Message = dict[str, Any]

# Values of enumerations.
READY, NOTREADY = 0, 1  # PodSandboxState
CREATED, RUNNING, EXITED, UNKNOWN = range(4)  # ContainerState
POD, CONTAINER, NODE, TARGET = range(4)  # NamespaceMode
RUNTIME_DEFAULT, UNCONFINED, LOCALHOST = range(3)  # SecurityProfile.ProfileType
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = range(3)  # MountPropagation


def _parse(schema: str) -> dict[str, list[tuple[str, int, str]]]:
    messages = {}
    for line in schema.replace("\n  ", " ").split("\n"):
        if line:
            name, *fields = line.split()
            messages[name] = [
                (field, int(number), kind)
                for field, _, rest in (one.partition("=") for one in fields)
                for number, _, kind in [rest.partition(":")]
            ]
    messages["map"] = [("key", 1, "s"), ("value", 2, "s")]
    return messages


MESSAGES = _parse(SCHEMA)


def encode(name: str, message: Message) -> bytes:
    """The wire format of a message. A field that the schema does not have is an error, since it is a typing mistake."""
    fields = {field: (number, kind) for field, number, kind in MESSAGES[name]}
    out = bytearray()
    for field, value in message.items():
        number, kind = fields[field]
        values: list[Any]
        if kind == "m":
            values = [{"key": key, "value": text} for key, text in value.items()]
            kind = "map"
        else:
            values = value if kind[0] == "*" else [value]
            kind = kind.lstrip("*")
        for one in values:
            if kind in ("i", "b"):
                out += _varint(number << 3) + _varint(int(one) & (1 << 64) - 1)
            else:
                raw = one.encode() if kind == "s" else one if kind == "y" else encode(kind, one)
                out += _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return bytes(out)


def decode(name: str, raw: bytes) -> Message:
    message: Message = {}
    fields = {}
    for field, number, kind in MESSAGES[name]:
        fields[number] = (field, kind)
        empty = {"s": "", "y": b"", "i": 0, "b": False, "m": {}}
        message[field] = [] if kind[0] == "*" else empty[kind] if kind in empty else decode(kind, b"")
    for number, value in _read(raw):
        field, kind = fields.get(number, ("", ""))
        if kind == "m":
            entry = decode("map", value)
            message[field][entry["key"]] = entry["value"]
        elif kind.startswith("*i") and isinstance(value, bytes):  # packed
            message[field] += list(_varints(value))
        elif kind.startswith("*"):
            message[field].append(_value(kind[1:], value))
        elif kind:
            message[field] = _value(kind, value)
    return message


def _value(kind: str, value: Any) -> Any:
    if kind == "s":
        return value.decode()
    if kind == "i":
        return value - (1 << 64) if value >> 63 else value
    if kind in ("y", "b"):
        return bool(value) if kind == "b" else value
    return decode(kind, value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varints(raw: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in raw:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def _read(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers with integers or bytes, in the order of the wire."""
    at = 0

    def take() -> int:
        nonlocal at
        end = at
        while raw[end] > 127:
            end += 1
        value = next(_varints(raw[at : end + 1]))
        at = end + 1
        return value

    while at < len(raw):
        number, wire = divmod(take(), 8)
        if wire == 0:
            yield number, take()
        else:
            length = take() if wire == 2 else {1: 8, 5: 4}[wire]
            yield number, raw[at : at + length]
            at += length


class Failure(Exception):
    """A call that the service refused: `code` is the name of the gRPC status, the text is its message."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Client:
    """Calls by their name: `client("StopContainer", container_id=id, timeout=3)`.

    They are made by a process of their own. gRPC starts threads, and has every later fork of its process start them
    again in the child; tests that fork into a cgroup with room for two processes would be ended by that.
    """

    def __init__(self, socket: Path) -> None:
        self.address = f"\0cri-{os.getpid()}-{next(_numbers)}"
        context = multiprocessing.get_context("spawn")
        ready, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(str(socket), self.address, theirs), daemon=True)
        self.process.start()
        theirs.close()
        ready.recv()
        ready.close()

    def __call__(self, name: str, *, seconds: float = 30, **request: Any) -> Message:
        """Call `name`; `seconds` is how long we wait for the answer, and for the service to be there at all."""
        with connection.Client(self.address) as call:
            call.send((name, seconds, request))
            refusal, answer = call.recv()
        if refusal is not None:
            raise Failure(*refusal)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        self.process.terminate()
        self.process.join(10)


def serve(socket: str, address: str, ready: connection.Connection) -> None:
    """The other process: answer each (name, seconds, request) with (refusal or None, answer), until it is ended."""
    import grpc  # here, so that tests without it can be collected, and skipped

    # Without the option, the channel would wait longer and longer between attempts at a daemon that restarts.
    options = [("grpc.max_reconnect_backoff_ms", 200), ("grpc.max_receive_message_length", 64 << 20)]
    channel = grpc.insecure_channel(f"unix:{socket}", options=options)

    def answer(call: connection.Connection) -> None:
        with call:
            name, seconds, request = call.recv()
            service = "ImageService" if "Image" in name else "RuntimeService"
            method = channel.unary_unary(
                f"/runtime.v1.{service}/{name}",
                request_serializer=functools.partial(encode, f"{name}Request"),
                response_deserializer=functools.partial(decode, f"{name}Response"),
            )
            try:
                call.send((None, method(request, timeout=seconds, wait_for_ready=True)))
            except grpc.RpcError as error:
                call.send(((error.code().name, error.details()), None))

    with connection.Listener(address, backlog=16) as listener:
        ready.send(True)
        while True:
            threading.Thread(target=answer, args=(listener.accept(),), daemon=True).start()
