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
    /// Save and load memory at fixed places of a file, of which only what is used is written and read.
    MappedRam,
    /// Take the descriptor that comes with the command as the image's.
    TakeImage,
    /// Let go of it.
    DropImage,
    /// Write the machine, which is halted, to the image.
    Save,
    /// Read the machine from the image.
    Load,
    /// Ask how far that is.
    QueryMigrate,
}

/// QEMU's number of the set of descriptors in which the image is; 7 to 9 stand in its arguments.
const IMAGE_SET: u32 = 10;

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
            Self::MappedRam => {
                let on = serde_json::json!({ "capability": "mapped-ram", "state": true });
                ("migrate-set-capabilities", Some(serde_json::json!({ "capabilities": [on] })))
            }
            Self::TakeImage => ("add-fd", Some(serde_json::json!({ "fdset-id": IMAGE_SET }))),
            Self::DropImage => ("remove-fd", Some(serde_json::json!({ "fdset-id": IMAGE_SET }))),
            Self::Save => ("migrate", Some(image())),
            Self::Load => ("migrate-incoming", Some(image())),
            Self::QueryMigrate => ("query-migrate", None),
        };
        let mut message = serde_json::json!({ "execute": name, "id": id });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        format!("{message}\n").into_bytes()
    }
}

fn image() -> serde_json::Value {
    serde_json::json!({ "uri": format!("file:/dev/fdset/{IMAGE_SET}") })
}

/// What QEMU says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// It is there; its version with its package's, for example `10.0.2 (Debian 1:10.0.2+ds-2)`.
    Greeting(String),
    /// A command was carried out.
    Done {
        /// The command's number.
        id: u64,
        /// Whether the processors run, when it was [`Command::QueryStatus`].
        running: Option<bool>,
        /// The state's word, when it was that or [`Command::QueryMigrate`], with the reason of a failure.
        status: Option<String>,
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
    greeting: Option<Greeting>,
    #[serde(rename = "return")]
    done: Option<serde_json::Value>,
    error: Option<Refusal>,
    event: Option<String>,
    data: Option<serde_json::Value>,
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(default)]
    version: Version,
}

#[derive(Deserialize, Default)]
struct Version {
    #[serde(default)]
    qemu: Numbers,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize, Default)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Numbers { major, minor, micro } = self.qemu;
        write!(f, "{major}.{minor}.{micro} ({})", cut(&self.package))
    }
}

/// Words of QEMU for a person, or for a comparison.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
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
    if let Some(greeting) = line.greeting {
        return Ok(Some(Message::Greeting(greeting.version.to_string())));
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
        return Ok(Some(Message::Refused { id, why: cut(&refusal.desc) }));
    }
    let Some(done) = line.done else { return Ok(None) };
    let running = done.get("running").and_then(serde_json::Value::as_bool);
    let word = |key: &str| done.get(key).and_then(serde_json::Value::as_str).map(cut);
    let status = word("status").map(|s| word("error-desc").map_or(s.clone(), |why| format!("{s}: {why}")));
    Ok(Some(Message::Done { id, running, status }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_is_understood_in_any_pieces() {
        let said = concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}, "capabilities": ["oob"]}}"#,
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
            r#"{"return": {"status": "failed", "error-desc": "no room"}, "id": 4}"#,
            "\r\n",
        );
        for piece in [1, 7, said.len()] {
            let mut decoder = Decoder::default();
            let got: Vec<_> = said.as_bytes().chunks(piece).flat_map(|c| decoder.push(c).unwrap()).collect();
            let expected = [
                Message::Greeting("10.0.2 (Debian 1:10.0.2)".into()),
                Message::Done { id: 1, running: None, status: None },
                Message::Done { id: 2, running: Some(true), status: Some("running".into()) },
                Message::Event(Event::Shutdown("guest-reset".into())),
                Message::Refused { id: 3, why: "no".into() },
                Message::Done { id: 4, running: None, status: Some("failed: no room".into()) },
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
