//! Strangers who connect again and again, members that ask for files, and a member's quote: counted in the commands that the TPM was given.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gtvp_model::union::TpmClass;
use gtvp_security::attest::{Asked, answer};
use gtvp_security::others::Others;
use gtvp_security::platform::Platform;
use gtvp_security::tpm::actor::Tpm;
use gtvp_security::tpm::client::TpmError;
use gtvp_security::tpm::codes::cc;
use gtvp_security::tpm::lanes::STRANGERS;
use gtvp_security::tpm::pcrs::{Bank, Selection};
use gtvp_security::tpm::tls::{CertificateVerify, Role};
use gtvp_security::tpm::transport::Address;
use played::SoftwareTpm;

/// Between the actor and its TPM: it notes each command, and holds them while it is closed.
#[derive(Default)]
struct Gate {
    commands: Mutex<Vec<u32>>,
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }

    fn commands(&self) -> Vec<u32> {
        self.commands.lock().unwrap().clone()
    }

    fn pass(&self, from: &mut UnixStream, to: &mut UnixStream) -> std::io::Result<()> {
        loop {
            let command = message(from)?;
            self.commands.lock().unwrap().push(u32::from_be_bytes(command[6..10].try_into().unwrap()));
            drop(self.opened.wait_while(self.closed.lock().unwrap(), |closed| *closed).unwrap());
            to.write_all(&command)?;
            from.write_all(&message(to)?)?;
        }
    }
}

fn message(from: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 10];
    from.read_exact(&mut bytes)?;
    let size = u32::from_be_bytes(bytes[2..6].try_into().unwrap()) as usize;
    bytes.resize(size, 0);
    from.read_exact(&mut bytes[10..])?;
    Ok(bytes)
}

fn between(tpm: &SoftwareTpm) -> (Arc<Gate>, PathBuf) {
    let (place, behind) = (tpm.folder.join("gate.sock"), tpm.folder.join("tpm.sock"));
    let listener = UnixListener::bind(&place).unwrap();
    let gate = Arc::new(Gate::default());
    let passes = gate.clone();
    thread::spawn(move || {
        let (mut from, _) = listener.accept().unwrap();
        let mut to = UnixStream::connect(Path::new(&behind)).unwrap();
        // It ends when the actor does.
        let _ = passes.pass(&mut from, &mut to);
    });
    (gate, place)
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How many signatures the TPM makes before a quote that is asked for when `flood` handshakes of this side wait, and how many of these
/// were refused.
fn before_a_quote(role: Role, flood: usize) -> (usize, usize) {
    let tpm = SoftwareTpm::start();
    let (gate, socket) = between(&tpm);
    let actor = Tpm::start(Address::Software { socket, uid: None }, tpm.state()).unwrap();
    actor.state().unwrap();
    gate.close(true);
    let handshake = |actor: Tpm| move || actor.sign_tls(CertificateVerify::new(role, vec![7; 32]).unwrap());
    let begun = gate.commands().len();
    let first = thread::spawn(handshake(actor.clone()));
    until("the first is at the TPM", || gate.commands().len() > begun);
    let rest: Vec<_> = (1..flood).map(|_| thread::spawn(handshake(actor.clone()))).collect();
    let most = if role == Role::Server { STRANGERS } else { flood - 1 };
    until("the others wait", || {
        let (own, _, strangers) = actor.waiting();
        own + strangers == most.min(flood - 1)
    });
    if role == Role::Server {
        until("whoever is too many is refused", || {
            rest.iter().filter(|t| t.is_finished()).count() == (flood - 1).saturating_sub(STRANGERS)
        });
    }
    let own = actor.waiting().0;
    let asks = actor.clone();
    let quote = thread::spawn(move || {
        asks.evidence(Selection::new(Bank::Sha256, [14]).unwrap(), vec![1; 32], 0).unwrap();
    });
    until("the quote waits", || actor.waiting().0 > own);
    gate.close(false);
    quote.join().unwrap();
    first.join().unwrap().unwrap();
    let outcomes: Vec<_> = rest.into_iter().map(|t| t.join().unwrap()).collect();
    let refused = outcomes.iter().filter(|o| matches!(o, Err(TpmError::Busy))).count();
    assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(TpmError::Busy))));
    let commands = gate.commands();
    let quoted = commands.iter().position(|c| *c == cc::QUOTE).unwrap();
    (commands[begun..quoted].iter().filter(|c| **c == cc::SIGN).count(), refused)
}

#[test]
fn a_flood_of_strangers_holds_a_quote_up_by_one_command() {
    let flood = STRANGERS + 10;
    assert_eq!(before_a_quote(Role::Server, flood), (1, flood - 1 - STRANGERS));
    // Control: as many handshakes that this member wants itself all come first.
    assert_eq!(before_a_quote(Role::Client, flood), (flood, 0));
}

/// Whether a quote that is asked for after a file comes before it.
fn before_a_file(for_member: bool) -> bool {
    let tpm = SoftwareTpm::start();
    let (gate, socket) = between(&tpm);
    let actor = Tpm::start(Address::Software { socket, uid: None }, tpm.state()).unwrap();
    actor.state().unwrap();
    gate.close(true);
    let begun = gate.commands().len();
    thread::scope(|scope| {
        scope.spawn(|| actor.sign_tls(CertificateVerify::new(Role::Client, vec![7; 32]).unwrap()).unwrap());
        until("a command is at the TPM", || gate.commands().len() > begun);
        scope.spawn(|| {
            let (platform, others) =
                (Platform::of(TpmClass::Software, Some(actor.clone())), Others::default());
            let (state, nonce) = (tpm.state(), "07".repeat(16));
            let others = for_member.then_some(&others);
            answer(&Asked {
                platform: &platform,
                manifests: &Vec::new,
                state: &state,
                nonce: &nonce,
                others,
            })
            .unwrap();
        });
        until("the file waits", || actor.waiting() == if for_member { (0, 1, 0) } else { (1, 0, 0) });
        scope.spawn(|| actor.evidence(Selection::new(Bank::Sha256, [14]).unwrap(), vec![1; 32], 0).unwrap());
        until("the quote waits", || actor.waiting().0 > usize::from(!for_member));
        gate.close(false);
    });
    let commands = gate.commands();
    // Whoever makes a file looks at the TPM's clock first.
    let place = |code| commands[begun..].iter().position(|c| *c == code).unwrap();
    place(cc::QUOTE) < place(cc::READ_CLOCK)
}

#[test]
fn a_file_for_another_member_comes_after_whatever_this_one_owes() {
    assert!(before_a_file(true));
    assert!(!before_a_file(false), "control: a person's of this member comes in its turn");
}
