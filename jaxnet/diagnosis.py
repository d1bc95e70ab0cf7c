"""What ``python -m jaxnet doctor`` looks at: devices, versions, memory, the compilation cache, and numbers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.search.planning import cores, free_memory, in_bytes

REQUIRED = ("jaxlib", "jax", "optax", "flax", "numpy", "scipy")
OPTIONAL = {  # by the extra that installs it
    "typer": "cli", "optuna": "optuna", "plotly": "report", "matplotlib": "report", "pandas": "report",
    "scikit-learn": "report", "tensorboardX": "report", "equinox": "equinox", "dm-haiku": "haiku",
}  # fmt: skip
CLOSE = 1e-3  # apart, as a share: on a CPU both came to less than 1e-5, which is rounding


def examine() -> dict[str, Any]:
    """What there is, as JSON knows it; nothing is compiled.

    ``versions`` has None for what isn't installed; ``devices`` a dict each, empty where JAX finds none; ``memory`` the
    bytes of the host that are free and what a search lets its lanes hold on a device; ``cache`` where compiled
    programs are kept, or None; ``problems`` what is likely to be wrong, with what to try.
    """
    from jaxnet import __version__

    versions = {"python": platform.python_version(), "jaxnet": __version__}
    versions |= {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    found: dict[str, Any] = {
        "versions": versions, "platform": platform.platform(), "cores": cores(), "devices": [], "memory": {},
        "processes": 1, "cache": _cache(), "problems": [],
    }  # fmt: skip
    try:
        devices = jax.devices()
    except Exception as error:  # an AssertionError, for a platform that jaxlib wasn't built for
        asked = os.environ.get("JAX_PLATFORMS")
        why = " ".join(str(error).split()) or f"it was asked for JAX_PLATFORMS={asked}"
        found["problems"].append(f"JAX finds no device: {why}")
        return found
    from jaxnet.search.devices import Devices

    found["processes"] = jax.process_count()
    found["backend"] = jax.default_backend()
    for device in devices:
        statistics = device.memory_stats() if device.process_index == jax.process_index() else None
        of = statistics or {}
        found["devices"].append(
            {"id": device.id, "kind": device.device_kind, "platform": device.platform, "bytes": of.get("bytes_limit"),
             "bytes_in_use": of.get("bytes_in_use")}
        )  # fmt: skip
    found["memory"] = {"for_lanes": free_memory(Devices())}
    if found["backend"] == "cpu" and shutil.which("nvidia-smi"):
        found["problems"].append('an NVIDIA driver is here, but JAX has no GPU: pip install "jaxnet[cuda]"')
    cache = found["cache"]
    if cache["folder"] is None:
        found["problems"].append(
            "compiled programs aren't kept; with JAX_COMPILATION_CACHE_DIR=~/.cache/jax in the environment, a search "
            "doesn't compile again what an earlier one did"
        )
    elif not cache["writable"]:
        found["problems"].append(f"the compilation cache {cache['folder']!r} can't be written")
    return found


def text(found: dict[str, Any]) -> str:
    """What ``examine`` found, for people."""
    versions, cache = found["versions"], found["cache"]
    missing = [f"{name} (extra {OPTIONAL[name]})" for name, version in versions.items() if version is None]
    lines = [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
        ("missing", ", ".join(missing) or "nothing"),
        ("machine", f"{found['platform']}, {found['cores']} cores for this process"),
    ]
    for device in found["devices"]:
        memory = (
            ""
            if device["bytes"] is None
            else f", {in_bytes(device['bytes'])}, {in_bytes(device['bytes_in_use'])} in use"
        )
        lines.append(("device", f"{device['id']}: {device['kind']} ({device['platform']}){memory}"))
    if found["memory"]:
        lines.append(("memory", f"{in_bytes(found['memory']['for_lanes'])} on each device for the lanes of a search"))
    if cache["folder"]:
        lines.append(("cache", f"{cache['folder']}, {cache['files']} files, {in_bytes(cache['bytes'])}"))
    lines += [("note", problem) for problem in found["problems"]]
    return "\n".join(f"{name:<10} {content}" for name, content in lines)


def self_test() -> dict[str, Any]:
    """Trains a tiny fused search on the default devices, and compares its numbers with two from elsewhere.

    Eight linear networks of one hidden layer, of different widths and rates, train on 64 examples at once. Whatever its
    width, each must come to the least-squares error, which NumPy solves for in float64; and the narrowest, which is
    padded most, must train alone as it did in its lane.
    """
    import optax

    import jaxnet as jn

    generator = np.random.default_rng(0)
    x = np.linalg.qr(generator.normal(size=(64, 3)))[0] * 8  # features of variance one that don't correlate
    y = x @ [[1.0], [-0.5], [0.25]] + 0.3 * generator.normal(size=(64, 1)) + 0.5
    wide = np.hstack([x, np.ones((64, 1))])
    expected = float(np.mean((wide @ np.linalg.lstsq(wide, y, rcond=None)[0] - y) ** 2))

    def trial(hp: Any) -> Any:
        net = jn.serial(jn.dense(hp.hidden), jn.dense(1))
        return jn.Trial(net, jn.losses.squared_error, optax.sgd(hp.rate, momentum=0.9), batch_size=64)

    space = jn.Space(rate=jn.log_uniform(0.02, 0.05), hidden=jn.integers(2, 9))
    data = x.astype(np.float32), y.astype(np.float32)
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    started = time.perf_counter()
    try:
        jax.config.update("jax_default_matmul_precision", "highest")  # a GPU's own default rounds to 10 bits
        result = jn.search.run(
            trial, space, data, data, trials=8, epochs=150, key=jax.random.key(0), keep=0, progress=False
        )
        alone = result.reproduce(int(result.table["hidden"].argmin())).difference
    finally:
        jax.config.update("jax_default_matmul_precision", precision)
    reached = float(np.max(np.abs(result.table["score"] / expected - 1)))  # NaN, of what diverged, is never close
    return {
        "trials": len(result), "programs": len(result.groups["lanes"]), "seconds": time.perf_counter() - started,
        "compile_seconds": result.compile_seconds, "run_seconds": result.run_seconds,
        "from_least_squares": reached, "from_alone": float(alone), "allowed": CLOSE,
        "passed": bool(reached <= CLOSE and alone <= CLOSE),
    }  # fmt: skip


def self_test_text(tested: dict[str, Any]) -> str:
    """What ``self_test`` found, or ``{"error": ...}``, for people."""
    if "error" in tested:
        return f"{'self-test':<10} FAILED: {tested['error']}"
    return (
        f"{'self-test':<10} {'passed' if tested['passed'] else 'FAILED'}: {tested['trials']} trials in "
        f"{tested['programs']} compiled programs in {tested['seconds']:.1f} s; off the least-squares error by "
        f"{tested['from_least_squares']:.1e}, off training alone by {tested['from_alone']:.1e} "
        f"(allowed {tested['allowed']:.0e})"
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cache() -> dict[str, Any]:
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not folder or "://" in folder:  # one in the cloud is JAX's own to look at
        return {"folder": folder or None, "files": 0, "bytes": 0, "writable": True}
    path = Path(folder).expanduser()
    files = [file for file in path.glob("*") if file.is_file()] if path.is_dir() else []
    at = next(place for place in (path, *path.absolute().parents) if place.exists())  # where it would be made
    sizes = sum(file.stat().st_size for file in files)
    return {"folder": str(folder), "files": len(files), "bytes": sizes, "writable": os.access(at, os.W_OK)}
