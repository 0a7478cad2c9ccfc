//! One command after another over one transport: resends what the TPM was too busy for, starts a TPM that is ours, removes what
//! an earlier process left in it. It keeps no keys.

use std::io;
use std::thread;
use std::time::Duration;

use super::codes::{Rc, cc, handle};
use super::transport::{self, Address, Transport};
use super::wire::{Auth, Command, Malformed, Reader, Response, Writer, response};

/// Resends of one command. With [`PAUSE`] that is 10 s: a discrete TPM's self test takes at most two.
const MAX_RESENDS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(20);
/// Handles of one kind that are asked for and removed at once: more than any TPM has places.
const MAX_HANDLES: usize = 64;
const CAP_HANDLES: u32 = 1;
const STARTUP_CLEAR: u16 = 0;

/// Why the TPM did not do something.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be reached, or was lost during a command.
    #[error("the TPM cannot be reached")]
    Transport(#[from] io::Error),
    /// It refused.
    #[error("the TPM refused {command}: {rc}")]
    Refused {
        /// Name of the command.
        command: &'static str,
        /// Why.
        rc: Rc,
    },
    /// It said something that TPM 2.0 does not have.
    #[error("the TPM's answer to {command} cannot be read")]
    Malformed {
        /// Name of the command.
        command: &'static str,
        /// What is wrong.
        source: Malformed,
    },
    /// What it said is readable and not true.
    #[error("the TPM's answer to {command} does not hold: {why}")]
    Untrue {
        /// Name of the command.
        command: &'static str,
        /// What does not hold.
        why: &'static str,
    },
    /// It was reset: what was loaded is gone.
    #[error("the TPM was reset")]
    WasReset,
    /// The kernel has not started it. Another program's duty, so not done here.
    #[error("the TPM has not been started by this machine's firmware")]
    NotStarted,
    /// PCRs changed as often as they were read.
    #[error("PCRs change so fast that no quote of them could be read ({0} attempts)")]
    Unsteady(u32),
    /// What was asked for is not what it may be asked.
    #[error("{0}")]
    Unfit(&'static str),
    /// The saved keys cannot be read, written or used.
    #[error(transparent)]
    Saved(#[from] super::saved::SavedError),
    /// The log that goes with the PCR.
    #[error(transparent)]
    Log(#[from] super::log::LogError),
    /// A stranger is not served now.
    #[error("too many whom nobody knows wait for the TPM; members come first")]
    Busy,
    /// The thread that holds the TPM is gone.
    #[error("the TPM's thread has ended")]
    Ended,
}

impl TpmError {
    /// Whether the keys are to be loaded again and the command repeated once.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Transport(_) | Self::WasReset => true,
            Self::Refused { rc, .. } => rc.is_lost_object(),
            _ => false,
        }
    }
}

/// A connection to the TPM.
pub struct Client {
    transport: Box<dyn Transport>,
}

impl Client {
    /// Connects; starts a TPM that is ours and has not been started; removes leftovers from one that is ours.
    pub fn open(address: &Address) -> Result<Self, TpmError> {
        Self::over(transport::open(address)?, address.is_ours())
    }

    /// Over this transport. `ours`: nobody else uses the TPM.
    pub fn over(transport: Box<dyn Transport>, ours: bool) -> Result<Self, TpmError> {
        let mut client = Self { transport };
        match client.run("ReadClock", &Command::plain(cc::READ_CLOCK)) {
            Err(TpmError::WasReset) if ours => {
                let command = Command::plain(cc::STARTUP).with(Writer::new().u16(STARTUP_CLEAR));
                client.run("Startup", &command)?;
            }
            Err(TpmError::WasReset) => return Err(TpmError::NotStarted),
            other => drop(other?),
        }
        if ours {
            // The kernel's resource manager removes what a program leaves; swtpm does not.
            for first in [handle::TRANSIENT, handle::LOADED_SESSIONS, handle::SAVED_SESSIONS] {
                for leftover in client.handles(first)? {
                    client.flush(leftover)?;
                }
            }
        }
        Ok(client)
    }

    /// Runs a command whose response is then taken apart.
    pub fn run(&mut self, name: &'static str, command: &Command) -> Result<Response, TpmError> {
        let malformed = |source| TpmError::Malformed { command: name, source };
        let frame = command.frame().map_err(malformed)?;
        for _ in 0..MAX_RESENDS {
            let answer = self.transport.exchange(&frame)?;
            match response(command, &answer).map_err(malformed)? {
                Ok(response) => return Ok(response),
                Err(rc) if rc.again() => thread::sleep(PAUSE),
                Err(Rc::INITIALIZE) => return Err(TpmError::WasReset),
                Err(rc) => return Err(TpmError::Refused { command: name, rc }),
            }
        }
        Err(TpmError::Refused { command: name, rc: Rc::RETRY })
    }

    /// The handles in use from `first` on, of its kind (Part 3 §30.2).
    pub fn handles(&mut self, first: u32) -> Result<Vec<u32>, TpmError> {
        const NAME: &str = "GetCapability";
        let most = u32::try_from(MAX_HANDLES).unwrap_or(u32::MAX);
        let command =
            Command::plain(cc::GET_CAPABILITY).with(Writer::new().u32(CAP_HANDLES).u32(first).u32(most));
        let said = self.run(NAME, &command)?;
        let read = || -> Result<Vec<u32>, Malformed> {
            let mut r = Reader::new(&said.parameters);
            r.u8("moreData")?;
            let got = r.u32("the capability")?;
            if got != CAP_HANDLES {
                return Err(Malformed::Unexpected { what: "the capability", got: got.into() });
            }
            let count = r.count(MAX_HANDLES, "the number of handles")?;
            let handles = (0..count).map(|_| r.u32("a handle")).collect();
            r.end()?;
            handles
        };
        read().map_err(|source| TpmError::Malformed { command: NAME, source })
    }

    /// Removes a transient object or a session.
    pub fn flush(&mut self, which: u32) -> Result<(), TpmError> {
        // The handle is a parameter of this command (Part 3 §28.4).
        self.run("FlushContext", &Command::plain(cc::FLUSH_CONTEXT).with(Writer::new().u32(which))).map(drop)
    }
}

impl Command {
    /// Without handles.
    pub fn plain(code: u32) -> Self {
        Self { code, handles: Vec::new(), auths: Vec::new(), parameters: Vec::new(), gives_handle: false }
    }

    /// On this handle.
    pub fn on(mut self, handle: u32) -> Self {
        self.handles.push(handle);
        self
    }

    /// On this handle, authorized so.
    pub fn on_with(mut self, handle: u32, auth: Auth) -> Self {
        self.handles.push(handle);
        self.auths.push(auth);
        self
    }

    /// With these parameters.
    pub fn with(mut self, parameters: Writer) -> Self {
        self.parameters = parameters.done();
        self
    }

    /// Its response begins with a handle.
    pub fn giving_handle(mut self) -> Self {
        self.gives_handle = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    /// Answers what it was told to, and remembers the codes of what it was asked.
    struct Scripted {
        answers: VecDeque<Vec<u8>>,
        asked: Arc<Mutex<Vec<u32>>>,
    }

    impl Transport for Scripted {
        fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            let code = command[6..10].try_into().unwrap();
            self.asked.lock().unwrap().push(u32::from_be_bytes(code));
            self.answers.pop_front().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn refusal(rc: u32) -> Vec<u8> {
        Writer::new().u16(0x8001).u32(10).u32(rc).done()
    }

    fn no_handles() -> Vec<u8> {
        Writer::new().u16(0x8001).u32(19).u32(0).u8(0).u32(1).u32(0).done()
    }

    fn scripted(answers: Vec<Vec<u8>>, ours: bool) -> (Result<Client, TpmError>, Vec<u32>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let transport = Scripted { answers: answers.into(), asked: asked.clone() };
        let client = Client::over(Box::new(transport), ours);
        let asked = asked.lock().unwrap().clone();
        (client, asked)
    }

    #[test]
    fn a_busy_tpm_is_asked_again_and_a_reset_one_of_ours_is_started() {
        let busy = |rc| vec![refusal(rc), refusal(rc)];
        for rc in [0x922, 0x908, 0x90a] {
            let mut answers = busy(rc);
            answers.push(refusal(0));
            let (client, asked) = scripted(answers, false);
            assert!(client.is_ok());
            assert_eq!(asked, [cc::READ_CLOCK; 3]);
        }
        let (client, asked) =
            scripted(vec![refusal(0x100), refusal(0), no_handles(), no_handles(), no_handles()], true);
        assert!(client.is_ok());
        assert_eq!(asked[..2], [cc::READ_CLOCK, cc::STARTUP]);
        let (client, asked) = scripted(vec![refusal(0x100)], false);
        assert!(matches!(client, Err(TpmError::NotStarted)), "another program's TPM was started");
        assert_eq!(asked.len(), 1);
    }

    #[test]
    fn lists_and_refusals_of_a_hostile_tpm_are_errors() {
        let endless = Writer::new().u16(0x8001).u32(19).u32(0).u8(1).u32(1).u32(u32::MAX).done();
        let (client, _) = scripted(vec![refusal(0), endless], true);
        assert!(matches!(client, Err(TpmError::Malformed { command: "GetCapability", .. })));
        let (client, _) = scripted(vec![refusal(0x101)], false);
        assert!(matches!(client, Err(TpmError::Refused { rc: Rc::FAILURE, .. })));
        let (client, _) = scripted(vec![vec![0; 3]], false);
        assert!(matches!(client, Err(TpmError::Malformed { .. })));
    }
}
