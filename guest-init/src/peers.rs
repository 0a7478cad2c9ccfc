//! Where processes of the box ask about other boxes: a socket, a line in, a line out ([`gtvp_model::peer`]). They are asked of the host one
//! after the other, as often as it takes them; whoever asks too much waits or is refused here. Nothing here blocks.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use gtvp_model::guest::ToHost;
use gtvp_model::peer::{MAX_QUESTION, PeerAnswer, PeerQuestion, SOCKET};
use rustix::event::PollFlags;

/// Processes at once; the next waits in the socket's own queue.
const MOST: usize = 8;
/// How long one may take to ask, and to take its answer.
const SLOW: Duration = Duration::from_secs(10);
/// How long the host may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Between two questions: the host takes no more.
const PACE: Duration = Duration::from_secs(1);

enum Turn {
    /// Its question is not whole.
    Asking(Vec<u8>),
    /// It waits for its turn.
    Waits(PeerQuestion),
    /// The host has been asked under this number.
    Asked(u32, PeerQuestion),
    /// It gets its answer, of which so many bytes are gone.
    Answered(Vec<u8>, usize),
}

struct Asker {
    stream: UnixStream,
    turn: Turn,
    until: Instant,
}

/// See the module.
#[derive(Default)]
pub struct Peers {
    listener: Option<UnixListener>,
    askers: VecDeque<Asker>,
    last: u32,
    next: Option<Instant>,
}

impl Peers {
    /// Begins to listen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(&mut self) -> io::Result<()> {
        self.listen_at(Path::new(SOCKET))
    }

    fn listen_at(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        // Who may ask is the box's own business: its root can take it away.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// What to poll for.
    pub fn interest(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let more = self.listener.as_ref().filter(|_| self.askers.len() < MOST);
        let askers = self.askers.iter().map(|a| {
            let flags = match a.turn {
                Turn::Asking(_) => PollFlags::IN,
                Turn::Answered(..) => PollFlags::OUT,
                // That it hangs up is told all the same.
                _ => PollFlags::empty(),
            };
            (a.stream.as_fd(), flags)
        });
        more.map(|l| (l.as_fd(), PollFlags::IN)).into_iter().chain(askers)
    }

    /// When something is to be done though nothing came. `met`: there is a host to ask.
    pub fn due(&self, met: bool) -> Option<Instant> {
        let waits = met && !self.is_asked() && self.askers.iter().any(|a| matches!(a.turn, Turn::Waits(_)));
        self.askers.iter().map(|a| a.until).chain(self.next.filter(|_| waits)).min()
    }

    fn is_asked(&self) -> bool {
        self.askers.iter().any(|a| matches!(a.turn, Turn::Asked(..)))
    }

    /// Moves what can be moved; gives what the host is to be asked. `met`: there is a host to ask.
    pub fn advance(&mut self, met: bool, now: Instant) -> Option<ToHost> {
        while self.askers.len() < MOST {
            let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else { break };
            if stream.set_nonblocking(true).is_ok() {
                let turn = Turn::Asking(Vec::new());
                self.askers.push_back(Asker { stream, turn, until: now + SLOW });
            }
        }
        self.askers.retain_mut(|a| a.goes_on(now));
        if !met || self.is_asked() || self.next.is_some_and(|at| now < at) {
            return None;
        }
        let asker = self.askers.iter_mut().find(|a| matches!(a.turn, Turn::Waits(_)))?;
        let Turn::Waits(question) = &asker.turn else { return None };
        let question = question.clone();
        self.last = self.last.wrapping_add(1);
        self.next = Some(now + PACE);
        asker.turn = Turn::Asked(self.last, question.clone());
        asker.until = now + ANSWER;
        Some(ToHost::AskPeer { ask: self.last, question })
    }

    /// The host has answered.
    pub fn answered(&mut self, ask: u32, answer: &PeerAnswer, now: Instant) {
        let asked = |a: &&mut Asker| matches!(&a.turn, Turn::Asked(number, _) if *number == ask);
        if let Some(asker) = self.askers.iter_mut().find(asked) {
            asker.answer(answer, now);
        }
    }

    /// The host has gone: what it was asked is asked again when one comes.
    pub fn lost(&mut self) {
        for asker in &mut self.askers {
            if let Turn::Asked(_, question) = &asker.turn {
                asker.turn = Turn::Waits(question.clone());
            }
        }
    }
}

impl Asker {
    fn answer(&mut self, answer: &PeerAnswer, now: Instant) {
        self.turn = Turn::Answered(answer.line(), 0);
        self.until = now + SLOW;
    }

    /// False: it is done with.
    fn goes_on(&mut self, now: Instant) -> bool {
        if now >= self.until {
            if matches!(self.turn, Turn::Answered(..)) {
                return false;
            }
            self.answer(&PeerAnswer::refused("it took too long"), now);
        }
        if let Turn::Asking(line) = &mut self.turn {
            match read_line(&mut self.stream, line) {
                Ok(false) => {}
                Ok(true) => {
                    // Others may be before it.
                    self.until = now + ANSWER;
                    match PeerQuestion::parse(line.trim_ascii_end()) {
                        Ok(question) => self.turn = Turn::Waits(question),
                        Err(e) => self.answer(&PeerAnswer::refused(&e.to_string()), now),
                    }
                }
                Err(_) => return false,
            }
        }
        match &mut self.turn {
            Turn::Asking(_) => true,
            Turn::Waits(_) | Turn::Asked(..) => !hung_up(&self.stream),
            Turn::Answered(line, gone) => {
                let rest = line.get(*gone..).unwrap_or_default();
                match self.stream.write(rest) {
                    Ok(n) => {
                        *gone += n;
                        *gone < line.len()
                    }
                    Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
                }
            }
        }
    }
}

/// Reads up to the line's end, or one byte more than a question may have.
fn read_line(stream: &mut UnixStream, line: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; MAX_QUESTION + 2];
    loop {
        let room = (MAX_QUESTION + 2).saturating_sub(line.len());
        match stream.read(chunk.get_mut(..room).unwrap_or_default()) {
            Ok(0) if line.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(true),
            Ok(n) => line.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if let Some(end) = line.iter().position(|b| *b == b'\n') {
            line.truncate(end + 1);
            return Ok(true);
        }
    }
}

/// Whether both directions are closed: whoever only closed its own waits for an answer.
fn hung_up(stream: &UnixStream) -> bool {
    let mut fds = [rustix::event::PollFd::new(stream, PollFlags::empty())];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(std::path::PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn listening(name: &str) -> (Place, Peers, impl Fn(&[u8]) -> UnixStream) {
        let place = Place(std::env::temp_dir().join(format!("gtvp-peers-{name}-{}", std::process::id())));
        let path = place.0.join("attest.sock");
        let mut peers = Peers::default();
        peers.listen_at(&path).unwrap();
        let ask = move |line: &[u8]| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(line).unwrap();
            stream
        };
        (place, peers, ask)
    }

    fn line(peer: &str) -> Vec<u8> {
        format!("{{\"peer\":\"{peer}\",\"nonce\":\"{}\"}}\n", "0a".repeat(16)).into_bytes()
    }

    fn said(mut stream: UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn number(asked: Option<ToHost>) -> (u32, String) {
        match asked {
            Some(ToHost::AskPeer { ask, question }) => (ask, question.peer),
            other => panic!("{other:?}"),
        }
    }

    /// A program that another test is just starting holds our end open until it runs.
    fn until_nobody_waits(peers: &mut Peers, now: Instant) {
        let end = Instant::now() + Duration::from_secs(10);
        while !peers.askers.is_empty() {
            assert!(Instant::now() < end, "who hung up is still waiting");
            assert!(peers.advance(false, now).is_none());
            std::thread::yield_now();
        }
    }

    #[test]
    fn questions_go_one_after_the_other_and_each_gets_its_own_answer() {
        let (_place, mut peers, ask) = listening("order");
        let mut now = Instant::now();
        let (a, b) = (ask(&line("m2/a")), ask(&line("m2/b")));
        assert!(peers.advance(false, now).is_none(), "there is nobody to ask");
        assert_eq!(number(peers.advance(true, now)), (1, "m2/a".into()));
        assert!(peers.advance(true, now + 2 * PACE).is_none(), "one at a time");
        // The host goes and comes.
        peers.lost();
        now += PACE;
        assert_eq!(number(peers.advance(true, now)), (2, "m2/a".into()));
        peers.answered(1, &PeerAnswer::refused("too late"), now);
        peers.answered(2, &PeerAnswer::refused("answer to a"), now);
        assert!(peers.advance(true, now).is_none(), "not so soon");
        assert!(peers.due(true).unwrap() <= now + PACE);
        assert_eq!(number(peers.advance(true, now + PACE)), (3, "m2/b".into()));
        peers.answered(3, &PeerAnswer::refused("answer to b"), now);
        peers.advance(true, now);
        assert_eq!(
            (said(a), said(b)),
            ("{\"fault\":\"answer to a\"}\n".into(), "{\"fault\":\"answer to b\"}\n".into())
        );
        assert!(peers.askers.is_empty());
    }

    #[test]
    fn what_is_no_question_never_reaches_the_host() {
        let (_place, mut peers, ask) = listening("bad");
        let now = Instant::now();
        let bad: [Vec<u8>; 4] =
            [b"nonsense\n".to_vec(), line("M2"), vec![b'x'; 4 * MAX_QUESTION], line("a/b/c")];
        for bad in &bad {
            let stream = ask(bad);
            assert!(peers.advance(true, now).is_none());
            peers.advance(true, now);
            let mut text = [0; 9];
            (&stream).read_exact(&mut text).unwrap();
            assert_eq!(&text, b"{\"fault\":");
        }
        assert!(peers.askers.is_empty());
    }

    #[test]
    fn whoever_holds_places_or_says_nothing_loses_them() {
        let (_place, mut peers, ask) = listening("slow");
        let now = Instant::now();
        let silent: Vec<_> = (0..MOST + 3).map(|_| ask(b"{")).collect();
        assert!(peers.advance(true, now).is_none());
        assert_eq!(peers.askers.len(), MOST);
        assert_eq!(peers.interest().count(), MOST, "no more are taken in");
        peers.advance(true, now + SLOW);
        assert!(said(silent.into_iter().next().unwrap()).contains("too long"));
        // Whoever hangs up while it waits is forgotten, and the next one is asked for.
        let (_place, mut peers, ask) = listening("gone");
        let a = ask(&line("a"));
        peers.advance(false, now);
        assert_eq!(peers.askers.len(), 1);
        drop(a);
        until_nobody_waits(&mut peers, now);
        let b = ask(&line("b"));
        assert_eq!(number(peers.advance(true, now)).1, "b");
        drop(b);
        until_nobody_waits(&mut peers, now);
    }
}
