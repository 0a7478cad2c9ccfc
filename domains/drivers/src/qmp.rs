//! QEMU's monitor protocol, the little of it that a box needs. Pure: bytes in, messages out.
//!
//! What QEMU says is outside input: a box that has taken over its QEMU can say anything here. It never leads to more
//! than the box's own end.

use serde::Deserialize;

/// Most bytes of one line. The longest thing asked for is `query-status`; events are shorter still.
const MAX_LINE: usize = 64 * 1024;

/// What a box's QEMU can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Leave the greeting behind.
    Capabilities,
    /// Halt the processors.
    Stop,
    /// Let them go on.
    Cont,
    /// End.
    Quit,
    /// Ask whether the processors run.
    QueryStatus,
    /// Leave the guest this many bytes.
    Balloon(u64),
}

impl Command {
    /// The line that says it.
    pub fn encode(self, id: u64) -> Vec<u8> {
        let (name, arguments) = match self {
            Self::Capabilities => ("qmp_capabilities", None),
            Self::Stop => ("stop", None),
            Self::Cont => ("cont", None),
            Self::Quit => ("quit", None),
            Self::QueryStatus => ("query-status", None),
            Self::Balloon(value) => ("balloon", Some(serde_json::json!({ "value": value }))),
        };
        let mut message = serde_json::json!({ "execute": name, "id": id });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        format!("{message}\n").into_bytes()
    }
}

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// It is there.
    Greeting,
    /// A command was carried out. `running` when it was [`Command::QueryStatus`].
    Done {
        /// The command's number.
        id: u64,
        /// Whether the processors run.
        running: Option<bool>,
    },
    /// A command was refused.
    Refused {
        /// The command's number.
        id: u64,
        /// Why.
        why: String,
    },
    /// Something happened.
    Event(Event),
}

/// The events that mean something for a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The machine ends; QEMU's reason, for example `guest-reset`.
    Shutdown(String),
    /// The processors are halted.
    Stopped,
    /// The processors go on.
    Resumed,
    /// The guest's kernel says that it panicked.
    Panicked,
    /// The disk file could not be written; the reason.
    DiskError(String),
}

/// Why the monitor cannot be understood any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMonitor {
    /// A line without end.
    #[error("QEMU's monitor sent a line of more than {MAX_LINE} bytes")]
    LongLine,
    /// Not JSON.
    #[error("QEMU's monitor sent something that is not QMP")]
    NotQmp,
}

/// Finds messages in the bytes of a monitor connection.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<serde_json::Value>,
    #[serde(rename = "return")]
    done: Option<serde_json::Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Option<serde_json::Value>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Decoder {
    /// Takes bytes, gives the messages that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, BadMonitor> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(n) = self.buffer[at..].iter().position(|b| *b == b'\n') {
            let line = self.buffer[at..at + n].trim_ascii();
            at += n + 1;
            if !line.is_empty() {
                messages.extend(parse(line)?);
            }
        }
        self.buffer.drain(..at);
        if self.buffer.len() > MAX_LINE {
            return Err(BadMonitor::LongLine);
        }
        Ok(messages)
    }
}

fn parse(line: &[u8]) -> Result<Option<Message>, BadMonitor> {
    let line: Line = serde_json::from_slice(line).map_err(|_| BadMonitor::NotQmp)?;
    let text = |key: &str| {
        let found = line.data.as_ref().and_then(|d| d.get(key)).and_then(|v| v.as_str());
        found.unwrap_or("unknown").chars().take(80).collect::<String>()
    };
    if line.greeting.is_some() {
        return Ok(Some(Message::Greeting));
    }
    if let Some(name) = &line.event {
        let event = match name.as_str() {
            "SHUTDOWN" => Event::Shutdown(text("reason")),
            "STOP" => Event::Stopped,
            "RESUME" => Event::Resumed,
            "GUEST_PANICKED" => Event::Panicked,
            "BLOCK_IO_ERROR" => Event::DiskError(text("reason")),
            _ => return Ok(None),
        };
        return Ok(Some(Message::Event(event)));
    }
    let Some(id) = line.id else { return Ok(None) };
    if let Some(refusal) = line.error {
        return Ok(Some(Message::Refused { id, why: refusal.desc.chars().take(200).collect() }));
    }
    let running = line.done.as_ref().and_then(|d| d.get("running")).and_then(serde_json::Value::as_bool);
    Ok(line.done.is_some().then_some(Message::Done { id, running }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_is_understood_in_any_pieces() {
        let said = concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}"#,
            "\r\n",
            r#"{"return": {}, "id": 1}"#,
            "\r\n",
            r#"{"return": {"status": "running", "running": true}, "id": 2}"#,
            "\r\n",
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
            "\r\n",
            r#"{"event": "NIC_RX_FILTER_CHANGED", "data": {}}"#,
            "\r\n",
            r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 3}"#,
            "\r\n",
        );
        for piece in [1, 7, said.len()] {
            let mut decoder = Decoder::default();
            let got: Vec<_> = said.as_bytes().chunks(piece).flat_map(|c| decoder.push(c).unwrap()).collect();
            let expected = [
                Message::Greeting,
                Message::Done { id: 1, running: None },
                Message::Done { id: 2, running: Some(true) },
                Message::Event(Event::Shutdown("guest-reset".into())),
                Message::Refused { id: 3, why: "no".into() },
            ];
            assert_eq!(got, expected, "pieces of {piece}");
        }
    }

    #[test]
    fn a_monitor_that_rambles_is_refused() {
        assert_eq!(Decoder::default().push(b"hello\n"), Err(BadMonitor::NotQmp));
        let mut decoder = Decoder::default();
        let flood = vec![b'['; MAX_LINE + 1];
        assert_eq!(decoder.push(&flood), Err(BadMonitor::LongLine));
    }
}
