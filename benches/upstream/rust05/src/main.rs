//! The job of `benches/compare.py`, done by the Rust crate `repo-stream` 0.5.0-alpha.10.

#[path = "../../common.rs"]
mod common;

use common::{Args, Gauge, Result, Scratch, Tally};
use repo_stream::{DiskBuilder, DriverBuilder, LoadError, Output, noop};
use tokio::{fs::File, io::BufReader};

#[tokio::main]
pub async fn main() -> Result<()> {
    let args = Args::parse()?;
    let scratch = Scratch::new()?;
    let gauge = Gauge::start()?;
    let tally = run(&args, &scratch).await?;
    gauge.report("0.5.0-alpha.10", &tally)
}

async fn run(args: &Args, scratch: &Scratch) -> Result<Tally> {
    let mut tally = Tally::default();
    let builder = DriverBuilder::new()
        .with_mem_limit_mb(args.mem_limit_mb)
        .with_block_processor(if args.raw { noop } else { to_length });
    for file in &args.files {
        let reader = BufReader::with_capacity(args.buffer, File::open(file).await?);
        match builder.load_car(reader).await {
            Ok(mut car) => {
                while let Some(chunk) = car.next_chunk_strict(256)? {
                    add(&mut tally, &chunk, args.raw)?;
                }
            }
            Err(LoadError::MemoryLimitReached(partial)) if args.disk => {
                let store = DiskBuilder::new().open(scratch.store(tally.spilled)).await?;
                let (_, _, driver) = partial.finish_loading(store).await?;
                let (mut chunks, walk) = driver.to_channel(512);
                while let Some(chunk) = chunks.recv().await {
                    add(&mut tally, &chunk?, args.raw)?;
                }
                walk.await?;
                tally.spilled += 1;
            }
            Err(LoadError::MemoryLimitReached(_)) => return Err("does not fit in memory".into()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(tally)
}

/// This version's processors return bytes.
fn to_length(block: Vec<u8>) -> Vec<u8> {
    block.len().to_ne_bytes().to_vec()
}

fn add(tally: &mut Tally, chunk: &[Output], raw: bool) -> Result<()> {
    for Output { key, data, .. } in chunk {
        let len = if raw { data.len() } else { usize::from_ne_bytes(data.as_slice().try_into()?) };
        tally.add(key, len);
    }
    Ok(())
}
