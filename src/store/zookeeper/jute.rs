//! ZooKeeper's own encoding: numbers of fixed size, and text and lists with their length in front. What comes from a server
//! is checked at every step: a length that lies is an error, never a large allocation.

use std::fmt;

/// An answer that is not what the protocol says. The connection is of no use after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'bytes>(&'bytes [u8]);

impl Writer {
    pub(super) fn int(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn long(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn flag(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    pub(super) fn buffer(&mut self, value: &[u8]) {
        self.int(i32::try_from(value.len()).expect("nothing that we write comes near 2 GiB"));
        self.0.extend(value);
    }

    pub(super) fn text(&mut self, value: &str) {
        self.buffer(value.as_bytes());
    }

    /// With the length in front, as it goes over the wire.
    pub(super) fn framed(self) -> Vec<u8> {
        let mut frame = Writer::default();
        frame.buffer(&self.0);
        frame.0
    }
}

impl<'bytes> Reader<'bytes> {
    pub(super) fn new(bytes: &'bytes [u8]) -> Reader<'bytes> {
        Reader(bytes)
    }

    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        self.array().map(|[byte]| byte != 0)
    }

    /// Nothing at all is written as the length -1, and means the same to us as an empty one.
    pub(super) fn buffer(&mut self) -> Result<&'bytes [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'bytes str, Malformed> {
        std::str::from_utf8(self.buffer()?).map_err(|_| Malformed)
    }

    pub(super) fn texts(&mut self) -> Result<Vec<String>, Malformed> {
        let count = self.int()?.max(0);
        (0..count).map(|_| self.text().map(str::to_owned)).collect()
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], Malformed> {
        self.take(SIZE)?.try_into().map_err(|_| Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'bytes [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer that is not ZooKeeper's protocol")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.int(-2);
        writer.long(i64::MIN);
        writer.flag(true);
        writer.text("turku");
        writer.buffer(&[0, 255]);
        let frame = writer.framed();
        let mut framed = Reader::new(&frame);
        let mut reader = Reader::new(framed.buffer().expect("a frame is a buffer"));
        assert_eq!((reader.int(), reader.long(), reader.flag()), (Ok(-2), Ok(i64::MIN), Ok(true)));
        assert_eq!((reader.text(), reader.buffer()), (Ok("turku"), Ok(&[0, 255][..])));
        assert_eq!(reader.flag(), Err(Malformed));
    }

    proptest! {
        #[test]
        fn a_length_that_lies_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Reader::new(&bytes).texts();
            let _ = Reader::new(&bytes).text();
            prop_assert!(Reader::new(&[127, 255, 255, 255, 1]).buffer().is_err());
            prop_assert!(Reader::new(&[127, 255, 255, 255]).texts().is_err());
        }
    }
}
