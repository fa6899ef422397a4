//! The job of `benches/compare.py`, done by the Rust crate `repo-stream` 0.2.2.

#[path = "../../common.rs"]
mod common;

use common::{Args, Gauge, Result, Scratch, Tally};
use repo_stream::{DiskBuilder, Driver, DriverBuilder, Processable, process::noop};
use tokio::{fs::File, io::BufReader};

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let scratch = Scratch::new()?;
    let gauge = Gauge::start()?;
    let tally = if args.raw {
        run(&args, &scratch, noop, Vec::len).await?
    } else {
        run(&args, &scratch, |block| block.len(), |len| *len).await?
    };
    gauge.report("0.2.2", &tally)
}

async fn run<T: Processable + Send + 'static>(
    args: &Args,
    scratch: &Scratch,
    process: fn(Vec<u8>) -> T,
    len: fn(&T) -> usize,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let builder = DriverBuilder::new()
        .with_mem_limit_mb(args.mem_limit_mb)
        .with_block_processor(process);
    for file in &args.files {
        let reader = BufReader::with_capacity(args.buffer, File::open(file).await?);
        match builder.load_car(reader).await? {
            Driver::Memory(_, mut driver) => {
                while let Some(chunk) = driver.next_chunk(256).await? {
                    chunk.iter().for_each(|(key, value)| tally.add(key, len(value)));
                }
            }
            Driver::Disk(paused) if args.disk => {
                let store = DiskBuilder::new().open(scratch.store(tally.spilled)).await?;
                let (_, mut driver) = paused.finish_loading(store).await?;
                // The example takes the chunks from `to_channel`, which loses the last, partial
                // one: the counts would be wrong.
                while let Some(chunk) = driver.next_chunk(512).await? {
                    chunk.iter().for_each(|(key, value)| tally.add(key, len(value)));
                }
                driver.reset_store().await?;
                tally.spilled += 1;
            }
            Driver::Disk(_) => return Err("does not fit in memory".into()),
        }
    }
    Ok(tally)
}
