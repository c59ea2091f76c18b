//! Answers that members' positions are compared by begin with a look at PostgreSQL, and do not wait for ever for one.

use super::*;

/// What the agent knew before it was asked.
fn older() -> Standing {
    let mut standing = standby();
    standing.view.looked_at = Moment::from_ms(4_000);
    standing
}

#[tokio::test]
async fn what_is_compared_is_looked_at_first() {
    for path in ["/patroni", "/view"] {
        let mut server = Server::plain(older()).await;
        let asked = server.connect(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        let wish = server.wishes.wait_for(|since| NOW <= *since);
        let wished = timeout(DEADLINE, wish).await;
        wished.unwrap_or_else(|_| panic!("{path} asks for no look")).expect("the server runs");
        server.standings.send_modify(|standing| {
            let view = &mut Arc::make_mut(standing).view;
            view.looked_at = NOW;
            if let Postgres::Running(running) = &mut view.postgres {
                running.version = 150_099;
            }
        });
        let answer = rest(asked).await;
        assert!(answer.contains("150099"), "{path} tells of a look before the question: {answer}");
        server.end().await;
    }
}

#[tokio::test]
async fn whoever_is_content_with_an_older_look_is_told_how_old_it_is() {
    let server = Server::plain(older()).await;
    let ago = NOW.since(Moment::from_ms(4_000)).as_ms();
    let ask = |within: u64| format!("GET /patroni?looked_within_ms={within} HTTP/1.0\r\n\r\n");
    let answer = server.raw(&ask(ago)).await;
    assert!(answer.contains(&format!(r#""stale": true, "looked_ms_ago": {ago}"#)), "{answer}");
    assert!(!server.wishes.has_changed().expect("the server runs"), "an old look was enough");
    server.raw(&ask(ago - 1)).await;
    assert!(server.wishes.has_changed().expect("the server runs"), "that look was too old");
    server.end().await;
}

#[tokio::test]
async fn a_look_that_does_not_come_is_not_waited_for_for_long() {
    let server = Server::plain(older()).await;
    for path in ["/patroni", "/view"] {
        assert_eq!(server.code(&format!("GET {path} HTTP/1.0\r\n\r\n")).await, "200");
    }
    server.end().await;
}
