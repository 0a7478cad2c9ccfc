//! Becoming a member: the record that another member sent is checked and kept at hand, what was asked for is written down, and when the
//! record has this member it becomes this member's own, at once.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gtvp_ipc::security::LearnRecord;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::union::{RecordHead, RosterEntry, UnionId, UnionView, UnixTime};
use gtvp_protocol::csp::Keeper;
use gtvp_protocol::csp::follow::Recoveries;
use gtvp_protocol::hsp::Durable;
use gtvp_protocol::hsp::join::MAX_RECORD;
use rustix::fs::FileType;

use super::chain::{BadChain, Chain, Expected, learn};
use super::{Held, Kept, Known, Union};
use crate::platform::chain as causes;
use crate::tpm::saved;

/// What was asked for, in the state folder.
const INTENT: &str = "intent";
/// Longest: one roster entry.
const MAX_INTENT: u64 = 64 * 1024;

/// For how long an administrator's wish counts: a few enrolments, each of which ends within a minute.
const WANTED: Duration = Duration::from_secs(300);

/// What an administrator wants.
#[derive(Clone, Copy)]
struct Wanted {
    union: UnionId,
    head: RecordHead,
    since: Instant,
}

/// A record that was learned, and that is nobody's yet.
struct Learned {
    bytes: File,
    expected: Expected,
    known: Arc<Known>,
}

/// What is held of a join.
#[derive(Default)]
pub struct Joining {
    learned: Option<Learned>,
    /// The union that was asked last.
    asked: Option<UnionId>,
    wanted: Option<Wanted>,
}

impl Joining {
    /// With what was written down. What cannot be read is forgotten: it makes this server nothing.
    pub fn open(state: &Path) -> Self {
        let read = || {
            let mut bytes = Vec::new();
            File::open(state.join(INTENT)).ok()?.take(MAX_INTENT).read_to_end(&mut bytes).ok()?;
            match serde_json::from_slice(&bytes).ok()? {
                Durable::Intent { union, .. } => Some(union),
                Durable::Membership { .. } => None,
            }
        };
        Self { asked: read(), ..Self::default() }
    }

    /// What an administrator wants of this union.
    fn wanted(&self, union: UnionId) -> Result<Wanted, Fault> {
        let of = self.wanted.filter(|w| w.union == union && w.since.elapsed() < WANTED);
        of.ok_or_else(|| {
            Fault::new(FaultKind::Denied, "no administrator of this server wants it to join that union")
                .hint("gtvp join TOKEN")
        })
    }

    /// The record of this union, if it was learned.
    pub fn learned(&self, union: UnionId) -> Option<Arc<Known>> {
        self.learned.as_ref().filter(|l| l.expected.union == union).map(|l| l.known.clone())
    }
}

impl Union {
    pub(super) fn joining(&self) -> MutexGuard<'_, Joining> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An administrator wants this server to join that union, whose record has this entry.
    pub fn want(&self, union: UnionId, head: RecordHead) {
        self.joining().wanted = Some(Wanted { union, head, since: Instant::now() });
    }

    /// What a record must have beside what the other side has named: what the administrator's token names, and all that this server has of
    /// it already. A voter that was given less of its own union's record would give its word a second time.
    fn must_have(&self, wanted: Wanted, known: RecordHead) -> [RecordHead; 3] {
        [known, wanted.head, self.left(wanted.union).map_or(wanted.head, |(end, _)| end)]
    }

    /// Whether this server is joining this union: it has learned its record, or asked it to be admitted.
    pub fn joins(&self, union: UnionId) -> bool {
        // Whoever is in one union joins no other.
        if self.known().map_or(true, |known| known.is_some_and(|k| k.has_us())) {
            return false;
        }
        let joining = self.joining();
        joining.learned(union).is_some() || joining.asked == Some(union)
    }

    /// Checks a whole record and keeps it at hand.
    ///
    /// # Errors
    /// Inside: why it is not believed. Outside: `Denied` if no administrator wants it; this member's own TPM.
    pub fn learn(
        &self,
        asked: &LearnRecord,
        fds: Vec<OwnedFd>,
        now: UnixTime,
    ) -> Result<Result<Box<UnionView>, String>, Fault> {
        let own = self.own_keys()?.identity.member_id();
        let wanted = self.joining().wanted(asked.union)?;
        let bytes = match taken(fds) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(format!("it cannot be read: {e}"))),
        };
        let mut aside = self.put_aside(asked.union)?;
        let known = self.must_have(wanted, asked.known);
        let expected = Expected { union: asked.union, known, end: asked.end };
        let read = reader(&bytes).map_err(|e| BadChain::Unreadable(0, e));
        let chain = Chain::new(own, now, Recoveries::UpTo(wanted.head.number));
        let whole = read.and_then(|read| {
            let whole = learn(read, &expected, chain, |number, item| aside.see(number, item))?;
            aside.ends(asked.end.number).map(|()| whole)
        });
        Ok(match whole {
            Err(e) => Err(causes(&e)),
            Ok(whole) => {
                let known = Known::of(&whole.follower, &whole.head, &whole.book);
                let view = Box::new(known.state.view.clone());
                self.joining().learned = Some(Learned { bytes, expected, known });
                Ok(view)
            }
        })
    }

    /// Writes down what a join has come to.
    ///
    /// # Errors
    /// `Denied` if no administrator wants it; `WrongState` for what is not so; the disk's.
    pub fn keep(&self, what: &Durable, now: UnixTime) -> Result<(), Fault> {
        match what {
            Durable::Intent { union, entry, .. } => {
                if !entry.identity.same_keys(&self.own_keys()?.identity) {
                    return Err(wrong("that is an intent with other keys than this server has"));
                }
                if let Some(in_it) = self.known()?.filter(|k| k.has_us() && k.state.view.union != *union) {
                    return Err(wrong(&format!("this server is in union {}", in_it.name)));
                }
                self.joining().wanted(*union)?;
                // Before anybody admits it: it may be made a voter any time.
                self.can_count()?;
                let json = serde_json::to_vec(what).map_err(|e| cannot(&e.into()))?;
                saved::replace(&self.state, INTENT, &json).map_err(|e| cannot(&e))?;
                self.joining().asked = Some(*union);
                Ok(())
            }
            Durable::Membership { union, entry, head } => self.become_member(*union, entry, *head, now),
        }
    }

    fn become_member(
        &self,
        union: UnionId,
        entry: &RosterEntry,
        head: RecordHead,
        now: UnixTime,
    ) -> Result<(), Fault> {
        let own = self.own_keys()?.identity;
        if !entry.identity.same_keys(&own) {
            return Err(wrong("that is a membership with other keys than this server has"));
        }
        let _alone = self.writing();
        if self.is_member_of(union)? {
            return Ok(());
        }
        let learned = {
            let mut joining = self.joining();
            joining.wanted(union)?;
            joining.learned.take().filter(|l| l.expected.union == union && l.expected.end == head)
        };
        let learned = learned.ok_or_else(|| wrong("that is not the record that was learned last"))?;
        let there = learned.known.member(&entry.id()).is_some_and(|m| m.identity.same_keys(&own));
        if !there {
            return Err(wrong("the record that was learned does not have this server"));
        }
        let left = self.left(union);
        let mut expected = learned.expected;
        if let Some((end, _)) = left {
            let [known, head, _] = expected.known;
            expected.known = [known, head, end];
        }
        let mut aside = self.put_aside(union)?;
        // Once more from its bytes: whoever gave them may have changed them since. Nobody waits for the record meanwhile.
        let new = self.disk.begin(entry.id()).map_err(|e| cannot(&e))?;
        // Whoever made the token vouches for the record up to there.
        let [_, wanted, _] = expected.known;
        let chain = Chain::new(entry.id(), now, Recoveries::UpTo(wanted.number));
        let written = reader(&learned.bytes).map_err(|e| BadChain::Unreadable(0, e)).and_then(|read| {
            let whole = learn(read, &expected, chain, |number, item| {
                aside.see(number, item)?;
                new.add(number, item).map_err(|e| BadChain::Unreadable(number, e))
            })?;
            aside.ends(head.number).map(|()| whole)
        });
        let whole = written.map_err(|e| {
            Fault::new(FaultKind::Internal, "the record cannot be written down").because(causes(&e))
        })?;
        // Its word still counts.
        let promised = aside.promised(left.and_then(|(_, promised)| promised));
        let durable = promised.map_or(Ok(()), |promised| new.promise(promised)).and_then(|()| new.sync());
        durable.map_err(|e| cannot(&e))?;
        // Whatever it promised before it was admitted, this record goes further: who votes does not leave.
        self.counted(union, head.number.max(promised.map_or(0, |p| p.number)))?;
        let keeper = Keeper::new(entry.id(), whole.follower.record().clone(), promised).uncounted();
        let kept = Box::new(Kept::new(keeper, whole.head, whole.book));

        let mut held = self.held();
        let elsewhere = matches!(&*held, Held::Record(kept) if kept.known.has_us());
        if elsewhere || held.left(union) != left {
            return Err(wrong("what this server has of unions has changed meanwhile"));
        }
        new.finish().map_err(|e| cannot(&e))?;
        *held = Held::Record(kept);
        drop(held);
        self.turns.bump();
        let mut joining = self.joining();
        (joining.asked, joining.wanted) = (None, None);
        match fs::remove_file(self.state.join(INTENT)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(cannot(&e)),
            _ => Ok(()),
        }
    }

    /// Whether this server is a member of that union already: it was written down before, and not heard of.
    fn is_member_of(&self, union: UnionId) -> Result<bool, Fault> {
        let known = self.known()?.filter(|k| k.has_us());
        match known {
            Some(known) if known.state.view.union == union => Ok(true),
            Some(known) => Err(wrong(&format!("this server is in union {}", known.name))),
            None => Ok(false),
        }
    }

    /// What this server has of a union that it was in.
    fn left(&self, union: UnionId) -> Option<(RecordHead, Option<RecordHead>)> {
        self.held().left(union)
    }
}

impl Held {
    /// The end of what is held of this union, and the last promise.
    fn left(&self, union: UnionId) -> Option<(RecordHead, Option<RecordHead>)> {
        let Self::Record(kept) = self else { return None };
        let kept = Some(kept).filter(|k| k.known.state.view.union == union)?;
        Some((kept.record().view().head, kept.keeper.promised()))
    }
}

/// The one descriptor that came, if it is of memory or a file and not too long.
fn taken(fds: Vec<OwnedFd>) -> io::Result<File> {
    let fd = fds.into_iter().next().ok_or_else(|| io::Error::other("no descriptor came with it"))?;
    let about = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no descriptor of memory"));
    }
    if u64::try_from(about.st_size).map_or(true, |size| size > MAX_RECORD) {
        return Err(io::Error::other(format!("it has more than {MAX_RECORD} bytes")));
    }
    Ok(File::from(fd))
}

fn reader(bytes: &File) -> io::Result<impl Read> {
    let mut file = bytes.try_clone()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(BufReader::new(file.take(MAX_RECORD)))
}

fn wrong(why: &str) -> Fault {
    Fault::new(FaultKind::WrongState, why)
}

fn cannot(e: &io::Error) -> Fault {
    Fault::internal("it cannot be written down", e)
}
