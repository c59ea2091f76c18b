//! The holder of the virtual addresses: puts them on their interfaces while this member is primary.

fn main() -> std::process::ExitCode {
    tenure::address::main()
}
