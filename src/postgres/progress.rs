//! What pg_basebackup says of its progress while it copies.

use tokio::sync::watch;

use crate::clock;
use crate::model::{Copying, Moment};

/// Where a copy tells how far it has come; nothing where nobody copies.
pub type Gauge = watch::Sender<Option<Copying>>;

/// Reads the lines of one pg_basebackup. Dropped, nothing is being copied any more.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    gauge: &'a Gauge,
    begun_at: Moment,
}

impl Reader<'_> {
    pub fn begin(gauge: &Gauge) -> Reader<'_> {
        let begun_at = clock::now();
        gauge.send_replace(Some(Copying { begun_at, told_at: begun_at, copied: 0, whole: None }));
        Reader { gauge, begun_at }
    }

    /// Was it a line about progress? Then it is nothing for an error message.
    pub fn hear(&mut self, line: &str) -> bool {
        let Some((copied, whole)) = parse(line) else { return false };
        let told_at = clock::now();
        self.gauge.send_replace(Some(Copying { begun_at: self.begun_at, told_at, copied, whole }));
        true
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.gauge.send_replace(None);
    }
}

/// `24570/98321 kB (24%), 0/1 tablespace`, or without an estimate `24570 kB, 0/1 tablespace`. In bytes.
fn parse(line: &str) -> Option<(u64, Option<u64>)> {
    let (amounts, rest) = line.trim().split_once(" kB")?;
    if !rest.contains("tablespace") {
        return None;
    }
    let bytes = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1024);
    match amounts.split_once('/') {
        Some((copied, whole)) => Some((bytes(copied)?, Some(bytes(whole)?).filter(|whole| 0 < *whole))),
        None => Some((bytes(amounts)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_progress_are_told_from_others() {
        let check = |line: &str, wanted| assert_eq!(parse(line), wanted, "{line}");
        check("    0/98321 kB (0%), 0/1 tablespace", Some((0, Some(98_321 << 10))));
        check(
            "24570/98321 kB (24%), 0/1 tablespace (/data/base/1/2)",
            Some((24_570 << 10, Some(98_321 << 10))),
        );
        check(
            "24570/98321 kB (100%), 1/1 tablespace                                  ",
            Some((24_570 << 10, Some(98_321 << 10))),
        );
        check("24570 kB, 0/1 tablespace", Some((24_570 << 10, None)));
        check("24570/0 kB, 0/2 tablespaces", Some((24_570 << 10, None)));
        check("pg_basebackup: error: could not write 12 kB", None);
        check("99999999999999999999/1 kB (0%), 0/1 tablespace", None);
        check("waiting for checkpoint", None);
    }

    #[test]
    fn a_copy_that_has_ended_is_not_told_any_more() {
        let (gauge, told) = watch::channel(None);
        let mut reader = Reader::begin(&gauge);
        assert_eq!(told.borrow().map(|copying| copying.copied), Some(0));
        assert!(reader.hear("1024/2048 kB (50%), 0/1 tablespace"));
        assert_eq!(told.borrow().and_then(|copying| copying.percent()), Some(50));
        assert!(!reader.hear("something else"));
        drop(reader);
        assert_eq!(*told.borrow(), None);
    }
}
