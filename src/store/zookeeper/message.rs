//! What is said to a ZooKeeper server and what it answers: the few requests of the protocol that a store needs. They are the
//! same from ZooKeeper 3.4 to 3.9.

use super::jute::{Malformed, Reader, Writer};
use crate::model::SessionId;
use crate::store::kv::Entry;

/// Who may do what with a znode that we create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    pub permissions: i32,
    pub scheme: String,
    pub id: String,
}

/// Versions are those of a znode's data; `ANY_VERSION` matches all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// One that is ephemeral goes away with the session that asks.
    Create {
        path: String,
        data: Vec<u8>,
        ephemeral: bool,
    },
    Delete {
        path: String,
        version: i32,
    },
    Exists {
        path: String,
        watch: bool,
    },
    Data {
        path: String,
        watch: bool,
    },
    SetData {
        path: String,
        data: Vec<u8>,
        version: i32,
    },
    Children {
        path: String,
        watch: bool,
    },
    Check {
        path: String,
        version: i32,
    },
    /// All or nothing.
    Multi(Vec<Request>),
    /// What is asked after this is answered no older than the leader of the servers knows it now.
    Sync {
        path: String,
    },
    CloseSession,
}

pub(super) const ANY_VERSION: i32 = -1;

/// Numbers of requests that are not counted up: the server's own news, and the answer to credentials.
pub(super) const XID_EVENT: i32 = -1;
pub(super) const XID_AUTH: i32 = -4;

/// A request's number in the protocol.
mod op {
    pub const ERROR: i32 = -1;
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const SYNC: i32 = 9;
    pub const GET_CHILDREN: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const AUTH: i32 = 100;
    pub const CLOSE: i32 = -11;
}

const EPHEMERAL: i32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoNode,
    NoAuth,
    BadVersion,
    NodeExists,
    NotEmpty,
    SessionExpired,
    InvalidAcl,
    AuthFailed,
    /// The request will never be understood.
    BadRequest(i32),
    Other(i32),
}

/// The head of every answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The last change that the server knew when it answered; of a write, its own.
    pub zxid: i64,
    pub code: Option<Code>,
    pub body: Vec<u8>,
}

/// What is known of a znode besides its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub created: i64,
    pub modified: i64,
    pub version: i32,
    pub owner: i64,
    pub children: i32,
}

/// What a server says to a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub timeout_ms: i32,
    pub session: i64,
    pub password: Vec<u8>,
}

/// The first thing that a client says: `session` 0 asks for a new one. A server that has seen less than `seen` hangs up.
pub(super) fn greeting(seen: i64, timeout_ms: i32, session: i64, password: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.int(0);
    writer.long(seen);
    writer.int(timeout_ms);
    writer.long(session);
    writer.buffer(password);
    // A server without a majority would answer from what it knows; we want none of that.
    writer.flag(false);
    writer.framed()
}

pub(super) fn credentials(scheme: &str, credential: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.int(XID_AUTH);
    writer.int(op::AUTH);
    writer.int(0);
    writer.text(scheme);
    writer.text(credential);
    writer.framed()
}

impl Welcome {
    pub(super) fn read(bytes: &[u8]) -> Result<Welcome, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.int()?;
        Ok(Welcome {
            timeout_ms: reader.int()?,
            session: reader.long()?,
            password: reader.buffer()?.to_vec(),
        })
    }
}

impl Request {
    pub(super) fn spelled(&self, xid: i32, acl: &[Acl]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.int(xid);
        writer.int(self.op());
        self.body(&mut writer, acl);
        writer.framed()
    }

    fn op(&self) -> i32 {
        match self {
            Request::Create { .. } => op::CREATE,
            Request::Delete { .. } => op::DELETE,
            Request::Exists { .. } => op::EXISTS,
            Request::Data { .. } => op::GET_DATA,
            Request::SetData { .. } => op::SET_DATA,
            Request::Children { .. } => op::GET_CHILDREN,
            Request::Check { .. } => op::CHECK,
            Request::Multi(_) => op::MULTI,
            Request::Sync { .. } => op::SYNC,
            Request::CloseSession => op::CLOSE,
        }
    }

    fn body(&self, writer: &mut Writer, acl: &[Acl]) {
        match self {
            Request::Create { path, data, ephemeral } => {
                writer.text(path);
                writer.buffer(data);
                writer.int(i32::try_from(acl.len()).expect("a few entries"));
                for Acl { permissions, scheme, id } in acl {
                    writer.int(*permissions);
                    writer.text(scheme);
                    writer.text(id);
                }
                writer.int(if *ephemeral { EPHEMERAL } else { 0 });
            }
            Request::Delete { path, version } | Request::Check { path, version } => {
                writer.text(path);
                writer.int(*version);
            }
            Request::Exists { path, watch }
            | Request::Data { path, watch }
            | Request::Children { path, watch } => {
                writer.text(path);
                writer.flag(*watch);
            }
            Request::SetData { path, data, version } => {
                writer.text(path);
                writer.buffer(data);
                writer.int(*version);
            }
            Request::Multi(requests) => {
                let head = |writer: &mut Writer, op: i32, last: bool| {
                    writer.int(op);
                    writer.flag(last);
                    writer.int(-1);
                };
                for request in requests {
                    head(writer, request.op(), false);
                    request.body(writer, acl);
                }
                head(writer, op::ERROR, true);
            }
            Request::Sync { path } => writer.text(path),
            Request::CloseSession => {}
        }
    }
}

impl Reply {
    /// With the number of the request that it answers.
    pub(super) fn read(bytes: &[u8]) -> Result<(i32, Reply), Malformed> {
        const HEAD: usize = 16;
        let mut reader = Reader::new(bytes);
        let (xid, zxid, code) = (reader.int()?, reader.long()?, reader.int()?);
        let body = bytes.get(HEAD..).ok_or(Malformed)?.to_vec();
        Ok((xid, Reply { zxid, code: Code::of(code), body }))
    }

    pub(super) fn data(&self) -> Result<(Vec<u8>, Stat), Malformed> {
        let mut reader = Reader::new(&self.body);
        Ok((reader.buffer()?.to_vec(), Stat::read(&mut reader)?))
    }

    pub(super) fn children(&self) -> Result<Vec<String>, Malformed> {
        Reader::new(&self.body).texts()
    }

    /// Why a `Multi` was not carried out, if it was not.
    pub(super) fn multi_failure(&self) -> Result<Option<Code>, Malformed> {
        /// What those after the one that failed are told.
        const NOT_TRIED: Code = Code::Other(-2);
        if self.code.is_some() {
            return Ok(self.code);
        }
        let mut reader = Reader::new(&self.body);
        let mut failure = None;
        loop {
            let (op, last, _) = (reader.int()?, reader.flag()?, reader.int()?);
            if last {
                return Ok(failure);
            }
            match op {
                op::CREATE => drop(reader.text()?),
                op::SET_DATA => drop(Stat::read(&mut reader)?),
                op::DELETE | op::CHECK => {}
                op::ERROR => {
                    let code = Code::of(reader.int()?).filter(|code| *code != NOT_TRIED);
                    failure = failure.or(code);
                }
                _ => return Err(Malformed),
            }
        }
    }
}

impl Stat {
    fn read(reader: &mut Reader<'_>) -> Result<Stat, Malformed> {
        let (created, modified) = (reader.long()?, reader.long()?);
        let (_created_at, _modified_at) = (reader.long()?, reader.long()?);
        let version = reader.int()?;
        let (_children_version, _acl_version) = (reader.int()?, reader.int()?);
        let owner = reader.long()?;
        let (_length, children, _children_changed) = (reader.int()?, reader.int()?, reader.long()?);
        Ok(Stat { created, modified, version, owner, children })
    }

    pub(super) fn entry(&self, path: &str, value: Vec<u8>) -> Entry {
        Entry {
            path: path.to_owned(),
            value,
            created: self.created,
            version: self.modified,
            session: (self.owner != 0).then_some(SessionId(self.owner)),
        }
    }
}

impl Code {
    fn of(number: i32) -> Option<Code> {
        Some(match number {
            0 => return None,
            -101 => Code::NoNode,
            -102 => Code::NoAuth,
            -103 => Code::BadVersion,
            -110 => Code::NodeExists,
            -111 => Code::NotEmpty,
            -112 => Code::SessionExpired,
            -114 => Code::InvalidAcl,
            -115 => Code::AuthFailed,
            -5 | -6 | -8 => Code::BadRequest(number),
            other => Code::Other(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Six long numbers and five short ones.
    const STAT_SIZE: usize = 6 * 8 + 5 * 4;

    fn multi_answer(parts: &[(i32, i32)]) -> Reply {
        let mut writer = Writer::default();
        for (op, code) in parts {
            writer.int(*op);
            writer.flag(false);
            writer.int(*code);
            match *op {
                op::ERROR => writer.int(*code),
                op::CREATE => writer.text("/somewhere"),
                op::SET_DATA => (0..STAT_SIZE).for_each(|_| writer.flag(false)),
                _ => {}
            }
        }
        writer.int(op::ERROR);
        writer.flag(true);
        writer.int(-1);
        let body = writer.framed().split_off(4);
        Reply { zxid: 7, code: None, body }
    }

    #[test]
    fn a_multi_that_failed_says_which_part_was_to_blame() {
        let failed = multi_answer(&[(op::ERROR, 0), (op::ERROR, -103), (op::ERROR, -2)]);
        assert_eq!(failed.multi_failure(), Ok(Some(Code::BadVersion)));
        let done = multi_answer(&[(op::CHECK, 0), (op::SET_DATA, 0), (op::CREATE, 0), (op::DELETE, 0)]);
        assert_eq!(done.multi_failure(), Ok(None));
        let cut = Reply { body: done.body[..12].to_vec(), ..done };
        assert_eq!(cut.multi_failure(), Err(Malformed));
    }

    #[test]
    fn a_greeting_has_the_length_that_servers_of_every_version_expect() {
        let frame = greeting(3, 10_000, 0, &[0; 16]);
        assert_eq!(frame.len(), 4 + 4 + 8 + 4 + 8 + 4 + 16 + 1);
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = Welcome::read(&bytes);
            if let Ok((_, reply)) = Reply::read(&bytes) {
                let _ = (reply.data(), reply.children(), reply.multi_failure());
            }
        }
    }
}
