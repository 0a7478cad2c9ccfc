//! A box's log, gone on with where it broke off when a part of the member restarts.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gtvp_model::boxview::ExitStatus;
use gtvp_model::fault::Fault;
use gtvp_model::stream::StreamKind;

use crate::args::Logs;
use crate::client::{Api, Flow, segment};
use crate::progress::note;
use crate::spoken::Spoken;

/// How long a log may break off again and again before we give up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before it is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a log says next.
pub enum Heard {
    /// Output.
    Output(StreamKind, Bytes),
    /// The application ended so.
    Exit(ExitStatus),
    /// There is no more.
    End,
}

/// A log that is read.
pub struct Tail<'a> {
    api: &'a Api,
    path: String,
    flow: Option<Flow>,
    broken_since: Option<Instant>,
    /// Bytes passed on, by stream: what a log that is read anew from its beginning has to leave out.
    heard: [u64; 2],
    skip: [u64; 2],
    from_beginning: bool,
}

impl<'a> Tail<'a> {
    /// What the application wrote, from its beginning until it ends.
    pub fn of_application(api: &'a Api, name: &str) -> Self {
        Self::new(api, format!("/v1/boxes/{}/logs?source=application&follow=true", segment(name)), None)
    }

    fn new(api: &'a Api, path: String, tail: Option<u64>) -> Self {
        let path = tail.map_or_else(|| path.clone(), |n| format!("{path}&tail={n}"));
        Self {
            api,
            path,
            flow: None,
            broken_since: None,
            heard: [0; 2],
            skip: [0; 2],
            from_beginning: tail.is_none(),
        }
    }

    /// What it says next. Safe to drop half-way.
    pub async fn next(&mut self) -> Result<Heard, Fault> {
        loop {
            let flow = match &mut self.flow {
                Some(flow) => flow,
                none => none.insert(Flow::new(self.api.patiently(&self.path).await?)),
            };
            let fault = match flow.frame().await {
                Ok(Some((kind @ (StreamKind::Stdout | StreamKind::Stderr), bytes))) => {
                    self.broken_since = None;
                    if let Some(new) = self.unheard(kind, bytes) {
                        return Ok(Heard::Output(kind, new));
                    }
                    continue;
                }
                Ok(Some((StreamKind::Exit, json))) => return Ok(Heard::Exit(read(&json)?)),
                Ok(Some((StreamKind::Fault, json))) => read(&json)?,
                Ok(Some(_)) => continue,
                Ok(None) => {
                    self.begin_again();
                    return Ok(Heard::End);
                }
                Err(fault) => fault,
            };
            let since = *self.broken_since.get_or_insert_with(Instant::now);
            if !fault.retryable || since.elapsed() > PATIENCE {
                return Err(fault);
            }
            self.begin_again();
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unheard(&mut self, kind: StreamKind, mut bytes: Bytes) -> Option<Bytes> {
        let i = usize::from(kind == StreamKind::Stderr);
        let skipped = usize::try_from(self.skip[i]).unwrap_or(usize::MAX).min(bytes.len());
        self.skip[i] -= skipped as u64;
        let new = bytes.split_off(skipped);
        self.heard[i] += new.len() as u64;
        (!new.is_empty()).then_some(new)
    }

    fn begin_again(&mut self) {
        self.flow = None;
        if self.from_beginning {
            self.skip = self.heard;
        } else if let Some(at) = self.path.find("&tail=") {
            // Where it broke off is not known: go on with what is new.
            self.path.truncate(at);
            self.path += "&tail=0";
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json)
        .map_err(|e| Fault::internal("the member sent a frame that cannot be read", &e))
}

/// `gtvp box logs`.
pub async fn logs(api: &Api, words: &Logs) -> Result<(), Fault> {
    let source = if words.console { "console" } else { "application" };
    let path =
        format!("/v1/boxes/{}/logs?source={source}&follow={}", segment(words.name.as_str()), words.follow);
    let mut tail = Tail::new(api, path, words.tail);
    let mut spoken = Spoken::new();
    loop {
        match tail.next().await? {
            Heard::Output(kind, bytes) => {
                let broken = matches!(spoken.say(kind, &bytes), Err(e) if e.kind() == ErrorKind::BrokenPipe);
                if broken && kind == StreamKind::Stdout {
                    // Nobody reads it any more (`gtvp box logs … | head`).
                    return Ok(());
                }
            }
            Heard::Exit(status) => {
                if words.follow {
                    note(&ended(&status));
                }
                return Ok(());
            }
            Heard::End => return Ok(()),
        }
    }
}

/// How an application ended, in words.
pub fn ended(status: &ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("the application ended with {code}"),
        ExitStatus::Signal(signal) => format!("signal {signal} ended the application"),
    }
}
