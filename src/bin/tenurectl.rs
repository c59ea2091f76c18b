//! The operator's command. What it does is `tenure::ctl`'s business.

fn main() -> std::process::ExitCode {
    tenure::ctl::main()
}
