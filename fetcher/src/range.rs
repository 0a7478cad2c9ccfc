//! A part of what is at an `http` URI: one request, one answer. A hint about a package before it is fetched whole, so that
//! anything out of the ordinary is no error of the import but an answer that could not be had.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gtvp_ipc::fetcher::{Fetched, MAX_RANGE, Range};
use gtvp_model::fault::{Fault, FaultKind};

use crate::acquire::unreachable;

/// A source that is silent for longer is not asked for hints.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most header lines of an answer, and bytes of one.
const MAX_LINES: usize = 100;
const MAX_LINE: u64 = 8 * 1024;

/// Connections that are kept open.
const MAX_IDLE: usize = 8;

/// Asks `http` sources for parts.
#[derive(Default)]
pub struct Ranges {
    /// Addresses by host and port: looked up once, one at a time.
    addresses: Mutex<HashMap<String, Vec<SocketAddr>>>,
    /// Connections by host and port.
    idle: Mutex<Vec<(String, BufReader<TcpStream>)>>,
}

impl Ranges {
    /// Fetches the part into `file`, which loses its name at once.
    pub fn fetch(&self, want: &Range, file: &Path) -> Result<(Fetched, Vec<OwnedFd>), Fault> {
        if want.length == 0 || want.length > MAX_RANGE || want.uri.contains(['\n', '\r', ' ', '\0']) {
            return Err(Fault::new(FaultKind::Invalid, "that part cannot be asked for"));
        }
        let bytes = self.get(want).map_err(|e| unreachable(&want.uri, &e.to_string()))?;
        let stored =
            store(file, &bytes).map_err(|e| Fault::internal("the fetcher cannot keep a file", &e))?;
        Ok((Fetched { bytes: bytes.len() as u64 }, vec![stored.into()]))
    }

    fn get(&self, want: &Range) -> io::Result<Vec<u8>> {
        let rest = want.uri.strip_prefix("http://").ok_or_else(|| bad("only http is asked for parts"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| bad("the URI has no path"))?;
        let proxy = want.proxy.as_deref().map(|p| p.trim_end_matches('/'));
        let (server, target) = match proxy {
            Some(p) => {
                (p.strip_prefix("http://").ok_or_else(|| bad("the proxy is not http"))?, want.uri.clone())
            }
            None => (host, format!("/{path}")),
        };
        let server = if server.contains(':') { server.to_owned() } else { format!("{server}:80") };
        let end = want.from + want.length - 1;
        let ask = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={}-{end}\r\nUser-Agent: gtvp-fetcher\r\n\r\n",
            want.from
        );
        // A connection that was kept may have been closed meanwhile: then a new one is asked.
        if let Some(Ok(bytes)) = self.kept(&server).map(|stream| self.ask(&server, stream, &ask, want)) {
            return Ok(bytes);
        }
        let stream = BufReader::new(self.connect(&server)?);
        self.ask(&server, stream, &ask, want)
    }

    fn ask(
        &self,
        server: &str,
        mut stream: BufReader<TcpStream>,
        ask: &str,
        want: &Range,
    ) -> io::Result<Vec<u8>> {
        stream.get_mut().write_all(ask.as_bytes())?;
        let (bytes, reusable) = read_answer(&mut stream, want)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if reusable && idle.len() < MAX_IDLE {
            idle.push((server.to_owned(), stream));
        }
        Ok(bytes)
    }

    fn kept(&self, server: &str) -> Option<BufReader<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let i = idle.iter().position(|(s, _)| s == server)?;
        Some(idle.swap_remove(i).1)
    }

    fn connect(&self, server: &str) -> io::Result<TcpStream> {
        let addresses = {
            let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(server) {
                Some(addresses) => addresses.clone(),
                None => {
                    let found: Vec<SocketAddr> = server.to_socket_addrs()?.collect();
                    known.insert(server.to_owned(), found.clone());
                    found
                }
            }
        };
        let mut last = bad("the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    return Ok(stream);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn store(path: &Path, bytes: &[u8]) -> io::Result<File> {
    fs::write(path, bytes)?;
    let file = File::open(path);
    fs::remove_file(path)?;
    file
}

/// The part, and whether the connection is at the beginning of a next answer.
fn read_answer(input: &mut impl BufRead, want: &Range) -> io::Result<(Vec<u8>, bool)> {
    let mut line = String::new();
    let (mut status, mut length, mut reusable) = (0, None, true);
    for i in 0..=MAX_LINES {
        line.clear();
        if i == MAX_LINES {
            return Err(bad("the answer has too many lines"));
        }
        if Read::take(&mut *input, MAX_LINE).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if i == 0 {
            status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        } else if text.is_empty() {
            break;
        } else if let Some((name, value)) = text.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<u64>().ok();
            }
            reusable &=
                !(name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close"));
        }
    }
    // A server that ignores ranges answers 200 with everything: its beginning serves as well.
    if status != 206 && !(status == 200 && want.from == 0) {
        return Err(bad(&format!("HTTP status {status}")));
    }
    let whole = length.ok_or_else(|| bad("the answer does not say its length"))?;
    let length = whole.min(want.length);
    let mut bytes = Vec::new();
    input.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((bytes, reusable && whole == length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(from: u64, length: u64) -> Range {
        Range { uri: "http://a/b".into(), from, length, proxy: None }
    }

    #[test]
    fn an_answer_is_bounded_by_what_was_asked() {
        let answer = b"HTTP/1.1 206 Partial\r\nContent-Length: 6\r\n\r\nabcdef";
        assert_eq!(read_answer(&mut &answer[..], &want(0, 4)).unwrap(), (b"abcd".to_vec(), false));
        let short = b"HTTP/1.1 206 Partial\r\nContent-Length: 9\r\n\r\nabcdef";
        assert!(read_answer(&mut &short[..], &want(0, 9)).is_err());
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef";
        assert_eq!(read_answer(&mut &whole[..], &want(0, 6)).unwrap(), (b"abcdef".to_vec(), true));
        assert!(read_answer(&mut &whole[..], &want(1, 3)).is_err());
        let endless = b"HTTP/1.1 206 P\r\n"
            .iter()
            .chain(b"a: b\r\n".iter().cycle().take(6000))
            .copied()
            .collect::<Vec<_>>();
        assert!(read_answer(&mut &endless[..], &want(0, 3)).is_err());
    }
}
