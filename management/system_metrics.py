"""What the machine is doing: TorchServe's system metrics, read from the kernel and, where there are GPUs, from nvidia-smi.

Not for: how often, nor where they go, which is `measuring`'s.
"""

import asyncio
import logging
import shutil

import psutil

from ..handlers.protocol import Metric

logger = logging.getLogger(__name__)

HOST = [("Level", "Host")]
GIGABYTE, MEGABYTE = 1 << 30, 1 << 20
QUERY = ["--query-gpu=index,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
QUERY_SECONDS = 10.0


def of_the_host() -> list[Metric]:
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    values = [
        ("CPUUtilization", "Percent", psutil.cpu_percent()),
        ("MemoryAvailable", "Megabytes", memory.available / MEGABYTE),
        ("MemoryUsed", "Megabytes", memory.used / MEGABYTE),
        ("MemoryUtilization", "Percent", memory.percent),
        ("DiskAvailable", "Gigabytes", disk.free / GIGABYTE),
        ("DiskUsage", "Gigabytes", disk.used / GIGABYTE),
        ("DiskUtilization", "Percent", disk.percent),
    ]
    return [Metric(name, "gauge", unit, value, HOST) for name, unit, value in values]


async def of_the_gpus() -> list[Metric]:
    """None where there is no driver; a driver that does not answer is told once a look and costs nothing else."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    process = await asyncio.create_subprocess_exec(
        program, *QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), QUERY_SECONDS)
    except TimeoutError:
        process.kill()
        logger.warning("nvidia-smi does not answer")
        return []
    return [metric for line in output.decode().splitlines() for metric in _of_line(line)]


def _of_line(line: str) -> list[Metric]:
    try:
        index, utilization, used, total = (float(part) for part in line.split(","))
    except ValueError:
        return []  # "[N/A]", on devices that are cut in slices
    labels = [*HOST, ("DeviceId", f"{index:.0f}")]
    return [
        Metric("GPUUtilization", "gauge", "Percent", utilization, labels),
        Metric("GPUMemoryUsed", "gauge", "Megabytes", used, labels),
        Metric("GPUMemoryUtilization", "gauge", "Percent", 100 * used / total if total else 0.0, labels),
    ]
