//! A stream of JSON objects, one behind the other, cut into objects.

use crate::invalid::{Invalid, invalid};

/// Bytes an object may have unless said otherwise. etcd takes 1.5 MiB for one, and a list has many.
pub const OBJECT_MAX: usize = 16 << 20;

/// Cuts a stream of JSON objects, as `kubectl get --watch -o json` prints it, into single ones.
///
/// It only finds their ends; what is between is for a JSON parser. After something that can't be an
/// object it goes on with the next `{` at the beginning of a line, so that one that was cut off does
/// not swallow those behind it: kubectl begins every object there, and nothing else.
///
/// [`push`](Self::push) what was read, then take [`next_object`](Self::next_object) until there is
/// none.
#[derive(Debug)]
pub struct ObjectStream {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were looked at.
    scanned: usize,
    max: usize,
    state: State,
    line_start: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Between objects.
    Between,
    /// Behind something wrong.
    Lost,
    /// In an object, which is all that the buffer has.
    Within { depth: usize },
    /// In one of its strings.
    Text { depth: usize, escaped: bool },
}

impl Default for ObjectStream {
    fn default() -> Self {
        Self::new(OBJECT_MAX)
    }
}

impl ObjectStream {
    /// For objects of at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { buffer: vec![], scanned: 0, max, state: State::Between, line_start: true }
    }

    /// More bytes.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole object; none until more is pushed.
    ///
    /// # Errors
    /// Once for each stretch of bytes that is no object; the stream goes on behind it.
    pub fn next_object(&mut self) -> Option<Result<Vec<u8>, Invalid>> {
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            let starts_line = std::mem::replace(&mut self.line_start, byte == b'\n');
            let found = self.step(byte, starts_line);
            if found.is_some() {
                return found;
            }
        }
        if matches!(self.state, State::Between | State::Lost) {
            self.forget();
        }
        None
    }

    /// The stream is over.
    ///
    /// # Errors
    /// If it ended within an object.
    pub fn finish(&mut self) -> Result<(), Invalid> {
        let within = !matches!(self.state, State::Between | State::Lost);
        *self = Self::new(self.max);
        if within { invalid("the stream of objects ended in the middle of one") } else { Ok(()) }
    }

    fn step(&mut self, byte: u8, starts_line: bool) -> Option<Result<Vec<u8>, Invalid>> {
        match (self.state, byte) {
            (State::Between, b'{') => {
                self.forget_before(self.scanned - 1);
                self.state = State::Within { depth: 1 };
            }
            (State::Lost, b'{') if starts_line => {
                self.forget_before(self.scanned - 1);
                self.state = State::Within { depth: 1 };
            }
            (State::Between, b' ' | b'\t' | b'\r' | b'\n') | (State::Lost, _) => {}
            (State::Between, _) => return Some(self.lose("something that is no object is between objects")),
            (State::Within { .. }, b'{') if starts_line => {
                self.forget_before(self.scanned - 1);
                self.state = State::Within { depth: 1 };
                return Some(invalid("an object was cut off: another one begins on the next line"));
            }
            (State::Within { depth }, b'{') => self.state = State::Within { depth: depth + 1 },
            (State::Within { depth: 1 }, b'}') => {
                let rest = self.buffer.split_off(self.scanned);
                let object = std::mem::replace(&mut self.buffer, rest);
                (self.scanned, self.state) = (0, State::Between);
                return Some(Ok(object));
            }
            (State::Within { depth }, b'}') => self.state = State::Within { depth: depth - 1 },
            (State::Within { depth }, b'"') => self.state = State::Text { depth, escaped: false },
            (State::Text { .. }, b'\n') => return Some(self.lose("a line ends in the middle of a string")),
            (State::Text { depth, escaped: false }, b'"') => self.state = State::Within { depth },
            (State::Text { depth, escaped }, _) => {
                self.state = State::Text { depth, escaped: byte == b'\\' && !escaped };
            }
            (State::Within { .. }, _) => {}
        }
        if self.scanned > self.max && !matches!(self.state, State::Between | State::Lost) {
            let max = self.max;
            return Some(self.lose(&format!("an object has more than the {max} bytes it may have")));
        }
        None
    }

    fn lose(&mut self, why: &str) -> Result<Vec<u8>, Invalid> {
        self.state = State::Lost;
        self.forget();
        invalid(format!("{why}; reading goes on with the next line that begins with '{{'"))
    }

    /// Drops what was looked at.
    fn forget(&mut self) {
        self.forget_before(self.scanned);
    }

    fn forget_before(&mut self, at: usize) {
        self.buffer.drain(..at);
        self.scanned -= at;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(64 << 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(stream: &mut ObjectStream, text: &str, chunk: usize) -> Vec<Result<String, String>> {
        let mut found = vec![];
        for part in text.as_bytes().chunks(chunk) {
            stream.push(part);
            while let Some(object) = stream.next_object() {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
                found.push(object.map(text).map_err(|error| error.to_string()));
            }
        }
        found
    }

    #[test]
    fn whole_objects_in_any_pieces() {
        let objects = ["{}", r#"{"a":{"b":"}{\"\\"}}"#, "{\n    \"x\": [\n        {\n        }\n    ]\n}"];
        let text = format!(" {}{}\n{}\n", objects[0], objects[1], objects[2]);
        for chunk in 1..text.len() {
            let found = cut(&mut ObjectStream::default(), &text, chunk);
            assert_eq!(found, objects.map(|object| Ok(object.to_owned())), "chunks of {chunk}");
        }
    }

    #[test]
    fn after_garbage_the_next_object_is_found_and_one_error_told() {
        for (garbage, says) in [
            ("Error from server\nmore {of} it\n", "no object is between"),
            ("{\"cut\": {\"off\": 1\n", "cut off"),
            ("{\"cut\": \"o\n", "middle of a string"),
            ("]]\n", "no object is between"),
        ] {
            let found = cut(&mut ObjectStream::default(), &format!("{garbage}{{\"n\":1}}\n"), 3);
            assert_eq!(found.len(), 2, "{found:?}");
            let error = found[0].as_ref().expect_err("garbage first");
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
            assert_eq!(found[1], Ok("{\"n\":1}".into()));
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut stream = ObjectStream::new(1000);
        let found = cut(&mut stream, &format!("{{\"x\":\"{}\"}}\n{{}}\n", "y".repeat(5000)), 100);
        assert!(found[0].as_ref().expect_err("too long").contains("more than the 1000 bytes"));
        assert_eq!(found[1], Ok("{}".into()));
        assert_eq!(found.len(), 2);
        for _ in 0..1000 {
            cut(&mut stream, &"z".repeat(1000), 1000);
            assert!(stream.buffer.len() <= 2000);
        }
        stream.push(b"\n{");
        assert!(stream.next_object().is_none() && stream.finish().is_err());
        assert_eq!(stream.finish(), Ok(()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_valid_objects_come_out(
            data in prop::collection::vec(prop::sample::select(b"{}[]\"\\\n :,a1".to_vec()), 0..200),
            chunk in 1..50_usize,
        ) {
            let mut stream = ObjectStream::new(100);
            for part in data.chunks(chunk) {
                stream.push(part);
                while let Some(object) = stream.next_object() {
                    if let Ok(object) = object {
                        let is_object = object.starts_with(b"{") && object.ends_with(b"}");
                        prop_assert!(is_object && object.len() <= 100);
                    }
                }
                prop_assert!(stream.buffer.len() <= 100 + 50);
            }
        }
    }
}
