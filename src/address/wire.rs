//! What goes between an agent and the holder of its virtual addresses: one datagram of JSON there, one back.

use serde::{Deserialize, Serialize};

use crate::model::{AddressStanding, Until};

/// A holder that reads another version refuses.
pub const VERSION: u32 = 1;

/// Why something failed, at its longest.
pub const FAILURE_MAX: usize = 200;

/// Longer ones are refused unread. Enough for the answer about all addresses that may be configured.
pub const DATAGRAM_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Away,
    Ask,
    Extend { until: Until },
    Hold { until: Until },
    Status,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Question {
    version: u32,
    request: Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    pub addresses: Vec<AddressStanding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not one of our words, or too long.
    Malformed,
    Version,
    /// The moment has passed already.
    Past,
}

impl Request {
    pub fn write(self) -> Vec<u8> {
        serde_json::to_vec(&Question { version: VERSION, request: self }).unwrap_or_default()
    }

    pub fn parse(datagram: &[u8]) -> Result<Request, Refusal> {
        // The version first: what another one asks may have a form that is not known here.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(datagram).map_err(|_| Refusal::Malformed)?;
        if version != VERSION {
            return Err(Refusal::Version);
        }
        let question: Question = serde_json::from_slice(datagram).map_err(|_| Refusal::Malformed)?;
        Ok(question.request)
    }
}

impl Answer {
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn parse(datagram: &[u8]) -> Option<Answer> {
        serde_json::from_slice(datagram).ok().filter(|answer: &Answer| answer.version == VERSION)
    }
}

impl Refusal {
    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::Malformed => "it does not understand this",
            Refusal::Version => "it speaks another version",
            Refusal::Past => "the deadline has passed already",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Moment, VirtualAddress};

    #[test]
    fn what_is_asked_is_what_is_heard() {
        let until = Until::Moment(Moment::from_ms(4_711));
        for request in [
            Request::Away,
            Request::Ask,
            Request::Extend { until },
            Request::Hold { until: Until::Revoked },
            Request::Status,
        ] {
            assert_eq!(Request::parse(&request.write()), Ok(request));
        }
        let text = r#"{"version":1,"request":{"hold":{"until":{"moment":4711}}}}"#;
        assert_eq!(Request::parse(text.as_bytes()), Ok(Request::Hold { until }));
        let later = br#"{"version":2,"request":{"dance":{}}}"#;
        assert_eq!(Request::parse(later), Err(Refusal::Version));
        assert_eq!(Request::parse(b"hold"), Err(Refusal::Malformed));
    }

    #[test]
    fn an_answer_about_as_many_addresses_as_may_be_configured_fits() {
        let standing = AddressStanding {
            address: "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128 dev interface-12345".parse().expect("one"),
            held: true,
            duplicate: Some("ff:ff:ff:ff:ff:ff".to_owned()),
            failure: Some("x".repeat(FAILURE_MAX)),
        };
        let addresses = vec![standing; VirtualAddress::COUNT_MAX];
        let answer = Answer { version: VERSION, refused: Some(Refusal::Past), addresses };
        let written = answer.write();
        assert!(written.len() < DATAGRAM_MAX, "{}", written.len());
        assert_eq!(Answer::parse(&written), Some(answer));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Request::parse(&bytes), Answer::parse(&bytes));
        }
    }
}
