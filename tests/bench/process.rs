//! What a process costs, from /proc.

use anyhow::{Context, Result};

/// Clock ticks a second, as Linux counts them for /proc on every platform.
const TICKS: f64 = 100.0;

/// The most memory a process ever had resident, in megabytes.
pub(crate) fn peak_memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

/// The CPU seconds that a process has used, in user mode and in the kernel.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the program's name, which may hold anything, in brackets.
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).context("stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}
