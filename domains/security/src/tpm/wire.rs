//! TPM structures as bytes (TPM 2.0 Part 2): big-endian numbers, sized buffers, command and response frames. It knows no command.
//!
//! Written here and not taken from a library: what GTVP sends is a dozen commands, and the one library without C needs a newer
//! compiler than Debian's.

use super::codes::{Rc, ST_NO_SESSIONS, ST_SESSIONS};

/// Largest command or response: every TPM of the PC Client profile has buffers of 4096 bytes (TPM2_MAX_COMMAND_SIZE).
pub const MAX_MESSAGE: usize = 4096;
/// Tag, size, code.
pub const HEADER: usize = 10;
/// A password session without a password: TPMS_AUTH_COMMAND (Part 1 §19.4) with an empty nonce and an empty value.
const RS_PW: u32 = 0x4000_0009;
const CONTINUE_SESSION: u8 = 1;

/// Bytes of the TPM's that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("it ends in the middle of {0}")]
    Short(&'static str),
    /// It goes on after its end.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    /// A length or count beyond its bound.
    #[error("{what} is {got}, at most {most} can be")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How much.
        got: usize,
        /// The bound.
        most: usize,
    },
    /// A number that has no meaning here.
    #[error("{what} is {got:#x}")]
    Unexpected {
        /// What.
        what: &'static str,
        /// The number.
        got: u64,
    },
}

/// Puts a structure together.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// UINT8.
    pub fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    /// UINT16.
    pub fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// UINT32.
    pub fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// UINT64.
    pub fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// Bytes without a size.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// TPM2B: a UINT16 size and as many bytes. What is longer than a message makes the whole command refused by its size.
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).bytes(bytes)
    }

    /// What was written.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a structure apart. Nothing is read past the end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// UINT8.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array(what).map(u8::from_be_bytes)
    }

    /// UINT16.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// UINT32.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// UINT64.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// TPM2B of at most `most` bytes.
    pub fn sized(&mut self, most: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let got = usize::from(self.u16(what)?);
        if got > most {
            return Err(Malformed::TooLong { what, got, most });
        }
        self.take(got, what)
    }

    /// A list's count of at most `most`.
    pub fn count(&mut self, most: usize, what: &'static str) -> Result<usize, Malformed> {
        let got = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        if got > most { Err(Malformed::TooLong { what, got, most }) } else { Ok(got) }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// How much is left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// Fails when something is left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing(self.0.len())) }
    }
}

/// How one handle of a command is authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// With an empty password.
    Empty,
    /// With a policy session that has been satisfied, and ends with this command.
    Policy(u32),
}

/// A command, before it is a frame.
#[derive(Debug, Clone)]
pub struct Command {
    /// TPM_CC.
    pub code: u32,
    /// The handles.
    pub handles: Vec<u32>,
    /// One for each of the first handles that need authorization.
    pub auths: Vec<Auth>,
    /// The parameters.
    pub parameters: Vec<u8>,
    /// Whether the response begins with a handle.
    pub gives_handle: bool,
}

impl Command {
    /// The frame (Part 1 §18).
    pub fn frame(&self) -> Result<Vec<u8>, Malformed> {
        let mut auths = Writer::new();
        for auth in &self.auths {
            auths = match auth {
                Auth::Empty => auths.u32(RS_PW).sized(&[]).u8(CONTINUE_SESSION).sized(&[]),
                Auth::Policy(session) => auths.u32(*session).sized(&[]).u8(0).sized(&[]),
            };
        }
        let auths = auths.done();
        let tag = if auths.is_empty() { ST_NO_SESSIONS } else { ST_SESSIONS };
        let area = if auths.is_empty() { 0 } else { 4 + auths.len() };
        let size = HEADER + 4 * self.handles.len() + area + self.parameters.len();
        if size > MAX_MESSAGE {
            return Err(Malformed::TooLong { what: "a command", got: size, most: MAX_MESSAGE });
        }
        let mut frame = Writer::new().u16(tag).u32(low_u32(size)).u32(self.code);
        for handle in &self.handles {
            frame = frame.u32(*handle);
        }
        if !auths.is_empty() {
            frame = frame.u32(low_u32(auths.len())).bytes(&auths);
        }
        Ok(frame.bytes(&self.parameters).done())
    }
}

/// Sizes here are below [`MAX_MESSAGE`].
fn low_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The handle, for a command that gives one.
    pub handle: Option<u32>,
    /// The parameters.
    pub parameters: Vec<u8>,
}

/// Takes a response apart (Part 1 §18). `Ok(Err(_))` is the TPM's own refusal.
pub fn response(command: &Command, frame: &[u8]) -> Result<Result<Response, Rc>, Malformed> {
    let mut r = Reader::new(frame);
    let tag = r.u16("the response's header")?;
    let size = r.u32("the response's header")?;
    let rc = Rc(r.u32("the response's header")?);
    let got = usize::try_from(size).unwrap_or(usize::MAX);
    if got != frame.len() {
        return Err(Malformed::Unexpected { what: "the response's size", got: size.into() });
    }
    if rc != Rc::SUCCESS {
        // A TPM says nothing with an error; what a broken one says is not looked at.
        return Ok(Err(rc));
    }
    let handle = if command.gives_handle { Some(r.u32("the response's handle")?) } else { None };
    let expected = if command.auths.is_empty() { ST_NO_SESSIONS } else { ST_SESSIONS };
    if tag != expected {
        return Err(Malformed::Unexpected { what: "the response's tag", got: tag.into() });
    }
    if tag == ST_NO_SESSIONS {
        return Ok(Ok(Response { handle, parameters: r.rest().to_vec() }));
    }
    let size = r.count(MAX_MESSAGE, "the parameters' size")?;
    let parameters = r.take(size, "the parameters")?.to_vec();
    for _ in &command.auths {
        r.sized(MAX_NONCE, "a session's nonce")?;
        r.u8("a session's attributes")?;
        r.sized(MAX_NONCE, "a session's acknowledgement")?;
    }
    r.end()?;
    Ok(Ok(Response { handle, parameters }))
}

/// The largest digest that a TPM has (SHA-512).
const MAX_NONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn command(auths: Vec<Auth>, gives_handle: bool) -> Command {
        Command { code: 0x181, handles: vec![7], auths, parameters: vec![1, 2], gives_handle }
    }

    #[test]
    fn a_command_is_framed_as_part_1_says() {
        let plain = command(vec![], false).frame().unwrap();
        assert_eq!(plain, [0x80, 1, 0, 0, 0, 16, 0, 0, 1, 0x81, 0, 0, 0, 7, 1, 2]);
        let with = command(vec![Auth::Empty], false).frame().unwrap();
        assert_eq!(with[..6], [0x80, 2, 0, 0, 0, 29]);
        assert_eq!(with[14..], [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0, 1, 2]);
        let mut long = command(vec![], false);
        long.parameters = vec![0; MAX_MESSAGE];
        assert!(matches!(long.frame(), Err(Malformed::TooLong { .. })));
    }

    #[test]
    fn no_response_whatever_its_bytes_breaks_the_reader() {
        let good = Writer::new().u16(0x8002).u32(28).u32(0).u32(0x8000_0001).u32(2).bytes(&[9, 9]).bytes(&[
            0, 0, 1, 0, 1, 5, // nonce, attributes, acknowledgement
            0, 0,
        ]);
        let good = good.done();
        let with = command(vec![Auth::Empty], true);
        // As made, two bytes too long.
        assert_eq!(response(&with, &good), Err(Malformed::Trailing(2)));
        let mut exact = good[..26].to_vec();
        exact[5] = 26;
        let said = response(&with, &exact).unwrap().unwrap();
        assert_eq!((said.handle, said.parameters.as_slice()), (Some(0x8000_0001), &[9, 9][..]));
        for n in 0..exact.len() {
            assert!(response(&with, &exact[..n]).is_err(), "cut to {n}");
            let mut cut = exact[..n].to_vec();
            if n > 5 {
                cut[5] = u8::try_from(n).unwrap();
            }
            assert!(response(&with, &cut).is_err(), "cut to {n}, and says so");
            for bits in [0x01, 0x80, 0xff] {
                let mut flipped = exact.clone();
                flipped[n] ^= bits;
                // Refused or read: never a panic.
                let _ = response(&with, &flipped);
            }
        }
        let refused = Writer::new().u16(0x8001).u32(10).u32(0x922).done();
        assert_eq!(response(&with, &refused).unwrap(), Err(Rc::RETRY));
    }
}
