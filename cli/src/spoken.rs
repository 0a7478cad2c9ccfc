//! What applications say, on our own output: as it is into a file or a pipe; on a terminal without what would steer it, since
//! an application is not to be trusted with the terminal of whoever reads its log.

use std::io::{self, IsTerminal, Write};

use gtvp_model::stream::StreamKind;

/// Longest sequence of a colour that is passed on, bytes.
const MAX_SEQUENCE: usize = 32;

/// Whether a character may change what a terminal does, or in which order it shows what follows.
pub fn steers(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// To our own standard output or error, whatever it is.
pub fn pass_on(kind: StreamKind, bytes: &[u8]) -> io::Result<()> {
    match kind {
        StreamKind::Stderr => io::stderr().lock().write_all(bytes),
        _ => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
    }
}

/// Both streams of an application.
pub struct Spoken {
    out: Option<Filter>,
    err: Option<Filter>,
}

impl Spoken {
    /// For the standard output and error that we have.
    pub fn new() -> Self {
        let of = |is_terminal: bool| is_terminal.then(Filter::default);
        Self { out: of(io::stdout().is_terminal()), err: of(io::stderr().is_terminal()) }
    }

    /// Says the next bytes of a stream.
    pub fn say(&mut self, kind: StreamKind, bytes: &[u8]) -> io::Result<()> {
        let filter = if kind == StreamKind::Stderr { &mut self.err } else { &mut self.out };
        match filter {
            Some(filter) => pass_on(kind, filter.take(bytes).as_bytes()),
            None => pass_on(kind, bytes),
        }
    }
}

impl Drop for Spoken {
    /// A colour does not outlive who chose it.
    fn drop(&mut self) {
        for (filter, kind) in [(&self.out, StreamKind::Stdout), (&self.err, StreamKind::Stderr)] {
            if filter.as_ref().is_some_and(|f| f.coloured) {
                // Nobody is left to be told.
                let _ = pass_on(kind, b"\x1b[0m");
            }
        }
    }
}

/// Text for a terminal: colours (ECMA-48 SGR) pass, `\r` too, other controls are made visible.
#[derive(Default)]
struct Filter {
    /// Bytes of a character that has not come whole.
    part: Vec<u8>,
    /// A control sequence that has not come whole.
    sequence: String,
    coloured: bool,
}

impl Filter {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.part.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.part);
        let mut out = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text, None),
                Err(e) => {
                    let valid = rest.get(..e.valid_up_to()).and_then(|v| std::str::from_utf8(v).ok());
                    (valid.unwrap_or_default(), Some(e.error_len()))
                }
            };
            valid.chars().for_each(|c| self.character(c, &mut out));
            rest = rest.get(valid.len()..).unwrap_or_default();
            match bad {
                Some(Some(len)) => {
                    self.character(char::REPLACEMENT_CHARACTER, &mut out);
                    rest = rest.get(len..).unwrap_or_default();
                }
                Some(None) => {
                    self.part = rest.to_vec();
                    break;
                }
                None => {}
            }
        }
        out
    }

    fn character(&mut self, c: char, out: &mut String) {
        if self.sequence.is_empty() {
            return match c {
                '\x1b' => self.sequence.push(c),
                '\r' => out.push(c),
                c if steers(c) => visible(c, out),
                c => out.push(c),
            };
        }
        self.sequence.push(c);
        let parameters = self.sequence.strip_prefix("\x1b[");
        let goes_on = |p: &str| p.chars().all(|c| matches!(c, '0'..='9' | ';' | ':'));
        match parameters {
            Some(p) if p.strip_suffix('m').is_some_and(goes_on) => {
                self.coloured = true;
                out.push_str(&self.sequence);
            }
            Some(p) if goes_on(p) && self.sequence.len() < MAX_SEQUENCE => return,
            _ => {
                // Not a colour: its first character is shown, and what follows is text.
                let sequence = std::mem::take(&mut self.sequence);
                visible('\x1b', out);
                sequence.chars().skip(1).for_each(|c| self.character(c, out));
                return;
            }
        }
        self.sequence.clear();
    }
}

/// A control as terminals echo it: `^[`.
fn visible(c: char, out: &mut String) {
    match u8::try_from(c) {
        Ok(c @ 0..0x20) => out.extend(['^', char::from(c + 0x40)]),
        Ok(0x7f) => out.push_str("^?"),
        _ => out.push(char::REPLACEMENT_CHARACTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> String {
        Filter::default().take(bytes)
    }

    #[test]
    fn text_and_colours_pass() {
        let text = "naïve \x1b[1;31mred\x1b[0m\ttab\r\n50 %\r100 %\n";
        assert_eq!(all(text.as_bytes()), text);
    }

    #[test]
    fn what_steers_a_terminal_is_made_visible() {
        assert_eq!(all(b"a\x1b[2Jb"), "a^[[2Jb");
        assert_eq!(all(b"\x1b]0;title\x07x"), "^[]0;title^Gx");
        assert_eq!(all(b"\x1b\x1b[31mx"), "^[\x1b[31mx");
        assert_eq!(all("\u{9b}2J\u{202e}x".as_bytes()), "\u{fffd}2J\u{fffd}x");
        assert_eq!(all(b"\x9b\xff\x08"), "\u{fffd}\u{fffd}^H");
        let endless = [b"\x1b[".as_slice(), &[b'1'; 99]].concat();
        assert!(all(&endless).starts_with("^[[1"));
    }

    #[test]
    fn it_does_not_matter_where_the_bytes_are_cut() {
        let text = "é\x1b[31m€\x1b[2J\u{202e}😀".as_bytes();
        for cut in 0..text.len() {
            let mut filter = Filter::default();
            let said = filter.take(&text[..cut]) + &filter.take(&text[cut..]);
            assert_eq!(said, all(text), "cut at {cut}");
        }
    }
}
