//! `gtvp exec` and `gtvp shell`: a command in a box, with our own input, output, terminal and signals.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Read};

use bytes::BytesMut;
use gtvp_model::api::ExecBody;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::guest::{Program, TerminalSize};
use gtvp_model::stream::{StreamKind, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{Exec, Shell};
use crate::client::{Api, segment, take_frame};
use crate::failure::GTVP_FAILED;
use crate::follow::{Interrupt, Interrupts};
use crate::spoken::pass_on;
use crate::terminal::{RawMode, size};

/// Bytes of one read of standard input.
const CHUNK: usize = 16 * 1024;
/// Reads of standard input that wait for the box.
const AHEAD: usize = 4;
/// bash where it is, else sh.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash; else exec sh; fi";

type Connection = hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>;

/// `gtvp exec`.
pub async fn exec(api: &Api, words: &Exec) -> Result<u8, Fault> {
    let program = Program {
        argv: words.command.clone(),
        env: words.env.iter().cloned().collect(),
        user: words.user.clone(),
        workdir: words.workdir.clone(),
    };
    let ours = std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !words.no_stdin;
    let tty = words.tty || (ours && !words.no_tty);
    attach(api, words.name.as_str(), program, tty, !words.no_stdin).await
}

/// `gtvp shell`.
pub async fn shell(api: &Api, words: &Shell) -> Result<u8, Fault> {
    let program = Program {
        argv: ["sh", "-c", SHELL].map(String::from).to_vec(),
        env: BTreeMap::new(),
        user: words.user.clone(),
        workdir: None,
    };
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    attach(api, words.name.as_str(), program, tty, true).await
}

async fn attach(api: &Api, name: &str, mut program: Program, tty: bool, input: bool) -> Result<u8, Fault> {
    if let (true, Ok(term)) = (tty, std::env::var("TERM")) {
        program.env.entry("TERM".into()).or_insert(term);
    }
    let terminal = tty.then(|| size().unwrap_or(TerminalSize { rows: 24, cols: 80 }));
    let mut interrupts = Interrupts::take()?;
    let mut resized =
        signal(SignalKind::window_change()).map_err(|e| Fault::internal("signals cannot be taken", &e))?;
    let connection =
        api.upgrade(&format!("/v1/boxes/{}/exec", segment(name)), &ExecBody { program, terminal }).await?;
    // From here to the end of this function the terminal is the box's.
    let raw = match tty && std::io::stdin().is_terminal() {
        true => RawMode::enter()?,
        false => None,
    };
    let (reader, writer) = tokio::io::split(connection);
    let (control, control_in) = mpsc::unbounded_channel();
    let (typed, typed_in) = mpsc::channel(AHEAD);
    tokio::spawn(write(writer, control_in, typed_in));
    if input {
        read_input(typed);
    } else {
        // End of file at once.
        let _ = control.send(encode(StreamKind::Stdin, b""));
        drop(typed);
    }
    let mut frames = Frames { reader, buffer: BytesMut::new() };
    let mut asked_to_end = false;
    loop {
        tokio::select! {
            frame = frames.next() => match frame? {
                Some((kind @ (StreamKind::Stdout | StreamKind::Stderr), bytes)) => {
                    // Nobody reads any more (`gtvp exec … | head`): hanging up ends the command.
                    if matches!(pass_on(kind, &bytes), Err(e) if e.kind() == ErrorKind::BrokenPipe) {
                        return Ok(Interrupt::Pipe.exit_code());
                    }
                }
                Some((StreamKind::Exit, json)) => {
                    drop(raw);
                    let status: ExitStatus = read(&json)?;
                    return Ok(u8::try_from(status.shell_code() & 0xff).unwrap_or(GTVP_FAILED));
                }
                Some((StreamKind::Fault, json)) => return Err(read(&json)?),
                Some(_) => {}
                None => return Err(broke_off()),
            },
            _ = resized.recv(), if tty => {
                if let Some(json) = size().and_then(|s| serde_json::to_vec(&s).ok()) {
                    let _ = control.send(encode(StreamKind::Resize, &json));
                }
            }
            interrupt = interrupts.next() => {
                // With a raw terminal Ctrl-C is a character, so this is someone ending us from outside.
                if asked_to_end || raw.is_some() {
                    return Ok(interrupt.exit_code());
                }
                asked_to_end = true;
                let _ = control.send(encode(StreamKind::Signal, interrupt.number().to_string().as_bytes()));
            }
        }
    }
}

fn broke_off() -> Fault {
    Fault::new(FaultKind::Unavailable, "the connection to the command broke off")
        .hint("a part of the member restarted or the box ended: gtvp events --tail 5")
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json)
        .map_err(|e| Fault::internal("the member sent a frame that cannot be read", &e))
}

/// Standard input, read on a thread of its own: a read of it cannot be given up, and ends with the program.
fn read_input(typed: mpsc::Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            // An input that cannot be read is one without more to say.
            let n = match input.read(&mut chunk) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other.unwrap_or(0),
            };
            if typed.blocking_send(encode(StreamKind::Stdin, &chunk[..n])).is_err() || n == 0 {
                return;
            }
        }
    });
}

/// Sends frames, sizes and signals before input. A connection that takes no more ends the reading side too.
async fn write(
    mut connection: WriteHalf<Connection>,
    mut control: mpsc::UnboundedReceiver<Vec<u8>>,
    mut typed: mpsc::Receiver<Vec<u8>>,
) {
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = control.recv() => frame,
            Some(frame) = typed.recv() => frame,
            else => return,
        };
        let sent = async {
            connection.write_all(&frame).await?;
            connection.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

struct Frames {
    reader: ReadHalf<Connection>,
    buffer: BytesMut,
}

impl Frames {
    /// The next frame; `None` at the end. Safe to drop half-way.
    async fn next(&mut self) -> Result<Option<(StreamKind, bytes::Bytes)>, Fault> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) => return Err(broke_off().caused_by(&e)),
            }
        }
    }
}
