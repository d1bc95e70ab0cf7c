"""What every benchmark says beside its numbers: the machine, the versions, and the same two files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "optax", "flax", "equinox", "torch", "optuna", "numpy")


def machine() -> dict[str, Any]:
    """The device, the cores, and the versions of what was compared."""
    device = jax.devices()[0]
    name = platform.processor() or platform.machine()
    if device.platform == "cpu" and os.path.exists("/proc/cpuinfo"):
        information = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in information if line.startswith("model name")), name)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": device.device_kind if device.platform != "cpu" else f"CPU ({name})",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def where(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['device']}, {machine['cores']} cores, {versions}"


def write(folder: Path, name: str, report: dict[str, Any], text: str) -> None:
    """Prints the text, and writes ``name_cpu.json`` and ``name_cpu.md`` (or ``_gpu``, ``_tpu``) into the folder."""
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}_{jax.default_backend()}"
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(text + "\n")
