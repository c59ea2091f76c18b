//! Reading a part of the tree as of one moment. ZooKeeper answers znode by znode, so a reading is believed only if nothing has
//! changed while it was made: either the server says that it knew of no change at all, or a second reading is the same as the
//! first.

use std::collections::BTreeMap;

use super::connection::Connection;
use super::fault::Fault;
use super::message::{Code, Reply, Request};
use crate::store::kv::{Entry, Reading, StoreId};

/// How often others may interfere.
const CHANGES_MAX: usize = 20;
/// Deeper and larger than any cluster of ours or Patroni's: what is beyond is not for us.
const DEPTH_MAX: usize = 4;
const ZNODES_MAX: usize = 20_000;

/// Does the server tell when something that was read changes?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watching {
    Yes,
    No,
}

/// A znode as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Znode {
    pub entry: Entry,
    /// Counts the writes of its data since it was made: what checks compare.
    pub version: i32,
}

struct Sweep {
    entries: BTreeMap<String, Entry>,
    /// The last change that the server knew at the beginning, and at the end.
    from: i64,
    to: i64,
}

/// Everything below `path`, which ends with a slash and lies at `place`.
pub(super) async fn below(
    connection: &Connection,
    path: &str,
    place: &str,
    watching: Watching,
) -> Result<Reading, Fault> {
    let mut last: Option<BTreeMap<String, Entry>> = None;
    for _ in 0..CHANGES_MAX {
        let Some(sweep) = sweep(connection, path, place, watching).await? else {
            last = None;
            continue;
        };
        // A znode that was there twice in the same version was there all the time between, and what else was there has gone
        // before the second reading looked.
        if sweep.from == sweep.to || last.as_ref() == Some(&sweep.entries) {
            let entries = sweep.entries.into_values().collect();
            return Ok(Reading { store: StoreId::default(), revision: sweep.from, entries });
        }
        last = Some(sweep.entries);
    }
    Err(Fault::unanswered("the cluster's znodes change faster than they can be read"))
}

/// One walk through the tree, level by level. Nothing if something vanished under way.
async fn sweep(
    connection: &Connection,
    path: &str,
    place: &str,
    watching: Watching,
) -> Result<Option<Sweep>, Fault> {
    let watch = watching == Watching::Yes;
    let sync = connection.send(Request::Sync { path: place.to_owned() })?;
    let presence = connection.send(Request::Exists { path: place.to_owned(), watch })?;
    if let Some(code) = sync.answer().await?.code {
        return Err(Fault::of(code));
    }
    let presence = presence.answer().await?;
    let (from, mut to) = (presence.zxid, presence.zxid);
    let mut entries = BTreeMap::new();
    // The prefix without its slash: everything of ours is written behind it.
    let mut level = match presence.code {
        None => vec![(path.trim_end_matches('/').to_owned(), place.trim_end_matches('/').to_owned())],
        Some(Code::NoNode) => Vec::new(),
        Some(code) => return Err(Fault::of(code)),
    };
    for _ in 0..DEPTH_MAX {
        let mut found = Vec::new();
        let ask = |place: &str| {
            let path = if place.is_empty() { "/" } else { place };
            Request::Children { path: path.to_owned(), watch }
        };
        let replies = connection.ask_all(level.iter().map(|(_, place)| ask(place)).collect()).await?;
        for ((path, place), reply) in level.iter().zip(replies) {
            to = reply.zxid;
            if vanished(&reply)? {
                return Ok(None);
            }
            let children = reply.children()?;
            found.extend(
                children.into_iter().map(|name| (format!("{path}/{name}"), format!("{place}/{name}"))),
            );
        }
        if ZNODES_MAX < entries.len() + found.len() {
            return Err(Fault::Refused(format!("there are more than {ZNODES_MAX} znodes below {place}")));
        }
        level.clear();
        let ask = |place: &String| Request::Data { path: place.clone(), watch };
        let replies = connection.ask_all(found.iter().map(|(_, place)| ask(place)).collect()).await?;
        for ((path, place), reply) in found.into_iter().zip(replies) {
            to = reply.zxid;
            if vanished(&reply)? {
                return Ok(None);
            }
            let (data, stat) = reply.data()?;
            entries.insert(path.clone(), stat.entry(&path, data));
            if 0 < stat.children {
                level.push((path, place));
            }
        }
        if level.is_empty() {
            break;
        }
    }
    Ok(Some(Sweep { entries, from, to }))
}

/// A few znodes, each no older than the call. They may be of different moments: whoever writes upon them checks the versions.
pub(super) async fn at(
    connection: &Connection,
    paths: &[(String, String)],
) -> Result<(BTreeMap<String, Znode>, i64), Fault> {
    let Some((_, first)) = paths.first() else { return Ok((BTreeMap::new(), 0)) };
    let sync = Request::Sync { path: first.clone() };
    let ask = |(_, place): &(String, String)| Request::Data { path: place.clone(), watch: false };
    let questions = std::iter::once(sync).chain(paths.iter().map(ask));
    let mut replies = connection.ask_all(questions.collect()).await?.into_iter();
    if let Some(code) = replies.next().and_then(|synced| synced.code) {
        return Err(Fault::of(code));
    }
    let (mut znodes, mut zxid) = (BTreeMap::new(), 0);
    for ((path, _), reply) in paths.iter().zip(replies) {
        zxid = reply.zxid;
        if !vanished(&reply)? {
            let (data, stat) = reply.data()?;
            znodes.insert(path.clone(), Znode { entry: stat.entry(path, data), version: stat.version });
        }
    }
    Ok((znodes, zxid))
}

fn vanished(reply: &Reply) -> Result<bool, Fault> {
    match reply.code {
        None => Ok(false),
        Some(Code::NoNode) => Ok(true),
        Some(code) => Err(Fault::of(code)),
    }
}
