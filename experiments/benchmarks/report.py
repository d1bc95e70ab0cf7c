"""What benchmarks share: flags, what each says of the machine beside its numbers, and the same two files."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "optax", "flax", "equinox", "dm-haiku", "torch", "optuna", "numpy")
PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}  # as JAX calls them; a CPU is always wanted too
RESULTS = Path(__file__).parent / "results"


def parser(question: str | None) -> argparse.ArgumentParser:
    """The flags that every benchmark has; ``parsed`` reads them."""
    made = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="little and short: does it run at all?")
    made.add_argument("--device", choices=PLATFORMS, help="where to run (what JAX finds)")
    made.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    return made


def parsed(made: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The flags as they were given, and JAX on the device that they name. To be called before JAX is used."""
    options = made.parse_args(arguments)
    if options.device:
        jax.config.update("jax_platforms", PLATFORMS[options.device])
    return options


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


def write(folder: Path, name: str, report: dict[str, Any], text: str, on: str | None = None) -> None:
    """Prints the text, and writes ``name_cpu.json`` and ``name_cpu.md`` (or ``_gpu``, ``_tpu``, or what ``on`` says)
    into the folder."""
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}_{on or jax.default_backend()}"
    (folder / f"{stem}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(text + "\n")


def kept(
    folder: Path, name: str, measured: list[str], of: str = "network", on: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the file that is there, but for those of the networks (or what ``of`` names) that are measured now."""
    path = folder / f"{name}_{on or jax.default_backend()}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in rows if row[of] not in measured]
