//! The engine's table, and what has to hold in any order of events.

use super::*;

const NOW: fn() -> Instant = Instant::now;

fn welcome(state: GuestState) -> Event {
    Event::Welcome { protocol: PROTOCOL, state }
}

fn exited(code: i32) -> GuestState {
    GuestState::Exited { status: ExitStatus::Code(code) }
}

fn running() -> Life {
    let mut life = Life::new(false, NOW());
    life.on(welcome(GuestState::Waiting), NOW());
    life.on(Event::State(GuestState::Running { ready: true }), NOW());
    life
}

/// Every state, with how it is reached.
fn states() -> Vec<(&'static str, Life)> {
    let booting = Life::new(false, NOW());
    let mut configuring = booting.clone();
    configuring.on(welcome(GuestState::Waiting), NOW());
    let mut halted = running();
    halted.on(Event::Halted, NOW());
    let mut stopping = running();
    stopping.ask(Ask::Stop { grace_ms: 5 }, NOW()).unwrap();
    let mut exited_life = running();
    exited_life.on(Event::State(exited(0)), NOW());
    let mut held = Life::new(true, NOW());
    held.on(welcome(GuestState::Waiting), NOW());
    held.on(Event::State(exited(0)), NOW());
    let mut ending = running();
    ending.ask(Ask::Stop { grace_ms: 0 }, NOW()).unwrap();
    let mut refused = configuring.clone();
    refused.on(Event::State(GuestState::Failed { step: "root".into(), reason: "no".into() }), NOW());
    let mut lost = running();
    lost.on(Event::Lost("gone".into()), NOW());
    let mut gone = running();
    gone.on(Event::MachineGone("signal 9".into()), NOW());
    vec![
        ("booting", booting),
        ("configuring", configuring),
        ("running", running()),
        ("paused", halted),
        ("stopping", stopping),
        ("exited", exited_life),
        ("held", held),
        ("ending", ending),
        ("refused", refused),
        ("lost", lost),
        ("gone", gone),
    ]
}

fn said(commands: &[Command]) -> String {
    let word = |c: &Command| match c {
        Command::Progress(phase, _) => format!("progress {phase}"),
        Command::Send(message) => {
            let json = serde_json::to_value(message).unwrap();
            format!("send {}", json["type"].as_str().unwrap())
        }
        Command::Qmp(command) => format!("qmp {command:?}").to_lowercase(),
        Command::Started(Ok(())) => "started".into(),
        Command::Started(Err(fault)) => format!("not started: {fault}"),
        Command::Emit(happening) => {
            let json = serde_json::to_value(happening).unwrap();
            format!("emit {}", json["type"].as_str().unwrap())
        }
        other => format!("{other:?}").to_lowercase(),
    };
    commands.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn phase(life: &Life) -> String {
    let json = serde_json::to_value(life.phase()).unwrap();
    json["phase"].as_str().unwrap().to_owned()
}

/// Every state × every event, as a text that is kept beside this file and read in review.
#[test]
fn the_table_is_as_it_was_agreed() {
    let failed = GuestState::Failed { step: "root".into(), reason: "no such tag".into() };
    let events: Vec<(&str, Event)> = vec![
        ("welcome waiting", welcome(GuestState::Waiting)),
        ("welcome running", welcome(GuestState::Running { ready: true })),
        ("welcome exited", welcome(exited(3))),
        ("welcome of another version", Event::Welcome { protocol: 99, state: GuestState::Waiting }),
        ("state configuring", Event::State(GuestState::Configuring)),
        ("state running", Event::State(GuestState::Running { ready: false })),
        ("state ready", Event::State(GuestState::Running { ready: true })),
        ("state exited", Event::State(exited(3))),
        ("state failed", Event::State(failed)),
        ("halted", Event::Halted),
        ("resumed", Event::Resumed),
        ("lost", Event::Lost("QEMU has closed its monitor".into())),
        ("machine gone", Event::MachineGone("signal 9".into())),
        ("due", Event::Due),
    ];
    let asks = [
        ("ask stop", Ask::Stop { grace_ms: 1000 }),
        ("ask stop now", Ask::Stop { grace_ms: 0 }),
        ("ask pause", Ask::Pause),
        ("ask resume", Ask::Resume),
        ("ask cancel", Ask::Cancel),
    ];
    let mut table = String::new();
    for (name, state) in states() {
        let mut row = |event: &str, life: &Life, commands: &str| {
            table
                .push_str(&format!("{name} + {event} → {}: {commands}\n", phase(life)).replace(": \n", "\n"));
        };
        for (event_name, event) in &events {
            let mut life = state.clone();
            let commands = life.on(event.clone(), NOW());
            row(event_name, &life, &said(&commands));
        }
        for (ask_name, ask) in asks {
            let mut life = state.clone();
            let outcome = life.ask(ask, NOW());
            row(ask_name, &life, &outcome.map_or_else(|f| format!("refused: {f}"), |c| said(&c)));
        }
        table.push('\n');
    }
    if std::env::var_os("GTVP_WRITE_TABLES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine.table"), &table).unwrap();
    }
    assert!(
        table == include_str!("engine.table"),
        "the table has changed: look at the difference after GTVP_WRITE_TABLES=1"
    );
}

/// Whatever happens in whatever order: the start is answered once, the end of the application is told at most once, Gone
/// once and last, nothing is said after it, a machine that is to end has a deadline, and the record is written before
/// the guest is told that its end was noted.
#[test]
fn in_any_order_the_promises_hold() {
    let mut seed = 1u64;
    let mut random = move |n: u64| {
        // xorshift64: any order will do, the same each time.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    for run in 0..20_000 {
        let mut life = Life::new(random(2) == 0, NOW());
        let mut all = Vec::new();
        let mut trace = Vec::new();
        for step in 0..30 {
            let state = match random(5) {
                0 => GuestState::Waiting,
                1 => GuestState::Configuring,
                2 => GuestState::Running { ready: random(2) == 0 },
                3 => exited(1),
                _ => GuestState::Failed { step: "x".into(), reason: "y".into() },
            };
            let event = match random(if step == 29 { 1 } else { 12 }) {
                0 if step > 20 => Event::MachineGone("gone".into()),
                0 | 1 => welcome(state),
                2..=4 => Event::State(state),
                5 => Event::Halted,
                6 => Event::Resumed,
                7 => Event::Lost("lost".into()),
                8 if life.deadline().is_some() => Event::Due,
                _ => {
                    let ask = match random(6) {
                        0 => Ask::Stop { grace_ms: random(2) * 100 },
                        1 => Ask::Pause,
                        2 => Ask::Cancel,
                        _ => Ask::Resume,
                    };
                    trace.push(format!("{ask:?}"));
                    all.extend(life.ask(ask, NOW()).unwrap_or_default());
                    continue;
                }
            };
            trace.push(format!("{event:?}"));
            all.extend(life.on(event, NOW()));
            let ends = matches!(
                life.phase(),
                Phase::Ending { .. } | Phase::Booting | Phase::Configuring | Phase::Stopping { .. }
            );
            assert!(!ends || life.deadline().is_some(), "run {run}: no deadline after {trace:#?}");
        }
        let count = |f: &dyn Fn(&Command) -> bool| all.iter().filter(|c| f(c)).count();
        let told =
            count(&|c| matches!(c, Command::Emit(BoxHappening::Exited { .. } | BoxHappening::Died { .. })));
        let context = || format!("run {run}: {trace:#?}\n{all:#?}");
        assert_eq!(count(&|c| matches!(c, Command::Started(_))), 1, "{}", context());
        assert!(told <= 1, "{}", context());
        assert_eq!(count(&|c| matches!(c, Command::Emit(BoxHappening::Gone))), 1, "{}", context());
        let gone = all.iter().position(|c| *c == Command::Emit(BoxHappening::Gone)).unwrap();
        let after = &all[gone + 1..];
        assert!(
            !after.iter().any(|c| matches!(c, Command::Emit(_) | Command::Persist | Command::Release)),
            "{}",
            context()
        );
        if let Some(noted) = all.iter().position(|c| *c == Command::Send(ToGuest::AckExited)) {
            assert!(all[..noted].contains(&Command::Persist), "{}", context());
        }
    }
}

#[test]
fn a_box_that_was_attached_goes_on_where_it_was() {
    let attached = |phase, hold| Life::attached(phase, false, hold, NOW());
    let exited_phase = || Phase::Exited { status: ExitStatus::Code(3) };
    let mut life = attached(exited_phase(), false);
    assert_eq!(life.on(welcome(exited(3)), NOW()), [Command::Send(ToGuest::AckExited)], "it is told again");
    let mut life = attached(exited_phase(), true);
    assert_eq!(life.on(welcome(exited(3)), NOW()), [], "a held one is left alone");
    assert!(life.deadline().is_none());
    let mut life = attached(Phase::Stopping { grace_ms: 70 }, false);
    let again = life.on(welcome(GuestState::Running { ready: true }), NOW());
    assert_eq!(again, [Command::Send(ToGuest::Shutdown { grace_ms: 70 })]);
    let mut life = attached(Phase::Running { ready: false }, false);
    let ended = life.on(welcome(exited(3)), NOW());
    assert!(ended.contains(&Command::Emit(BoxHappening::Exited { status: ExitStatus::Code(3) })));
}
