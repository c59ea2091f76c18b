//! The one place that reads the boot clock. It runs on through a suspend, and nobody can set it.

use nix::time::{ClockId, clock_gettime};

use crate::model::Moment;

pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
    let ms = time.tv_sec().saturating_mul(1000) + time.tv_nsec() / 1_000_000;
    Moment::from_ms(u64::try_from(ms).expect("the boot clock starts at zero and only grows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_does_not_run_backwards() {
        let first = now();
        assert!(first <= now() && first.as_ms() > 0);
    }
}
