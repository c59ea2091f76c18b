//! How servers of one store share the time that a question may take.

use std::time::Duration;

/// Less than this is no chance to answer at all.
const SHARE_MIN: Duration = Duration::from_millis(300);

/// What the server asked now gets of the time left, so that something is left for the others, and for a second try on a
/// new connection if there are no others.
pub(super) fn share(left: Duration, servers_left: usize) -> Duration {
    let parts = u32::try_from(servers_left.max(2)).unwrap_or(u32::MAX);
    (left / parts).max(SHARE_MIN).min(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_gets_the_whole_deadline() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(3), 3), seconds(1));
        assert_eq!(share(seconds(2), 2), seconds(1));
        assert_eq!(share(seconds(2), 1), seconds(1));
        assert_eq!(share(Duration::from_millis(400), 3), SHARE_MIN);
        assert_eq!(share(Duration::from_millis(100), 1), Duration::from_millis(100));
    }
}
