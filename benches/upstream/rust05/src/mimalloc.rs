//! The same with the allocator that the crate's readme names and its disk example takes.

#[path = "main.rs"]
mod job;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    job::main()
}
