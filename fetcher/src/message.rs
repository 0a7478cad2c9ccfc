//! Messages of apt's acquire methods (APT Method Interface): a line with a number, fields, an empty line.

use std::io::{self, BufRead};

/// Most bytes of one message: a 601 carries apt's whole configuration, about 40 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The number and its words, for example `600 URI Acquire`.
    pub head: String,
    /// The fields in order.
    pub fields: Vec<(String, String)>,
}

impl Message {
    /// A message.
    pub fn new(head: &str, fields: &[(&str, &str)]) -> Self {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Self { head: head.to_owned(), fields: fields.iter().map(own).collect() }
    }

    /// Its number; 0 when it has none.
    pub fn code(&self) -> u32 {
        self.head.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// A field.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Sets a field that is there already, or adds it.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.fields.iter_mut().find(|(k, _)| k.eq_ignore_ascii_case(name)) {
            Some((_, v)) => value.clone_into(v),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The message as apt writes it.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.head);
        for (k, v) in &self.fields {
            text.push_str(&format!("{k}: {v}\n"));
        }
        text.push('\n');
        text
    }

    /// Reads one; `None` at the end.
    pub fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines: Vec<String> = Vec::new();
        let mut size = 0;
        loop {
            let mut line = Vec::new();
            let n = io::Read::take(&mut *input, MAX_MESSAGE as u64).read_until(b'\n', &mut line)?;
            size += n;
            if n == 0 {
                return if lines.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if size > MAX_MESSAGE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
            }
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            match (text.is_empty(), lines.is_empty()) {
                (true, true) => {}
                (true, false) => return Ok(Some(Self::from_lines(lines))),
                (false, _) => lines.push(text),
            }
        }
    }

    fn from_lines(lines: Vec<String>) -> Self {
        let mut lines = lines.into_iter();
        let head = lines.next().unwrap_or_default();
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines {
            match (line.starts_with([' ', '\t']), line.split_once(':'), fields.last_mut()) {
                // A continued field stays one line for who reads it.
                (true, _, Some((_, value))) => {
                    value.push(' ');
                    value.push_str(line.trim());
                }
                (_, Some((k, v)), _) => fields.push((k.to_owned(), v.trim().to_owned())),
                _ => {}
            }
        }
        Self { head, fields }
    }
}

/// Whether a field is a checksum that a method claims. apt believes them without looking at the file, so what a
/// process with a network claims never reaches it: without them apt computes its own.
pub fn is_claimed_hash(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("-hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_and_print() {
        let text = "600 URI Acquire\nURI: http://a/b\nFilename: /x/y\n\n";
        let m = Message::read(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!((m.code(), m.get("filename"), m.to_text().as_str()), (600, Some("/x/y"), text));
        assert_eq!(Message::read(&mut &b""[..]).unwrap(), None);
        assert!(Message::read(&mut &b"600 URI\nURI: x"[..]).is_err());
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let endless = vec![b'a'; MAX_MESSAGE + 10];
        assert!(Message::read(&mut endless.as_slice()).is_err());
    }
}
