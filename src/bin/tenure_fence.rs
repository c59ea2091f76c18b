//! The guardian: kills PostgreSQL when the term runs out and the agent has not.

#[global_allocator]
static ALLOCATOR: tenure::fence::CountingAllocator = tenure::fence::CountingAllocator;

fn main() -> std::process::ExitCode {
    tenure::fence::main()
}
