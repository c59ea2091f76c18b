//! Answers of name servers, as they come and as they should not.

use proptest::prelude::*;
use simple_dns::ResourceRecord;
use simple_dns::rdata::SRV;

use super::*;

const NAME: &str = "_etcd-client._tcp.example.com";

fn answer(asked: &Asked, records: &[(u16, u16, u16, &'static str)]) -> Packet<'static> {
    let mut packet = Packet::new_reply(asked.id);
    let name = Name::new(NAME).expect("a name");
    packet.questions.push(Question::new(name.clone(), TYPE::SRV.into(), CLASS::IN.into(), false));
    for &(priority, weight, port, target) in records {
        let service = SRV { priority, weight, port, target: Name::new(target).expect("a name") };
        packet.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, 60, RData::SRV(service)));
    }
    packet
}

fn read(asked: &Asked, packet: &Packet) -> Result<Answer, String> {
    asked.read(&packet.build_bytes_vec_compressed().expect("it can be written"))
}

#[test]
fn servers_come_in_the_order_of_their_priority_and_weight() {
    let asked = Asked::new(NAME).expect("a name");
    let records = [(20, 0, 1, "c.example.com"), (10, 1, 2, "a.example.com"), (10, 9, 3, "b.example.com")];
    let Ok(Answer::Services(services)) = read(&asked, &answer(&asked, &records)) else { panic!("an answer") };
    let order: Vec<_> = services.iter().map(|service| (service.host.as_str(), service.port)).collect();
    assert_eq!(order, [("b.example.com", 3), ("a.example.com", 2), ("c.example.com", 1)]);
}

#[test]
fn a_name_that_nobody_knows_has_no_servers_and_a_refusal_is_an_error() {
    let asked = Asked::new(NAME).expect("a name");
    let mut unknown = answer(&asked, &[]);
    *unknown.rcode_mut() = RCODE::NameError;
    assert_eq!(read(&asked, &unknown), Ok(Answer::Services(Vec::new())));
    let mut refused = answer(&asked, &[]);
    *refused.rcode_mut() = RCODE::Refused;
    assert_eq!(read(&asked, &refused), Err("refused: Refused".to_owned()));
    let mut cut = answer(&asked, &[]);
    cut.set_flags(PacketFlag::TRUNCATION);
    assert_eq!(read(&asked, &cut), Ok(Answer::Truncated));
}

#[test]
fn an_answer_to_another_question_is_none() {
    let asked = Asked::new(NAME).expect("a name");
    let other = Asked { id: asked.id.wrapping_add(1), ..Asked::new(NAME).expect("a name") };
    assert!(read(&asked, &answer(&other, &[])).is_err());
    let elsewhere = Asked { id: asked.id, ..Asked::new("_etcd._tcp.example.com").expect("a name") };
    assert!(read(&elsewhere, &answer(&asked, &[])).is_err());
    assert!(asked.read(&asked.bytes).is_err(), "our own question, sent back");
}

#[test]
fn name_servers_are_those_of_the_system() {
    let configuration =
        "# local\nsearch example.com\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver x\n";
    let named: Vec<String> = named_in(configuration).iter().map(ToString::to_string).collect();
    assert_eq!(named, ["10.0.0.53:53", "[fe80::1]:53"]);
    assert_eq!(named_in(""), ["127.0.0.1:53".parse().expect("an address")]);
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
        let asked = Asked::new(NAME).expect("a name");
        if known && bytes.len() > 2 {
            bytes[..2].copy_from_slice(&asked.id.to_be_bytes());
        }
        let _ = asked.read(&bytes);
    }

    #[test]
    fn no_spoiled_answer_makes_the_reader_panic(at in 0_usize..200, byte in any::<u8>()) {
        let asked = Asked::new(NAME).expect("a name");
        let packet = answer(&asked, &[(1, 2, 3, "a.example.com"), (1, 2, 3, "b.example.com")]);
        let mut bytes = packet.build_bytes_vec_compressed().expect("it can be written");
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = asked.read(&bytes);
    }
}
