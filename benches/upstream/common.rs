//! What both Rust contenders share: arguments, clock, memory gauge and the line they print.

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, io, process};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// `FILE... [--buffer BYTES] [--mem-limit-mb MB] [--disk] [--raw]`
pub struct Args {
    pub files: Vec<PathBuf>,
    /// Size of the buffer between the file and the crate; by default tokio's own, as in the
    /// crate's examples.
    pub buffer: usize,
    /// So big by default that everything stays in memory; 16 with `--disk`.
    pub mem_limit_mb: usize,
    /// Whether a repo over the limit goes through disk. Without it that is an error.
    pub disk: bool,
    /// Keep the records' bytes, not only their lengths.
    pub raw: bool,
}

impl Args {
    pub fn parse() -> Result<Self> {
        let (mut files, mut buffer, mut mem_limit_mb) = (Vec::new(), 8 * 1024, None);
        let (mut disk, mut raw) = (false, false);
        let mut args = env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--buffer" => buffer = args.next().ok_or("--buffer BYTES")?.parse()?,
                "--mem-limit-mb" => {
                    mem_limit_mb = Some(args.next().ok_or("--mem-limit-mb MB")?.parse()?);
                }
                "--disk" => disk = true,
                "--raw" => raw = true,
                option if option.starts_with("--") => return Err(format!("no {option}").into()),
                file => files.push(file.into()),
            }
        }
        if files.is_empty() {
            return Err("no FILE given".into());
        }
        let mem_limit_mb = mem_limit_mb.unwrap_or(if disk { 16 } else { 1 << 20 });
        Ok(Self { files, buffer, mem_limit_mb, disk, raw })
    }
}

/// A folder for stores, gone when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> io::Result<Self> {
        let dir = env::temp_dir().join(format!("repo-stream-bench-{}", process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    /// A path nothing has been written to yet.
    pub fn store(&self, n: u64) -> PathBuf {
        self.0.join(n.to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What was seen on the walk.
#[derive(Default)]
pub struct Tally {
    pub records: u64,
    pub record_bytes: u64,
    pub key_bytes: u64,
    /// Repos that went through disk.
    pub spilled: u64,
}

impl Tally {
    pub fn add(&mut self, key: &str, record_bytes: usize) {
        self.records += 1;
        self.record_bytes += record_bytes as u64;
        self.key_bytes += key.len() as u64;
    }
}

/// Measures from its making to its report.
pub struct Gauge {
    base_kib: u64,
    start: Instant,
}

impl Gauge {
    pub fn start() -> Result<Self> {
        // 5 resets the peak to what is resident now; where that is not allowed the growth is
        // counted from the peak so far.
        let _ = fs::write("/proc/self/clear_refs", "5");
        Ok(Self { base_kib: peak_kib()?, start: Instant::now() })
    }

    pub fn report(self, version: &str, tally: &Tally) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let growth_kib = peak_kib()?.saturating_sub(self.base_kib);
        let Tally { records, record_bytes, key_bytes, spilled } = tally;
        println!(
            "{{\"records\":{records},\"record_bytes\":{record_bytes},\"key_bytes\":{key_bytes},\
             \"seconds\":{seconds:.6},\"growth_kib\":{growth_kib},\"spilled\":{spilled},\
             \"version\":\"{version}\"}}"
        );
        Ok(())
    }
}

fn peak_kib() -> Result<u64> {
    let status = fs::read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
}
