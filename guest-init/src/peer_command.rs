//! `gtvp-peer MEMBER/BOX [NONCE]`: the question of [`crate::peers`] from a shell. PID 1's own program under another name; it prints the
//! answer and ends with 0 if the other box is vouched for.

use gtvp_model::hex::hex;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use gtvp_model::peer::{MAX_ANSWER, PeerAnswer, PeerQuestion, SOCKET};

use crate::console::say;

/// Its name.
const NAME: &str = "gtvp-peer";
/// Where it is in the box.
const AT: &str = "/run/gtvp/gtvp-peer";
/// What is not vouched for.
const REFUSED: i32 = 1;
/// What was not even asked.
const NOT_ASKED: i32 = 2;

/// Whether this process was called by that name.
pub fn is_called() -> bool {
    let called = std::env::args_os().next();
    called.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME))
}

/// Puts it in its place, while the initramfs, whose file it is, is still there.
pub fn place() {
    let place = || {
        let folder = Path::new(AT).parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        std::fs::write(AT, "")?;
        let own = std::fs::read_link("/proc/self/exe")?;
        rustix::mount::mount_bind(&own, AT)?;
        Ok::<_, std::io::Error>(())
    };
    if let Err(e) = place() {
        say!("{AT}: {e}");
    }
}

/// Does it; gives the exit status.
pub fn run() -> i32 {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (peer, nonce) = match words.as_slice() {
        [peer] if !peer.starts_with('-') => (peer.clone(), None),
        [peer, nonce] => (peer.clone(), Some(nonce.clone())),
        _ => {
            eprintln!(
                "usage: {NAME} MEMBER/BOX [NONCE]\n\nAsks this box's member whether that box's member vouches for it. BOX alone is a box of the same member;\nNONCE is 16 to 64 bytes in hexadecimal, random ones if it is not given."
            );
            return NOT_ASKED;
        }
    };
    match ask(peer, nonce) {
        Ok((line, vouched)) => {
            // Whoever does not read it has the status.
            let _ = std::io::stdout().write_all(&line);
            if vouched { 0 } else { REFUSED }
        }
        Err(e) => {
            eprintln!("{NAME}: {e}");
            NOT_ASKED
        }
    }
}

fn ask(peer: String, nonce: Option<String>) -> Result<(Vec<u8>, bool), Box<dyn std::error::Error>> {
    let nonce = match nonce {
        Some(nonce) => nonce,
        None => {
            let mut random = [0u8; 32];
            std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
            hex(&random)
        }
    };
    let question = PeerQuestion { peer, nonce };
    question.check()?;
    let mut stream = UnixStream::connect(SOCKET).map_err(|e| format!("{SOCKET}: {e}"))?;
    let mut line = serde_json::to_vec(&question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER as u64)).read_until(b'\n', &mut line)?;
    let answer: PeerAnswer = serde_json::from_slice(&line)?;
    Ok((line, matches!(answer, PeerAnswer::Vouched(_))))
}
