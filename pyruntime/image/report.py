"""What `list`, `inspect` and `verify` say."""

from __future__ import annotations

from typing import Any

from pyruntime.image import choose, unpack
from pyruntime.image.choose import Image
from pyruntime.image.documents import text
from pyruntime.image.limits import Limits
from pyruntime.image.progress import Progress, human
from pyruntime.image.source import Source
from pyruntime.spec import jsontext


def _dumps(value: object) -> str:
    return jsontext.dumps(value, indent=2)


def _record(source: Source, candidate: choose.Candidate) -> dict[str, Any]:
    image = choose.load(source, candidate)
    return {
        "names": candidate.names,
        "digest": candidate.manifest.digest if candidate.manifest else "",
        "id": image.config_digest,
        "platform": image.platform,
        "layers": len(image.layers),
        "size": sum(layer.size for layer in image.layers),
    }


def listing(source: Source, as_json: bool) -> str:
    """All images of a source, whatever their platform."""
    records = [_record(source, candidate) for candidate in choose.candidates(source)]
    if as_json:
        return _dumps(records)
    rows = [("NAME", "PLATFORM", "LAYERS", "SIZE", "DIGEST")]
    for record in records:
        rows.append(
            (
                text(", ".join(record["names"]) or "-"),
                text(record["platform"] or "-"),
                str(record["layers"]),
                human(record["size"]),
                record["digest"] or record["id"],
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def inspect(image: Image, as_json: bool) -> str:
    """One image: where it comes from, what it runs, its layers."""
    if as_json:
        return _dumps(
            {
                "names": image.names,
                "digest": image.manifest.digest if image.manifest else "",
                "id": image.config_digest,
                "config": image.config,
                "layers": [
                    {"digest": layer.digest, "diffID": layer.diff_id, "size": layer.size} for layer in image.layers
                ],
            }
        )
    config = image.config.get("config") or {}
    lines: list[tuple[str, str]] = [("Name", ", ".join(image.names) or "-")]
    if image.manifest:
        lines.append(("Digest", image.manifest.digest))
    lines += [("ID", image.config_digest), ("Platform", image.platform)]
    for label, value in (("Created", image.config.get("created")), ("Author", image.config.get("author"))):
        if value:
            lines.append((label, str(value)))
    for key in ("Entrypoint", "Cmd", "WorkingDir", "User", "StopSignal"):
        if config.get(key):
            value = config[key]
            lines.append((key, jsontext.dumps(value) if isinstance(value, list) else str(value)))
    for key in ("Env", "ExposedPorts", "Volumes"):
        for value in config.get(key) or []:
            lines.append((key, str(value)))
    for name, value in (config.get("Labels") or {}).items():
        lines.append(("Label", f"{name}={value}"))
    for layer in image.layers:
        lines.append(("Layer", f"{layer} ({human(layer.size)})"))
    return "\n".join(f"{label + ':':<14}{text(value)}" for label, value in lines)


def verify(image: Image, limits: Limits, progress: Progress) -> str:
    """Read everything and compare it with its digests. Raises ImageError for the first thing that is wrong."""
    entries = 0
    for number, layer in enumerate(image.layers):
        progress.layer(number + 1, str(layer), layer.size, "verifying")
        entries += unpack.verify_layer(layer, unpack.layer_name(image, number), limits, progress)
    name = image.manifest.digest if image.manifest else image.config_digest
    return (
        f"{name}: {len(image.layers)} layers with {entries} entries, "
        f"{human(limits.bytes_in)} compressed, {human(limits.bytes_out)} unpacked: all digests are right"
    )
