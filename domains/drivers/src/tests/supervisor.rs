//! A supervisor as the tests play it: keeps processes and tells their ends, over the real interface.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, mpsc};

use gtvp_ipc::supervisor::{Ended, Param, ProcessEvent, Request, Spawn, Spawned};
use gtvp_ipc::{Nothing, wire};
use gtvp_model::boxspec::Publish;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::ids::Slot;
use gtvp_model::topology::{ParamType, Topology};

use super::machine;

/// What becomes of a `Spawn`: something that can be killed and that ends with a code and words.
pub trait Process: Send {
    /// SIGKILL.
    fn kill(&mut self);
}

/// Makes a process; it calls the function when it ends.
pub type Spawner = dyn Fn(&Spawn, BTreeMap<String, OwnedFd>, Box<dyn FnOnce(Option<i32>, String) + Send>) -> Box<dyn Process>
    + Send
    + Sync;

/// It.
pub struct Supervisor {
    state: Mutex<State>,
    changed: Condvar,
    spawner: Box<Spawner>,
}

/// Template, slot, and what can be killed.
type Running = (String, Option<Slot>, Option<Box<dyn Process>>);

#[derive(Default)]
struct State {
    last: u64,
    running: BTreeMap<u64, Running>,
    ended: BTreeMap<u64, Ended>,
    watchers: Vec<mpsc::Sender<ProcessEvent>>,
    published: BTreeMap<Slot, Vec<Publish>>,
    spawned: Vec<String>,
}

impl Supervisor {
    /// Answers at `path`.
    pub fn start(path: &Path, spawner: Box<Spawner>) -> Arc<Self> {
        let listener = UnixListener::bind(path).unwrap();
        let supervisor = Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), spawner });
        let this = supervisor.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.unwrap());
                std::thread::spawn(move || this.serve(&stream));
            }
        });
        supervisor
    }

    /// Ports that lead to boxes.
    pub fn published(&self) -> BTreeMap<Slot, Vec<Publish>> {
        self.state.lock().unwrap().published.clone()
    }

    /// Processes that run.
    pub fn running(&self) -> Vec<String> {
        self.state.lock().unwrap().running.values().map(|(template, ..)| template.clone()).collect()
    }

    /// Templates of which a process was started, in order.
    pub fn spawned(&self) -> Vec<String> {
        self.state.lock().unwrap().spawned.clone()
    }

    fn serve(self: &Arc<Self>, stream: &UnixStream) {
        let mut tied = Vec::new();
        while let Ok(Some((json, fds))) = wire::recv(stream) {
            let request: Request = serde_json::from_slice(&json).unwrap();
            let done = match request {
                Request::Spawn(spawn) => {
                    let spawned = self.spawn(&spawn, fds);
                    if spawn.template != "qemu" {
                        tied.extend(spawned.as_ref().ok().map(|s| s.process));
                    }
                    spawned.map(|s| serde_json::to_value(s).unwrap())
                }
                Request::Wait(wait) => Ok(serde_json::to_value(self.wait(wait.process)).unwrap()),
                Request::Kill(kill) => {
                    self.kill(|template, slot| template == kill.template && slot == Some(kill.slot));
                    Ok(serde_json::to_value(Nothing {}).unwrap())
                }
                Request::SetPublished(set) => self.publish(set.slot, set.ports),
                Request::Watch(_) => return self.watch(stream),
                Request::Measurements(_) | Request::OpenKernelLogs(_) | Request::Status(_) => {
                    Err(Fault::new(FaultKind::Invalid, "not played"))
                }
            };
            let message = match done {
                Ok(value) => serde_json::json!({ "done": value }),
                Err(fault) => serde_json::json!({ "fault": fault }),
            };
            if wire::send(stream, message.to_string().as_bytes(), &[]).is_err() {
                break;
            }
        }
        for process in tied {
            self.kill_process(process);
        }
    }

    fn publish(&self, slot: Slot, ports: Vec<Publish>) -> Result<serde_json::Value, Fault> {
        let mut state = self.state.lock().unwrap();
        let taken = ports.iter().find(|p| {
            state.published.iter().any(|(s, ps)| *s != slot && ps.iter().any(|q| q.host == p.host))
        });
        if let Some(port) = taken {
            return Err(Fault::new(FaultKind::InUse, format!("port {} is in use", port.host)));
        }
        state.published.remove(&slot);
        if !ports.is_empty() {
            state.published.insert(slot, ports);
        }
        Ok(serde_json::to_value(Nothing {}).unwrap())
    }

    fn spawn(self: &Arc<Self>, spawn: &Spawn, fds: Vec<OwnedFd>) -> Result<Spawned, Fault> {
        check(spawn);
        let fds: BTreeMap<_, _> = spawn.fds.iter().cloned().zip(fds).collect();
        let mut state = self.state.lock().unwrap();
        assert!(
            spawn.slot.is_none()
                || !state.running.values().any(|(t, s, _)| *t == spawn.template && *s == spawn.slot),
            "at most one process of a template runs for a slot"
        );
        state.last += 1;
        let process = state.last;
        state.running.insert(process, (spawn.template.clone(), spawn.slot, None));
        state.spawned.push(spawn.template.clone());
        drop(state);
        let (this, template, slot) = (self.clone(), spawn.template.clone(), spawn.slot);
        let ended = Box::new(move |code, how| this.on_end(Ended { process, template, slot, code, how }));
        let handle = (self.spawner)(spawn, fds, ended);
        if let Some(entry) = self.state.lock().unwrap().running.get_mut(&process) {
            entry.2 = Some(handle);
        }
        Ok(Spawned { process, pid: 1 })
    }

    fn on_end(&self, ended: Ended) {
        let mut state = self.state.lock().unwrap();
        state.running.remove(&ended.process);
        state.watchers.retain(|w| w.send(ProcessEvent::Ended(ended.clone())).is_ok());
        state.ended.insert(ended.process, ended);
        self.changed.notify_all();
    }

    fn wait(&self, process: u64) -> Ended {
        let state = self.state.lock().unwrap();
        let state = self.changed.wait_while(state, |s| !s.ended.contains_key(&process)).unwrap();
        state.ended[&process].clone()
    }

    /// Kills what fits, and waits until it is gone.
    pub fn kill(&self, fits: impl Fn(&str, Option<Slot>) -> bool) {
        let state = self.state.lock().unwrap();
        let found: Vec<u64> =
            state.running.iter().filter(|(_, (t, s, _))| fits(t, *s)).map(|(p, _)| *p).collect();
        drop(state);
        for process in found {
            self.kill_process(process);
            self.wait(process);
        }
    }

    fn kill_process(&self, process: u64) {
        let handle = self.state.lock().unwrap().running.get_mut(&process).and_then(|r| r.2.take());
        if let Some(mut handle) = handle {
            handle.kill();
        }
    }

    fn watch(&self, stream: &UnixStream) {
        let (tell, told) = mpsc::channel();
        let mut state = self.state.lock().unwrap();
        for (process, (template, slot, _)) in &state.running {
            let event =
                ProcessEvent::Running { process: *process, template: template.clone(), slot: *slot, pid: 1 };
            tell.send(event).unwrap();
        }
        tell.send(ProcessEvent::Current).unwrap();
        state.watchers.push(tell);
        drop(state);
        for event in told {
            let message = serde_json::json!({ "progress": event }).to_string();
            if wire::send(stream, message.as_bytes(), &[]).is_err() {
                return;
            }
        }
    }
}

/// What is asked for is what topology.toml allows.
fn check(spawn: &Spawn) {
    let topology = Topology::parse(include_str!("../../../../topology.toml")).unwrap();
    let row = &topology.template[&spawn.template];
    let known = |fd: &String| {
        fd == "stderr" || row.files.contains_key(fd) || row.fds.iter().any(|f| f.trim_end_matches('?') == fd)
    };
    assert!(spawn.fds.iter().all(known), "{:?}", spawn.fds);
    assert!(row.fds.iter().all(|f| f.ends_with('?') || spawn.fds.contains(f)), "{:?}", spawn.fds);
    assert_eq!(spawn.params.keys().collect::<Vec<_>>(), row.params.keys().collect::<Vec<_>>());
    for (name, kind) in &row.params {
        let fits = match (kind, &spawn.params[name]) {
            (ParamType::Int([least, most]), Param::Int(n)) => (least..=most).contains(&n),
            (ParamType::OneOf(words), Param::Word(word)) => words.contains(word),
            (ParamType::Word(most), Param::Word(word)) => word.len() <= *most && !word.starts_with('-'),
            _ => false,
        };
        assert!(fits, "parameter {name} is {:?}", spawn.params[name]);
    }
}

/// Plays every template: mke2fs does nothing, the probe finds nothing, machines are [`machine::Played`].
pub fn played(character: machine::Character) -> Box<Spawner> {
    Box::new(move |spawn, fds, ended| match spawn.template.as_str() {
        "qemu" => Box::new(machine::Played::start(character.clone(), fds, ended)),
        "mkfs" => {
            ended(Some(0), "exit status 0".into());
            Box::new(Nobody)
        }
        "qemu-probe" => {
            ended(Some(1), "exit status 1".into());
            Box::new(Nobody)
        }
        other => panic!("no template {other}"),
    })
}

struct Nobody;
impl Process for Nobody {
    fn kill(&mut self) {}
}
